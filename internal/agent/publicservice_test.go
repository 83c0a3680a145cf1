package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/forward"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// S1-14, S1-16, S3-22: with ?alias the service sees each client by an address of
// its own, whatever port the client's NAT gives it.
func TestPublicClientsHaveAliases(t *testing.T) {
	t.Parallel()
	for _, tells := range []time.Duration{0, 300 * time.Millisecond, -1} {
		bubble.Test(t, func(t *testing.T) {
			r := newPublicTrip(t, "udp://"+serviceAt+"?raw&alias&public=51820")
			r.said.onEvent(func(m *proto.ToAgent) []*proto.ToAgent {
				if m.GetPublicClient() == nil {
					return []*proto.ToAgent{m}
				}
				if tells >= 0 {
					time.AfterFunc(tells, func() { r.said.say(m) })
				}
				return nil
			})
			host := r.lab.Host("phone", "192.0.2.1")
			first, moved := listen(t, host, "0.0.0.0:0", false), listen(t, host, "0.0.0.0:0", false)
			other := r.phone(2)
			for i, p := range []*station{first, moved, other} {
				p.send(publicAt, []byte{byte(i)})
			}
			time.Sleep(2 * time.Second)
			var from [3]netip.Addr
			for _, a := range r.service.arrivals() {
				from[a.data[0]] = a.from.Addr()
			}
			switch {
			case len(r.service.sources()) != 3:
				t.Fatalf("told after %v: the service saw %v", tells, r.service.sources())
			case !forward.AliasRange.Contains(from[0]) || from[0] != from[1]:
				t.Errorf("told after %v: two ports of one address come from %v", tells, from[:2])
			case tells >= 0 && from[2] == from[0]:
				t.Errorf("two addresses come from %v", from[0])
			}
			for i, p := range []*station{first, moved, other} {
				if got := p.arrivals(); len(got) != 1 {
					t.Errorf("told after %v: client %d got %d answers", tells, i, len(got))
				}
			}
		})
	}
}

// S3-17: a service's name is looked up for each new client, once for those that
// come together, and again for one that it leaves without answer.
func TestServiceThatMovesIsFoundAgain(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var at atomic.Pointer[netip.Addr]
		var asked atomic.Int64
		old, next := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
		at.Store(&old)
		r := newPublicTrip(t, "udp://wg.lan:51820?raw&public=51820", spares(8), func(c *Config) {
			c.Host.Resolve = func(ctx context.Context, host string) (netip.Addr, error) {
				asked.Add(1)
				path.Wait(ctx, 100*time.Millisecond)
				if p := at.Load(); p != nil {
					return *p, nil
				}
				return netip.Addr{}, errors.New("no such host")
			}
		})
		var phones []*station
		for n := range 5 {
			phones = append(phones, r.phone(n+1))
			phones[n].send(publicAt, []byte("1"))
			phones[n].send(publicAt, []byte("2"))
		}
		time.Sleep(time.Second)
		if got := len(r.service.arrivals()); got != 10 || asked.Load() != 1 {
			t.Errorf("%d of 10 datagrams arrived, after %d look-ups; those of the look-up wait", got, asked.Load())
		}
		_ = r.service.conn.Close()
		at.Store(&next)
		service := listen(t, r.homeHost, "127.0.0.2:51820", true)
		s := startStream(phones[0], publicAt, time.Second)
		time.Sleep(15 * time.Second)
		s.end()
		if got := len(service.arrivals()); got < 3 {
			t.Errorf("%d datagrams reached the service at its new address", got)
		}
		at.Store(nil)
		stranger := r.phone(100)
		stranger.send(publicAt, []byte("nobody there"))
		time.Sleep(time.Second)
		at.Store(&next)
		time.Sleep(2 * time.Second)
		stranger.send(publicAt, []byte("is back"))
		time.Sleep(time.Second)
		if got := stranger.arrivals(); len(got) != 1 || r.home.Status().Counters["public-no-service"] != 1 {
			t.Errorf("%d answers; counters %v", len(got), r.home.Status().Counters)
		}
	})
}
