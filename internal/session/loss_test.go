package session

import (
	"math"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

func TestLossMeter(t *testing.T) {
	type answer struct{ sent, received uint64 }
	for name, c := range map[string]struct {
		answers []answer
		pauseAt int // before that answer
		loss    float64
		high    int
	}{
		"the first answer only begins":        {answers: []answer{{1000, 10}}},
		"half is lost":                        {answers: []answer{{0, 0}, {100, 50}}, loss: 0.5, high: 1},
		"too few to say":                      {answers: []answer{{0, 0}, {49, 0}}},
		"few and few make enough":             {answers: []answer{{0, 0}, {49, 0}, {50, 25}}, loss: 0.5, high: 1},
		"in a row":                            {answers: []answer{{0, 0}, {100, 50}, {200, 100}, {300, 150}}, loss: 0.5, high: 3},
		"a good one ends the row":             {answers: []answer{{0, 0}, {100, 50}, {200, 150}}, loss: 0, high: 0},
		"an overload is no fault of the path": {answers: []answer{{0, 0}, {100_000, 40_000}, {200_000, 80_000}}, loss: 0.6},
		"below the threshold":                 {answers: []answer{{0, 0}, {100, 96}}, loss: 0.04, high: 0},
		"copies of the other path came too":   {answers: []answer{{0, 0}, {100, 130}}, loss: 0},
		"the peer forgot the path meanwhile":  {answers: []answer{{0, 0}, {100, 100}, {200, 10}, {300, 110}}, loss: 0},
		"what was lost while it forgot":       {answers: []answer{{0, 0}, {100, 50}, {200, 10}}, loss: 0.5, high: 1},
		"a pause begins anew and keeps a row": {answers: []answer{{0, 0}, {100, 50}, {200, 50}, {300, 100}}, pauseAt: 2, loss: 0.5, high: 2},
	} {
		t.Run(name, func(t *testing.T) {
			var m lossMeter
			now := time.Now()
			for i, a := range c.answers {
				if c.pauseAt > 0 && i == c.pauseAt {
					m.pause()
				}
				now = now.Add(time.Second)
				m.answered(now, a.sent, a.received, 0.05)
			}
			if math.Abs(m.loss-c.loss) > 1e-9 || m.high != c.high {
				t.Errorf("loss %v, %d in a row; want %v, %d", m.loss, m.high, c.loss, c.high)
			}
		})
	}
}

func TestLossMeterKnowsTheRate(t *testing.T) {
	var m lossMeter
	now := time.Now()
	m.answered(now, 0, 0, 0.05)
	m.answered(now.Add(400*time.Millisecond), 200, 200, 0.05)
	if m.rate != 500 {
		t.Errorf("200 datagrams in 0.4 s are %v a second", m.rate)
	}
}

// What is lost on one path is not laid to the other.
func TestLossIsMeasuredOfEachPath(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		p.load(500, 2*time.Millisecond)
		time.Sleep(time.Second)
		rx := func(i int) uint64 {
			p.b.mu.Lock()
			defer p.b.mu.Unlock()
			p.b.Session.mu.Lock()
			defer p.b.Session.mu.Unlock()
			return p.b.paths.states[path.Path{Conn: p.b.conns[i], Addr: p.addr(0, i)}].rx
		}
		if direct, relay := rx(0), rx(1); direct < 500 || relay > 1 {
			t.Errorf("of 500 datagrams and a greeting %d came on the path they took, and %d on the spare", direct, relay)
		}
	})
}

func TestStrikesDoubleTheWaitUpToTheMost(t *testing.T) {
	var o outdone
	now := time.Now()
	for i, want := range []time.Duration{30, 60, 120, 240, 480, 600, 600, 600} {
		o.strike(now)
		if got := o.until.Sub(now); got != want*time.Second || !o.is {
			t.Errorf("strike %d waits %v, want %v", i+1, got, want*time.Second)
		}
	}
	o.strikes = 1 << 40 // no wait overflows
	if o.strike(now); o.until.Sub(now) != outdoneMost {
		t.Errorf("after very many strikes the wait is %v", o.until.Sub(now))
	}
}

func TestThresholdsDefaultOneByOne(t *testing.T) {
	got := Thresholds{Loss: 0.2}.withDefaults()
	if got.Loss != 0.2 || got.RTT != 700*time.Millisecond {
		t.Errorf("thresholds with a loss alone are %+v", got)
	}
}

// A raw session has no keys to count by.
func TestRawSessionMeasuresTooAndLeavesALossyPath(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, true, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		p.load(1000, 2*time.Millisecond)
		if loss := p.a.Paths()[0].Loss; loss > 0.01 || p.a.saw(Degraded) {
			t.Fatalf("on a clean path %v is lost, events %v", loss, p.a.events)
		}
		p.degrade(0, 0.2, 0)
		p.load(5000, 2*time.Millisecond)
		if v := p.a.Outdone(); p.a.Best() != path.RelayUDP || v.Loss < 0.1 || v.Loss > 0.3 {
			t.Fatalf("10 s after 20 %% were lost raw data takes %v; the verdict is %+v", p.a.Best(), v)
		}
	})
}

// The best path dies in the middle of the trial of its spare, and the spare
// that was measured expires: neither is data left without a path, nor does a
// verdict on a path that is gone come late.
func TestPathsMayEndWhileTheyAreMeasured(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		p.load(500, 2*time.Millisecond)
		p.degrade(0, 0.2, 0)
		relay := path.Path{Conn: p.a.conns[1], Addr: p.addr(1, 1)}
		for range 1000 {
			p.load(5, 2*time.Millisecond)
			p.a.Session.mu.Lock()
			st := p.a.paths.states[relay]
			running := st != nil && st.trial.running()
			p.a.Session.mu.Unlock()
			if running {
				break
			}
		}
		p.degrade(1, 1, 0) // or a probe on its way would bring it back
		time.Sleep(100 * time.Millisecond)
		p.a.Drop(relay)
		p.b.Drop(path.Path{Conn: p.b.conns[1], Addr: p.addr(0, 1)})
		p.load(2000, 2*time.Millisecond)
		if p.a.Best() != path.DirectUDP || p.a.saw(Outdone) {
			t.Fatalf("the spare ended in its trial; data takes %v, events %v", p.a.Best(), p.a.events)
		}
		p.degrade(1, 0, 0)
		p.try(t, 1)
		p.degrade(0, 1, 0) // dead
		p.load(2000, 2*time.Millisecond)
		if p.a.Best() != path.RelayUDP {
			t.Fatalf("the best died while its spare was measured, and data takes %v", p.a.Best())
		}
		p.load(20000, 2*time.Millisecond) // its consent ends
		if n := len(p.a.Paths()); n != 1 {
			t.Errorf("%d paths are left: %+v", n, p.a.Paths())
		}
		if v := p.a.Outdone(); !v.At.IsZero() && !strings.Contains(v.String(), "relay-udp had") {
			t.Errorf("the verdict is %+v", v)
		}
	})
}
