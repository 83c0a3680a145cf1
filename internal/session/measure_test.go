package session

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// lossy is a conn on which datagrams that leave may be lost: a share of them,
// or those above a rate in bytes a second.
type lossy struct {
	dgram.Conn
	random *rand.Rand

	mu     sync.Mutex
	share  float64
	rate   float64
	budget float64
	at     time.Time
	extra  int
}

func (l *lossy) set(share, rate float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.share, l.rate, l.at, l.budget = share, rate, time.Now(), 0
}

func (l *lossy) loses(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate > 0 {
		now := time.Now()
		l.budget = min(l.budget+l.rate*now.Sub(l.at).Seconds(), l.rate/10)
		l.at = now
		if l.budget < float64(n) {
			return true
		}
		l.budget -= float64(n)
	}
	return l.random.Float64() < l.share
}

func (l *lossy) Write(b dgram.Burst) error {
	for d := range b.All() {
		if l.loses(len(d)) {
			continue
		}
		if err := l.Conn.Write(dgram.One(b.Addr, d)); err != nil {
			return err
		}
	}
	return nil
}

func (l *lossy) cost(extra int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.extra = extra
}

// Extra is what datagrams cost beyond UDP's (dgram.Heavier).
func (l *lossy) Extra(_ netip.AddrPort) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.extra
}

// degrade makes one path of the pair lose what both sides send.
func (p *pair) degrade(i int, share, rate float64) {
	p.a.conns[i].(*lossy).set(share, rate)
	p.b.conns[i].(*lossy).set(share, rate)
}

// load sends n datagrams of 1000 bytes from a, one each gap.
func (p *pair) load(n int, gap time.Duration) {
	for i := range n {
		p.a.Send(5, dgram.One(netip.AddrPort{}, numbered(uint32(i), 1000)))
		time.Sleep(gap)
	}
}

// loadUntil is load that ends when data takes a path of that kind.
func (p *pair) loadUntil(n int, gap time.Duration, best path.Kind) {
	for ; n > 0 && p.a.Best() != best; n-- {
		p.load(1, gap)
	}
}

func (e *end) saw(v Event) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.events, v)
}

// S0-19
func TestLossyPathLosesToACleanOneOfALowerKindWithHysteresis(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		p.load(1000, 2*time.Millisecond)
		if p.a.Best() != path.DirectUDP || p.a.saw(Degraded) {
			t.Fatalf("on a clean path, data takes %v, events %v", p.a.Best(), p.a.events)
		}
		p.degrade(0, 0.2, 0)
		p.load(5000, 2*time.Millisecond)
		if p.a.Best() != path.RelayUDP || !p.a.saw(Degraded) || !p.a.saw(Outdone) {
			t.Fatalf("10 s after 20 %% were lost, data takes %v, events %v", p.a.Best(), p.a.events)
		}
		v := p.a.Outdone()
		if v.Kind != path.DirectUDP || v.Instead != path.RelayUDP || v.Loss < 0.1 || v.Loss > 0.3 || v.InsteadLoss > 0.02 {
			t.Errorf("the verdict is %+v", v)
		}
		if text := v.String(); !strings.Contains(text, "relay-udp had 0.0 % lost") {
			t.Errorf("the verdict says %q", text)
		}
		// Still bad: it is measured now and then, and data stays.
		moves := p.count(BestChanged)
		p.load(12000, 10*time.Millisecond)
		if p.a.Best() != path.RelayUDP || p.count(BestChanged) != moves {
			t.Fatalf("data moved to %v while the path was still bad (%d moves)", p.a.Best(), p.count(BestChanged)-moves)
		}
		p.degrade(0, 0, 0)
		p.loadUntil(26000, 10*time.Millisecond, path.DirectUDP)
		if p.a.Best() != path.DirectUDP {
			t.Fatalf("after the path got better, data still takes %v", p.a.Best())
		}
	})
}

func (p *pair) count(v Event) (n int) {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	for _, e := range p.a.events {
		if e == v {
			n++
		}
	}
	return n
}

// S0-19: capped at 1 Mbit/s.
func TestCappedPathLosesToOneWithoutACap(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		p.degrade(0, 0, 1e6/8)
		p.load(5000, 2*time.Millisecond) // 4 Mbit/s
		if p.a.Best() != path.RelayUDP {
			t.Fatalf("10 s of 4 Mbit/s over a path capped at 1 Mbit/s, and data takes %v", p.a.Best())
		}
	})
}

func TestBothPathsBadLeaveTheChoiceToTheKind(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		p.degrade(0, 0.2, 0)
		p.degrade(1, 0.2, 0)
		p.load(15000, 2*time.Millisecond)
		if p.a.saw(Outdone) || !p.a.saw(Degraded) {
			t.Fatalf("with 20 %% lost on both, the events are %v; %v", p.a.events, p.a.Outdone())
		}
	})
}

func (e *end) asked() uint64 {
	e.Session.mu.Lock()
	defer e.Session.mu.Unlock()
	return e.probes.counter
}

func TestIdleSessionMeasuresNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(400*time.Millisecond)) // beyond the threshold
		p.try(t, 0)
		p.try(t, 1)
		time.Sleep(time.Minute)
		before := p.a.asked()
		time.Sleep(10 * time.Minute)
		if n := p.a.asked() - before; n > 250 {
			t.Errorf("%d probes and answers in 10 idle minutes", n)
		}
	})
}

// S0-14
func TestServiceMTUIsTwelveLessOnFakeTCP(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		for i := range 2 {
			p.a.conns[1].(*lossy).cost(12)
			p.b.conns[1].(*lossy).cost(12)
			p.try(t, i)
		}
		p.load(1000, 2*time.Millisecond)
		got := fmt.Sprint(p.a.Paths()[0].MTU, p.a.Paths()[1].MTU)
		if got != "1452 1440" {
			t.Errorf("service MTUs of the best and the spare, 12 bytes dearer: %s", got)
		}
		p.a.conns[0].(*lossy).cost(12) // it had cost none, and lost that
		p.load(1000, 2*time.Millisecond)
		if got := p.a.Paths()[0].MTU; got != 1440 {
			t.Errorf("service MTU of a path that became dearer: %d", got)
		}
	})
}

// S0-20: of a path that loses 5 %, real TCP would only make delay.
func TestStreamIsWorthItAgainstMuchLossOnly(t *testing.T) {
	s := New(Config{})
	for _, c := range []struct {
		kind path.Kind
		loss float64
		rtt  time.Duration
		want bool
	}{
		{path.DirectFakeTCP, 0.06, 40 * time.Millisecond, true},
		{path.DirectTCP, 0.06, 40 * time.Millisecond, false},
		{path.DirectTCP, 0.2, 40 * time.Millisecond, true},
		{path.DirectTCP, 0.2, 90 * time.Millisecond, false}, // it loses as well, and sends again
		{path.RelayTLS, 0.2, 45 * time.Millisecond, true},
		{path.RelayUDP, 0.2, 90 * time.Millisecond, true},
	} {
		best := &state{kind: path.DirectUDP}
		best.answer.rtt, best.answer.loss.loss, best.answer.loss.high = 40*time.Millisecond, c.loss, badMeasures
		st := &state{kind: c.kind}
		st.trial.rtt = c.rtt
		if got := s.beats(st, best); got != c.want {
			t.Errorf("%v with a round trip of %v against 40ms and %.0f %% lost: %v", c.kind, c.rtt, 100*c.loss, got)
		}
	}
}
