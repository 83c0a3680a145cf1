package natlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// puncher is one side of a hole punching: it probes the other's predicted
// address every 20 ms from its start on.
type puncher struct {
	conn  dgram.Conn
	peer  netip.AddrPort
	start time.Duration
	prime time.Duration // how long before its start it sends a low-TTL datagram; 0: not
	heard time.Duration // when the first datagram came; 0: never
}

const primeTTL = 4

// run punches for 2 s.
func (p *puncher) run(t *testing.T, begin time.Time) {
	if p.prime > 0 {
		time.Sleep(time.Until(begin.Add(p.start - p.prime)))
		if err := p.conn.(dgram.TTLWriter).WriteTTL(dgram.One(p.peer, proto.Prime()), primeTTL); err != nil {
			t.Error(err)
		}
	}
	time.Sleep(time.Until(begin.Add(p.start)))
	for range 100 {
		if err := p.conn.Write(dgram.One(p.peer, []byte{0x81})); err != nil {
			t.Error(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *puncher) listen(t *testing.T, begin time.Time) {
	var a dgram.Arena
	defer a.Release()
	if err := p.conn.SetReadDeadline(begin.Add(3 * time.Second)); err != nil {
		t.Error(err)
	}
	_, err := p.conn.Read(&a)
	switch {
	case err == nil:
		p.heard = time.Since(begin)
	case !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed):
		t.Error(err)
	}
}

func punch(t *testing.T, sides ...*puncher) {
	begin := time.Now().Add(time.Second) // room for what is sent before the start
	var g sync.WaitGroup
	for _, p := range sides {
		g.Go(func() { p.run(t, begin) })
		g.Go(func() { p.listen(t, begin) })
	}
	g.Wait()
}

// The table was measured between network namespaces with Linux's masquerade:
// one-way delay 10 ms, A starts first, B's router is hit first.
func TestPoisonClass(t *testing.T) {
	const ms = time.Millisecond
	rows := []struct {
		name        string
		router      Behaviour // of B
		prime, skew time.Duration
		ok          bool
	}{
		{"both drop", Home(), 0, 0, true},
		{"both drop", Home(), 0, 20 * ms, true},
		{"both drop", Home(), 0, 100 * ms, true},
		{"accept", Poisonable(), 0, 0, true},
		{"accept", Poisonable(), 0, 9 * ms, true},
		{"accept", Poisonable(), 0, 20 * ms, false},
		{"accept", Poisonable(), 0, 100 * ms, false},
		{"accept, primed early", Poisonable(), 150 * ms, 0, true},
		{"accept, primed early", Poisonable(), 150 * ms, 20 * ms, true},
		{"accept, primed early", Poisonable(), 150 * ms, 100 * ms, true},
		{"accept, primed late", Poisonable(), 20 * ms, 0, true},
		{"accept, primed late", Poisonable(), 20 * ms, 20 * ms, true},
		{"accept, primed late", Poisonable(), 20 * ms, 100 * ms, false},
	}
	for _, row := range rows {
		t.Run(fmt.Sprintf("%s, skew %v", row.name, row.skew), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				a := &puncher{conn: behind(t, l, "a", "198.51.100.1", Home()), peer: netip.MustParseAddrPort("198.51.100.2:4000")}
				b := &puncher{conn: behind(t, l, "b", "198.51.100.2", row.router), peer: netip.MustParseAddrPort("198.51.100.1:4000")}
				b.start, b.prime = row.skew, row.prime
				punch(t, a, b)
				switch {
				case !row.ok && (a.heard != 0 || b.heard != 0):
					t.Errorf("A heard B after %v, B heard A after %v, want neither", a.heard, b.heard)
				case row.ok && a.heard != row.skew+10*ms:
					t.Errorf("A heard B after %v, want half a round trip after the later start, %v", a.heard, row.skew+10*ms)
				case row.ok && b.heard == 0:
					t.Error("B never heard A")
				}
				if row.prime > 0 && l.Dropped(DropTTL) != 1 {
					t.Errorf("%d datagrams expired, want the one that primed", l.Dropped(DropTTL))
				}
			})
		})
	}
}

