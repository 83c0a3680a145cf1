package session

import (
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// Of many shots the one that hits becomes a path; the others are remembered no
// longer than an answer may take.
func TestShotThatHitsBecomesAPath(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false, natlab.Delay(10*time.Millisecond))
		to := p.addr(1, 0)
		for i := range 200 {
			at := netip.AddrPortFrom(to.Addr(), to.Port()+uint16(i))
			if err := p.a.Shoot(path.Path{Conn: p.a.conns[0], Addr: at}, kindOf(0)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Millisecond)
		if all := p.a.Paths(); len(all) != 1 || all[0].Path.Addr != to {
			t.Errorf("paths: %+v", all)
		}
		if got := p.a.counts.dropped[dropBadProbe].Load(); got != 0 {
			t.Errorf("%d answers counted as bad", got)
		}
		time.Sleep(time.Minute)
		p.a.Session.mu.Lock()
		defer p.a.Session.mu.Unlock()
		if n := len(p.a.probes.shots); n != 0 {
			t.Errorf("%d shots are remembered", n)
		}
	})
}
