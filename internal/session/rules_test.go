package session

import (
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

var (
	onlyFake  = path.KindsOf(path.DirectFakeTCP)
	fakeRelay = path.KindsOf(path.DirectFakeTCP, path.RelayUDP)
)

// came is how many datagrams of services and frames came to b over its i-th conn.
func (p *pair) came(i int) uint64 {
	p.b.Session.mu.Lock()
	defer p.b.Session.mu.Unlock()
	if st := p.b.paths.states[path.Path{Conn: p.b.conns[i], Addr: p.addr(0, i)}]; st != nil {
		return st.rx
	}
	return 0
}

// loadOver is load under a rule; it counts what was refused.
func (p *pair) loadOver(only path.Kinds, n int, gap time.Duration) (refused int) {
	for i := range n {
		if !p.a.SendOver(only, 6, dgram.One(netip.AddrPort{}, numbered(uint32(i), 1000))) {
			refused++
		}
		time.Sleep(gap)
	}
	return refused
}

// S0-25
func TestRuleTakesTheBestPathOfItsKindsWhileOtherDataTakesTheBestOfAll(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 3, false, natlab.Delay(10*time.Millisecond))
		for i := range 3 {
			p.try(t, i)
		}
		for range 500 {
			p.load(1, time.Millisecond)
			if p.loadOver(onlyFake, 1, time.Millisecond) > 0 {
				t.Fatal("refused, with a path of that kind")
			}
		}
		time.Sleep(time.Second)
		if direct, relay, fake := p.came(0), p.came(1), p.came(2); direct < 500 || direct > 505 || relay > 1 || fake != 500 {
			t.Errorf("%d came over direct-udp, %d over relay-udp, %d over direct-faketcp", direct, relay, fake)
		}
		if loss := p.a.Paths()[0].Loss; loss > 0.02 || p.a.saw(Degraded) {
			t.Errorf("data that takes another path counts as lost: %v, %v", loss, p.a.events)
		}
	})
}

// S0-25: a rule's path that is lost is waited for; no other kind is taken.
func TestRuleWithoutAPathRefusesAndTellsWhatIsMissing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 3, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		if n := p.loadOver(onlyFake, 100, 10*time.Millisecond); n != 100 || p.a.Serves(onlyFake) {
			t.Fatalf("%d of 100 were refused without such a path", n)
		}
		if p.count(Starved) != 1 || p.a.Starving() != onlyFake {
			t.Errorf("events %v, starving for %q", p.a.events, p.a.Starving())
		}
		if p.loadOver(onlyFake, 2000, 10*time.Millisecond); p.count(Starved) != 3 {
			t.Errorf("in 21 s it was told %d times", p.count(Starved))
		}
		p.try(t, 2)
		if !p.a.saw(Served) || p.loadOver(onlyFake, 100, 10*time.Millisecond) > 0 || p.a.Starving() != 0 {
			t.Fatalf("a path came, and events are %v", p.a.events)
		}
		time.Sleep(time.Second)
		before := p.count(Starved)
		p.degrade(2, 1, 0)
		p.loadOver(onlyFake, 500, 10*time.Millisecond)
		if p.a.Serves(onlyFake) || p.count(Starved) == before {
			t.Errorf("5 s after the path was cut, events are %v", p.a.events)
		}
		p.degrade(2, 0, 0)
		time.Sleep(2 * time.Second)
		if n := p.loadOver(onlyFake, 100, 10*time.Millisecond); n > 0 {
			t.Errorf("the path healed, and %d of 100 were refused", n)
		}
		if udp := p.came(0); udp > 5 {
			t.Errorf("%d datagrams came over direct-udp", udp)
		}
		if drops := p.a.Counts().Dropped; drops["no-path"] > 0 {
			t.Errorf("what the caller holds counts as dropped: %v", drops)
		}
	})
}

// A path that is in doubt gets copies on another that the rule allows, and on
// no other.
func TestRuleMovesWithinItsKinds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 3, false, natlab.Delay(10*time.Millisecond))
		for i := range 3 {
			p.try(t, i)
		}
		p.loadOver(fakeRelay, 200, 10*time.Millisecond)
		p.degrade(2, 1, 0)
		p.loadOver(fakeRelay, 500, 10*time.Millisecond)
		time.Sleep(time.Second)
		direct, relay, fake := p.came(0), p.came(1), p.came(2)
		if fake < 190 || relay < 400 || direct > 5 {
			t.Errorf("%d came over direct-faketcp, then %d over relay-udp; %d over direct-udp", fake, relay, direct)
		}
		if p.a.Best() != path.DirectUDP {
			t.Errorf("other data takes %v", p.a.Best())
		}
	})
}

func TestRuleIsForgottenWhenNothingIsSentUnderIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 3, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 2)
		p.loadOver(onlyFake, 10, 10*time.Millisecond)
		time.Sleep(ruleIdle / 2)
		if !p.a.Serves(onlyFake) {
			t.Error("a rule in use is forgotten")
		}
		time.Sleep(ruleIdle)
		if p.a.Serves(onlyFake) {
			t.Error("a rule out of use is kept")
		}
		if n := p.loadOver(onlyFake, 10, 10*time.Millisecond); n > 0 {
			t.Errorf("%d of 10 were refused afterwards", n)
		}
		p.a.Close()
		if p.a.SendOver(onlyFake, 6, dgram.One(netip.AddrPort{}, []byte("x"))) || p.a.SendOver(fakeRelay, 6, dgram.One(netip.AddrPort{}, []byte("x"))) {
			t.Error("a session that has ended carries data")
		}
	})
}

func TestFrameObeysTheRuleOfItsDatagram(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 3, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		f := &proto.Frame{Body: &proto.Frame_Open{Open: &proto.Open{Flow: 1, Payload: []byte("x")}}}
		if p.a.SendFrameOver(onlyFake, f) || !p.a.SendFrameOver(0, f) {
			t.Error("a frame left without a path of its kinds, or with no rule did not")
		}
		p.try(t, 2)
		if !p.a.SendFrameOver(onlyFake, f) {
			t.Error("a frame did not leave")
		}
		time.Sleep(time.Second)
		if p.came(2) != 1 {
			t.Errorf("%d came over direct-faketcp", p.came(2))
		}
	})
}

// A size that a rule's path does not carry is found for it as for the best.
func TestRulesPathHasASizeOfItsOwn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 3, false, natlab.Delay(10*time.Millisecond))
		p.a.conns[2].(*lossy).cost(12)
		p.b.conns[2].(*lossy).cost(12)
		p.try(t, 0)
		p.try(t, 2)
		p.loadOver(onlyFake, 1000, 5*time.Millisecond)
		rl := p.a.rules[onlyFake].Load()
		if mtu := rl.route.Load().mtu; mtu != 1460 {
			t.Errorf("datagrams of up to %d bytes cross the rule's path", mtu)
		}
	})
}
