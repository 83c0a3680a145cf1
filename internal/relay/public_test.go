package relay

import (
	"errors"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// publicTable is a Server with one promised allocation, and a public port's
// conn.
type publicTable struct {
	*table
	door  *fakeConn
	terms Terms
	told  []proto.Token
}

var (
	doorAddr  = addr("203.0.113.10:51820")
	phoneAddr = addr("192.0.2.50:33000")
)

func newPublicTable(t *testing.T, l Limits) *publicTable {
	t.Helper()
	p := &publicTable{table: newTable(t, l), door: &fakeConn{addr: doorAddr}}
	p.terms = Terms{Member: "home", Keepalive: 25 * time.Second, Changed: func(id proto.Token) { p.told = append(p.told, id) }}
	p.promise()
	return p
}

func (p *publicTable) promise() {
	p.t.Helper()
	a, err := p.Promise(time.Now(), &p.terms)
	if err != nil {
		p.t.Fatal(err)
	}
	p.alloc = a
}

func (p *publicTable) wantTold(n int) {
	p.t.Helper()
	if len(p.told) != n {
		p.t.Errorf("%d changes were told, want %d", len(p.told), n)
	}
	p.told = nil
}

func (p *publicTable) wantReady(bound, alive bool) {
	p.t.Helper()
	if b, a := p.Ready(p.alloc.ID); b != bound || a != alive {
		p.t.Errorf("the leg is bound %v and alive %v, want %v and %v", b, a, bound, alive)
	}
}

// S3-01, S3-05, S3-07: a client's burst crosses at once and whole, and so do
// the answers.
func TestPublicLegForwards(t *testing.T) {
	p := newPublicTable(t, Limits{})
	p.wantReady(false, true)
	p.from(homeAddr, p.bindOf(0))
	p.wantReady(true, true)
	p.wantTold(1)
	to, bounds := p.bounds()
	if len(to) != 1 || bounds[0].Both {
		t.Fatalf("a spare's bind was answered %v", bounds)
	}

	c := p.Attach(p.alloc.ID, p.door, phoneAddr)
	if c == nil {
		t.Fatal("no client could be attached")
	}
	if again := p.Attach(p.alloc.ID, p.door, otherAddr); again != nil {
		t.Error("a leg took a second client")
	}
	c.Forward(time.Now(), dgram.Burst{Addr: phoneAddr, Buf: []byte("aaabbbc"), Size: 3})
	if sent := p.conn.take(); len(sent) != 1 || sent[0].Size != 3 || string(sent[0].Buf) != "aaabbbc" || sent[0].Addr != homeAddr {
		t.Errorf("a client's burst went on as %v", sent)
	}
	p.from(homeAddr, []byte("answer"))
	if sent := p.door.take(); len(sent) != 1 || sent[0].Addr != phoneAddr || string(sent[0].Buf) != "answer" {
		t.Errorf("an answer went as %v", sent)
	}
	if client, service := c.Used(); client.IsZero() || service.IsZero() {
		t.Error("nothing was noted of their use")
	}
	p.from(homeAddr, p.bindOf(0)) // and a refresh is answered to the agent alone
	if to, bounds := p.bounds(); len(to) != 1 || !bounds[0].Both {
		t.Errorf("a refresh was answered %v to %v", bounds, to)
	}
	if sent := p.door.take(); len(sent) != 0 {
		t.Errorf("a client was sent %v", sent)
	}
}

// Nothing is kept for a client who is not there yet: he did not ask for it.
func TestSpareSendsToNobody(t *testing.T) {
	p := newPublicTable(t, Limits{})
	p.from(homeAddr, p.bindOf(0))
	p.from(homeAddr, []byte("early"))
	c := p.Attach(p.alloc.ID, p.door, phoneAddr)
	if sent := p.door.take(); len(sent) != 0 {
		t.Errorf("the client was sent %q", sent[0].Buf)
	}
	c.Forward(time.Now(), dgram.One(phoneAddr, []byte("hello")))
	if sent := p.door.take(); len(sent) != 0 {
		t.Errorf("the client was sent %q", sent[0].Buf)
	}
	p.wantDrops(otherUnbound, 1)
}

func TestNobodyBindsAClientsLeg(t *testing.T) {
	p := newPublicTable(t, Limits{})
	p.from(homeAddr, p.bindOf(0))
	p.conn.take()
	forged := p.alloc
	forged.Keys[1] = [32]byte{}
	p.from(otherAddr, makeBind(forged, 1, 1))
	p.wantDrops(badMAC, 1)
	if p.alloc.Keys[1] != [32]byte{} {
		t.Error("the promise gives the key of the client's leg away")
	}
	if len(p.conn.take()) != 0 {
		t.Error("a forged bind was answered")
	}
}

// S3-09, S3-11: a leg ends its keepalive and ten seconds after its last bind.
func TestPublicLegLapses(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicTable(t, Limits{})
		p.from(homeAddr, p.bindOf(0))
		c := p.Attach(p.alloc.ID, p.door, phoneAddr)
		for range 3 {
			time.Sleep(25 * time.Second)
			p.Expire(time.Now())
			p.wantReady(true, true)
			p.from(homeAddr, p.bindOf(0))
		}
		p.told = nil
		time.Sleep(34 * time.Second)
		p.Expire(time.Now())
		p.wantReady(true, true)
		time.Sleep(time.Second)
		p.Expire(time.Now())
		p.wantReady(false, false)
		p.wantTold(1)
		p.conn.take()
		c.Forward(time.Now(), dgram.One(phoneAddr, []byte("late")))
		if sent := p.conn.take(); len(sent) != 0 {
			t.Errorf("an ended leg was sent %v", sent)
		}
		p.from(homeAddr, p.bindOf(0))
		if _, bounds := p.bounds(); len(bounds) != 1 || !bounds[0].Gone {
			t.Errorf("a late bind was answered %v, want that it is gone", bounds)
		}
	})
}