// behind is a socket with port 4000 on a host behind a router, 5 ms from the
// internet.
func behind(t *testing.T, l *Lab, name, addr string, b Behaviour) dgram.Conn {
	t.Helper()
	r := l.NAT(name+"-router", addr, b, Delay(5*time.Millisecond))
	return listen(t, r.Host(name, "192.168.1.2", Delay(0)), "0.0.0.0:4000")
}

// Each further probe refreshes the entry; 30 s of silence or a new local port
// cures it.
func TestPoisonLastsWhileProbed(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Poisonable())
		send(t, b.s11, "198.51.100.1:4000", "early")
		time.Sleep(time.Second)
		if got := seen(t, b.inside, b.s11); got.Port() == 4000 {
			t.Fatal("the entry did not take the port")
		}
		for range 5 { // our flow expires meanwhile, the poison is kept alive
			time.Sleep(29 * time.Second)
			send(t, b.s11, "198.51.100.1:4000", "again")
		}
		time.Sleep(29 * time.Second)
		if got := seen(t, b.inside, b.s11); got.Port() == 4000 {
			t.Error("probes did not keep the entry alive")
		}
		fresh := listen(t, b.home, "0.0.0.0:4001")
		if got := seen(t, fresh, b.s11); got.Port() != 4001 {
			t.Errorf("another local port is not free: %v", got)
		}
		time.Sleep(31 * time.Second)
		if got := seen(t, b.inside, b.s11); got.Port() != 4000 {
			t.Errorf("after 30 s of silence the port is %d", got.Port())
		}
		if l.Dropped(DropAccepted) != 6 {
			t.Errorf("the router accepted %d datagrams, want 6", l.Dropped(DropAccepted))
		}
	})
}

// Other destinations keep the preserved port only if they had it already:
// Linux gives later ones the port that the clash brought.
func TestPoisonTouchesOnlyThatPeer(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Poisonable())
		before := seen(t, b.inside, b.s21)
		send(t, b.s11, "198.51.100.1:4000", "early") // to a mapped port, from a stranger
		time.Sleep(time.Second)
		poisoned := seen(t, b.inside, b.s11)
		if poisoned == before {
			t.Error("the stranger's datagram did not take the port")
		}
		if after := seen(t, b.inside, b.s21); after != before {
			t.Errorf("an established flow moved from %v to %v", before, after)
		}
		if later := seen(t, b.inside, b.s12); later != poisoned {
			t.Errorf("a later destination got %v, want %v again", later, poisoned)
		}
	})
}

func TestTTL(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		carrier := l.NAT("carrier", "198.51.100.1", Carrier())
		home := carrier.NAT("router", "100.64.0.2", Home()).Host("home", "192.168.1.2")
		peer := l.Host("peer", "203.0.113.10")
		c, p := listen(t, home, "0.0.0.0:4000"), listen(t, peer, "0.0.0.0:443")
		// Two NATs and three routers: 6 is the least that arrives.
		for ttl, place := range map[int]string{1: "router", 2: "carrier", 3: "internet", 5: "internet", 6: "peer"} {
			w := c.(dgram.TTLWriter)
			if err := w.WriteTTL(dgram.One(netip.MustParseAddrPort("203.0.113.10:443"), []byte("x")), ttl); err != nil {
				t.Fatal(err)
			}
			got, _ := receive(t, p)
			records := l.Records()
			if last := records[len(records)-1]; last.Place != place || (got != "") != (place == "peer") {
				t.Errorf("TTL %d ended at %s (%s), want %s", ttl, last.Place, last.Reason, place)
			}
		}
		if l.Dropped(DropTTL) != 4 {
			t.Errorf("%d expired, want 4", l.Dropped(DropTTL))
		}
	})
}
