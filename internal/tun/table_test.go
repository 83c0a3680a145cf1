package tun

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

var start = time.Unix(1_800_000_000, 0)

func span(t *testing.T, s string) Span {
	t.Helper()
	p, err := ParseSpan(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func from(addr string) path.Path { return path.Path{Addr: netip.MustParseAddrPort(addr)} }

// S1-03, S1-15
func TestEachAddressAndPortHasOneInsideAddress(t *testing.T) {
	c := NewClients(span(t, DefaultSpan4), span(t, DefaultSpan6))
	seen := map[netip.Addr]string{}
	for range 3 {
		for _, addr := range []string{"192.0.2.1:1000", "192.0.2.1:1001", "192.0.2.2:1000", "[2001:db8::1]:1000", "[2001:db8::2]:1000"} {
			inside, ok := c.Source(start, from(addr))
			if !ok || inside.Is6() != (addr[0] == '[') {
				t.Fatalf("%s has the inside address %v", addr, inside)
			}
			if who, taken := seen[inside]; taken && who != addr {
				t.Errorf("%s and %s are both %v", who, addr, inside)
			}
			seen[inside] = addr
			if way, ok := c.Route(start, inside); !ok || way != from(addr) {
				t.Errorf("%v leads to %v, want %s", inside, way, addr)
			}
		}
	}
	if len(seen) != 5 || c.Len() != 5 {
		t.Errorf("%d inside addresses, and %d entries, for 5", len(seen), c.Len())
	}
}

// S1-07
func TestNobodyIsBehindAnUnknownAddress(t *testing.T) {
	c := NewClients(span(t, DefaultSpan4), Span{})
	inside, _ := c.Source(start, from("192.0.2.1:1000"))
	for _, to := range []netip.Addr{inside.Next(), b4, a6, {}} {
		if way, ok := c.Route(start, to); ok {
			t.Errorf("%v leads to %v", to, way)
		}
	}
	if inside, ok := c.Source(start, from("[2001:db8::1]:1000")); ok {
		t.Errorf("without a range of IPv6 there is %v", inside)
	}
}

// S1-04
func TestAnEntryEndsAfterFiveMinutesOfSilence(t *testing.T) {
	for name, refresh := range map[string]func(c *Clients, now time.Time, inside netip.Addr){
		"received": func(c *Clients, now time.Time, _ netip.Addr) { c.Source(now, from("192.0.2.1:1000")) },
		"sent":     func(c *Clients, now time.Time, inside netip.Addr) { c.Route(now, inside) },
	} {
		c := NewClients(span(t, DefaultSpan4), Span{})
		inside, _ := c.Source(start, from("192.0.2.1:1000"))
		now := start
		for range 10 {
			now = now.Add(Lifetime - time.Second)
			refresh(c, now, inside)
		}
		if _, ok := c.Route(now.Add(Lifetime+time.Second), inside); ok {
			t.Errorf("%s: the entry outlives its silence", name)
		}
		if again, ok := c.Route(now.Add(Lifetime-time.Second), inside); !ok {
			t.Errorf("%s: the entry ended while it was refreshed: %v", name, again)
		}
		other, _ := c.Source(now.Add(3*Lifetime), from("192.0.2.1:1000"))
		if other == inside || c.Len() != 1 {
			t.Errorf("%s: after its end the address %v is used again at once; %d entries", name, other, c.Len())
		}
	}
}

// A flood of addresses that are never answered does not push out who is.
func TestAFullTableForgetsWhoWasNeverAnswered(t *testing.T) {
	c := NewClients(span(t, "10.0.0.0/24"), Span{})
	friend, _ := c.Source(start, from("192.0.2.1:1"))
	c.Route(start, friend)
	for i := range 10000 {
		now := start.Add(time.Duration(i) * time.Millisecond)
		if inside, ok := c.Source(now, from(fmt.Sprintf("192.0.2.2:%d", i+1))); !ok || inside == friend {
			t.Fatalf("stranger %d is %v", i, inside)
		}
	}
	if way, ok := c.Route(start.Add(time.Minute), friend); !ok || way != from("192.0.2.1:1") {
		t.Errorf("the friend is gone: %v", way)
	}
	if c.Len() != 253 {
		t.Errorf("%d entries in a range with room for 253", c.Len())
	}
}

func TestSpans(t *testing.T) {
	for _, c := range []struct {
		span, own, first, last string
		peers                  int
	}{
		{"198.19.0.0/16", "198.19.0.1/16", "198.19.0.2", "198.19.255.254", 65533},
		{"10.0.0.8/29", "10.0.0.9/29", "10.0.0.10", "10.0.0.14", 5},
		{"10.0.0.8/30", "10.0.0.9/30", "10.0.0.10", "10.0.0.10", 1},
		{"fd00::/126", "fd00::1/126", "fd00::2", "fd00::3", 2},
		{"fd00:1:2:3::/64", "fd00:1:2:3::1/64", "fd00:1:2:3::2", "fd00:1:2:3::100:1", mostPeers},
		{"10.0.3.0/8", "10.0.0.1/8", "10.0.0.2", "10.255.255.254", 1<<24 - 3},
	} {
		s := span(t, c.span)
		if s.peers() != c.peers || s.Own().String() != c.own || s.Peer(0).String() != c.first || s.Peer(s.peers()-1).String() != c.last {
			t.Errorf("%s: own %v, %d peers from %v to %v; want %+v", c.span, s.Own(), s.peers(), s.Peer(0), s.Peer(s.peers()-1), c)
		}
	}
	for _, bad := range []string{"", "10.0.0.1", "10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "127.0.0.0/8", "224.0.0.0/8", "fe80::/64", "::ffff:10.0.0.0/112"} {
		if s, err := ParseSpan(bad); err == nil {
			t.Errorf("%q is taken for %v", bad, s)
		}
	}
}

// Whatever comes, no two ways have one inside address, and each leads back to
// who has it.
func TestTableProperty(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	g := NewGuests(span(t, "10.0.0.0/28"), span(t, "fd00::/125"), nil)
	conn := &fakeConn{}
	now := start
	for range 20000 {
		now = now.Add(time.Duration(rnd.IntN(60)) * time.Second)
		way := path.Path{Conn: conn, Addr: netip.AddrPortFrom(a4, uint16(1+rnd.IntN(30)))}
		m := message{kind: hello, six: rnd.IntN(2) == 1, id: ID{byte(rnd.IntN(20))}}
		g.Tell(now, way, m.append(nil))
		inside, ok := g.Source(now, way)
		if !ok || inside.Is6() != m.six {
			t.Fatalf("who said %+v is %v", m, inside)
		}
		if back, ok := g.Route(now, inside); !ok || back != way {
			t.Fatalf("%v leads to %v, want %v", inside, back, way)
		}
		table := g.table
		if len(table.byWho) != len(table.byInside) || len(table.byWay) > len(table.byWho) || table.pools[0].used+table.pools[1].used != len(table.byWho) {
			t.Fatalf("%d, %d, %d entries, %d and %d in use", len(table.byWho), len(table.byInside), len(table.byWay), table.pools[0].used, table.pools[1].used)
		}
		for i := range table.pools {
			if p := &table.pools[i]; p.recent[0].Len()+p.recent[1].Len() != p.used || p.used > p.most {
				t.Fatalf("%d of %d in use, %d and %d in the lists", p.used, p.most, p.recent[0].Len(), p.recent[1].Len())
			}
		}
	}
}

// S1-10
func TestFixedPeersKeepTheirAddresses(t *testing.T) {
	four, six := &fakeConn{local: netip.MustParseAddrPort("0.0.0.0:4000")}, &fakeConn{local: netip.MustParseAddrPort("[::]:4000")}
	f := NewFixed(4001, four, six)
	for _, c := range []struct {
		addr string
		conn dgram.Conn
	}{{"203.0.113.10", four}, {"10.1.1.1", four}, {"2001:db8::10", six}} {
		a := netip.MustParseAddr(c.addr)
		want := path.Path{Conn: c.conn, Addr: netip.AddrPortFrom(a, 4001)}
		if way, ok := f.Route(start, a); !ok || way != want {
			t.Errorf("%s leads to %v, want %v", c.addr, way, want)
		}
		if inside, ok := f.Source(start, want); !ok || inside != a {
			t.Errorf("%s is %v inside", c.addr, inside)
		}
		if inside, ok := f.Source(start, path.Path{Conn: c.conn, Addr: netip.AddrPortFrom(a, 4002)}); ok {
			t.Errorf("%v is heard from another port", inside)
		}
	}
	for _, a := range []string{"127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "ff02::1", "fe80::1"} {
		addr := netip.MustParseAddr(a)
		if way, ok := f.Route(start, addr); ok {
			t.Errorf("%s leads to %v", a, way)
		}
		if _, ok := f.Source(start, path.Path{Conn: four, Addr: netip.AddrPortFrom(addr, 4001)}); ok {
			t.Errorf("%s is heard", a)
		}
	}
}
