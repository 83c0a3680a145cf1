package agent

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// S3-07: what a client sends while its way to the service is opened waits, up to
// a bound, and arrives in its order; what does not is counted.
func TestFirstDatagramsWaitInOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		count, size int
		pace        time.Duration
	}{{100, 100, 5 * time.Millisecond}, {300, 1400, 100 * time.Microsecond}} {
		bubble.Test(t, func(t *testing.T) {
			r := newPublicTrip(t, "udp://wg.lan:51820?raw&public=51820", func(cfg *Config) {
				cfg.Host.Resolve = func(ctx context.Context, _ string) (netip.Addr, error) {
					path.Wait(ctx, 300*time.Millisecond)
					return netip.MustParseAddr("127.0.0.1"), nil
				}
			})
			phone := r.phone(1)
			for n := range c.count {
				d := make([]byte, c.size)
				binary.BigEndian.PutUint32(d, uint32(n))
				phone.send(publicAt, d)
				time.Sleep(c.pace)
			}
			time.Sleep(time.Second)
			got := r.service.arrivals()
			for i, a := range got {
				if n := binary.BigEndian.Uint32(a.data); n != uint32(i) {
					t.Fatalf("datagram %d arrived as the %dth", n, i)
				}
			}
			kept := min(c.count, firstBytes/c.size)
			if dropped := r.home.Status().Counters["public-no-service"]; len(got) != kept || dropped != uint64(c.count-kept) {
				t.Errorf("of %d datagrams of %d bytes %d arrived, and %d are counted as dropped", c.count, c.size, len(got), dropped)
			}
		})
	}
}
