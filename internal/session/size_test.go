package session

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// road is a path in the eyes of a sizeSearch: it passes up to limit bytes, and
// loses a share of the round trips.
type road struct {
	z      sizeSearch
	now    time.Time
	limit  int
	loss   float64
	random *rand.Rand
	sent   int
}

func newRoad(limit int, loss float64) *road {
	r := &road{z: newSizeSearch(0), now: time.Unix(0, 0), limit: limit, loss: loss, random: rand.New(rand.NewPCG(5, 6))}
	r.z.begin(r.now)
	return r
}

// run lets d pass with traffic and returns the share of it at full size.
func (r *road) run(d time.Duration) float64 {
	const rtt = 20 * time.Millisecond
	end, full := r.now.Add(d), time.Duration(0)
	for r.now.Before(end) {
		for _, size := range r.z.next(r.now, rtt, true) {
			r.sent++
			if size <= r.limit && r.random.Float64() >= r.loss {
				r.z.answered(size, r.now.Add(rtt))
			}
		}
		if r.z.mtu == r.limit {
			full += 10 * time.Millisecond
		}
		r.now = r.now.Add(10 * time.Millisecond)
	}
	return float64(full) / float64(d)
}

func TestSizeIsFoundKeptAndFoundAgain(t *testing.T) {
	r := newRoad(1472, 0)
	r.run(time.Second)
	if r.z.mtu != 1472 {
		t.Errorf("found %d bytes", r.z.mtu)
	}
	r.limit = 1272 // a tunnel on the way now; no ICMP says so
	r.run(5 * time.Second)
	if r.z.mtu != 1252 {
		t.Errorf("5 s after the path shrank: %d bytes", r.z.mtu)
	}
	r.limit = 1472
	r.run(time.Minute)
	if r.z.mtu != 1472 {
		t.Errorf("a minute after it grew again: %d bytes", r.z.mtu)
	}
	r.sent = 0
	r.run(time.Hour)
	if perMinute := r.sent / 60; perMinute > 30 {
		t.Errorf("%d probes of full size a minute", perMinute)
	}
}

func TestSizeDoesNotTakeLossForASmallPath(t *testing.T) {
	r := newRoad(1472, 0.2)
	if full := r.run(time.Hour); full < 0.99 {
		t.Errorf("20 %% loss: at full size for %.3f of the time", full)
	}
	r = newRoad(1472, 0.36)
	if full := r.run(time.Hour); full < 0.7 {
		t.Errorf("36 %% loss: at full size for %.3f of the time", full)
	}
}

func TestSmallPathIsFoundAndLargeDatagramsAreSplit(t *testing.T) {
	for _, raw := range []bool{false, true} {
		bubble.Test(t, func(t *testing.T) {
			p := newPair(t, 1, raw, natlab.MTU(1400))
			p.try(t, 0)
			time.Sleep(3 * time.Second)
			if mtu := p.a.Paths()[0].MTU; mtu != service(1372, raw) {
				t.Errorf("raw %v: service MTU %d, want %d", raw, mtu, service(1372, raw))
			}
			p.a.Send(1, dgram.One(netip.AddrPort{}, numbered(1, 1452)))
			time.Sleep(time.Second)
			if want := map[bool]int{false: 1, true: 0}[raw]; len(p.b.received()) != want {
				t.Errorf("raw %v: %d datagrams arrived, want %d", raw, len(p.b.received()), want)
			}
		})
	}
}
