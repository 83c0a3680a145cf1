package session

import (
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// outdone makes a pair whose direct path loses a fifth, and was left for it.
func outdonePair(t *testing.T) *pair {
	t.Helper()
	p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
	p.try(t, 0)
	p.try(t, 1)
	p.degrade(0, 0.2, 0)
	p.load(5000, 2*time.Millisecond)
	if p.a.Best() != path.RelayUDP || !p.a.saw(Outdone) {
		t.Fatalf("10 s after 20 %% were lost, data takes %v, events %v", p.a.Best(), p.a.events)
	}
	return p
}

// dropDirect forgets the direct path on both sides, as when its consent ends.
func (p *pair) dropDirect() {
	p.a.Drop(path.Path{Conn: p.a.conns[0], Addr: p.addr(1, 0)})
	p.b.Drop(path.Path{Conn: p.b.conns[0], Addr: p.addr(0, 0)})
}

// S0-19: punches found a bad path again and again, and data flapped.
func TestOutdonePathThatIsFoundAgainMustShowThatItIsBetter(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := outdonePair(t)
		moves := p.count(BestChanged)
		for range 5 {
			p.dropDirect()
			p.try(t, 0)
			p.load(1000, 10*time.Millisecond)
			if p.a.Best() != path.RelayUDP {
				t.Fatalf("data moved to %v, which was just left for its loss", p.a.Best())
			}
		}
		if n := p.count(BestChanged); n != moves {
			t.Errorf("data moved %d times", n-moves)
		}
		p.degrade(0, 0, 0)
		p.dropDirect()
		p.try(t, 0)
		p.loadUntil(12000, 10*time.Millisecond, path.DirectUDP)
		if p.a.Best() != path.DirectUDP {
			t.Fatalf("two minutes after the network got better, data still takes %v", p.a.Best())
		}
		p.dropDirect()
		p.try(t, 0)
		p.load(100, 2*time.Millisecond)
		if p.a.Best() != path.DirectUDP {
			t.Errorf("its trial was good, and yet the next of its kind begins behind %v", p.a.Best())
		}
	})
}

func TestOutdonePathIsTakenWhereThereIsNoOther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := outdonePair(t)
		p.dropDirect()
		p.try(t, 0)
		p.a.Drop(path.Path{Conn: p.a.conns[1], Addr: p.addr(1, 1)})
		if p.a.Best() != path.DirectUDP {
			t.Errorf("only the direct path is left, and data takes %v", p.a.Best())
		}
	})
}

func TestWhatWasOutdoneIsForgottenInTimeAndInAnotherNetwork(t *testing.T) {
	for name, pass := range map[string]func(p *pair){
		"in time":            func(*pair) { time.Sleep(outdoneMost + time.Second) },
		"in another network": func(p *pair) { p.a.Check() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				p := outdonePair(t)
				p.dropDirect()
				pass(p)
				p.try(t, 0)
				if p.a.Best() != path.DirectUDP {
					t.Errorf("data takes %v", p.a.Best())
				}
			})
		})
	}
}