func TestSpareNeverBound(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicTable(t, Limits{})
		time.Sleep(30 * time.Second)
		p.Expire(time.Now())
		p.wantReady(false, false)
		p.wantTold(1)
	})
}

// What a client sends while its leg changes its address waits for it.
func TestPublicLegOverStreams(t *testing.T) {
	p := newPublicTable(t, Limits{})
	p.from(homeAddr, p.bindOf(0))
	c := p.Attach(p.alloc.ID, p.door, phoneAddr)
	p.told = nil
	p.Gone(p.conn, homeAddr)
	p.wantTold(1)
	p.wantReady(false, true)
	p.conn.take()
	c.Forward(time.Now(), dgram.One(phoneAddr, []byte("wait")))
	p.from(otherAddr, p.bindOf(0))
	p.wantTold(1)
	sent := p.conn.take()
	if len(sent) != 2 || string(sent[1].Buf) != "wait" || sent[1].Addr != otherAddr {
		t.Errorf("what waited went as %v", sent)
	}
	if n := len(p.door.take()); n != 0 {
		t.Errorf("the client was sent %d datagrams of the relay's own", n)
	}
}

func TestPublicLimits(t *testing.T) {
	p := newPublicTable(t, Limits{Allocations: 1, PerMember: 1, Public: 2})
	p.promise() // those of agents are counted apart
	if _, err := p.Promise(time.Now(), &p.terms); !errors.Is(err, ErrLimited) || !strings.Contains(err.Error(), "public") {
		t.Errorf("the third promise gave %v", err)
	}
	p.Release(time.Now(), p.alloc.ID)
	p.wantReady(false, false)
	if n := len(p.conn.take()); n != 0 {
		t.Errorf("a leg that was never bound was sent %d datagrams", n)
	}
	p.promise()
	p.from(homeAddr, p.bindOf(0))
	p.conn.take()
	p.Release(time.Now(), p.alloc.ID)
	if to, bounds := p.bounds(); len(to) != 1 || to[0] != homeAddr || !bounds[0].Gone {
		t.Errorf("a release was told by %v", bounds)
	}
	p.told = nil
	p.promise()
	p.Remove(time.Now(), "home")
	if st := p.Stats(); st.Allocations != 0 || st.Public != 0 || len(p.members) != 0 {
		t.Errorf("after the member was removed: %+v", st)
	}
	p.wantTold(2)
}

func TestPublicRate(t *testing.T) {
	p := newPublicTable(t, Limits{})
	p.terms.Datagrams = 100
	p.from(homeAddr, p.bindOf(0))
	c := p.Attach(p.alloc.ID, p.door, phoneAddr)
	for range 200 {
		c.Forward(time.Now(), dgram.One(phoneAddr, []byte("x")))
	}
	if n := p.Stats().Drops["over-rate"]; n < 100 {
		t.Errorf("of 200 at once at 100 a second, %d were dropped", n)
	}
}
