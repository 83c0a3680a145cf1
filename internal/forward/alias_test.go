package forward

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
)

func take(t *testing.T, a *Aliases, c Client) netip.Addr {
	t.Helper()
	addr, err := a.Take(c)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// S1-14, S1-16: a client has one address, whatever its port and however many
// flows it has, as long as it uses it and 5 minutes more.
func TestAliasStaysItsClients(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a := NewAliases()
		laptop, phone := Client{Peer: "laptop"}, Client{Addr: netip.MustParseAddr("198.51.100.7")}
		first := take(t, a, laptop)
		if !AliasRange.Contains(first) {
			t.Errorf("%v is not in %v", first, AliasRange)
		}
		other := take(t, a, phone)
		if other == first {
			t.Errorf("both clients have %v", first)
		}
		if again := take(t, a, laptop); again != first {
			t.Errorf("the second flow has %v, the first %v", again, first)
		}
		a.Release(laptop)
		time.Sleep(time.Hour)
		if c, ok := a.Who(first); !ok || c != laptop {
			t.Errorf("%v is used and belongs to %v, %v", first, c, ok)
		}
		a.Release(laptop)
		time.Sleep(aliasKept - time.Second)
		if again := take(t, a, laptop); again != first {
			t.Errorf("%v became %v within 5 minutes", first, again)
		}
		a.Release(laptop)
		time.Sleep(aliasKept)
		if _, ok := a.Who(first); ok {
			t.Errorf("%v is remembered after 5 minutes", first)
		}
		a.Release(laptop) // once too often does no harm
		if again := take(t, a, laptop); again != first {
			t.Errorf("%v became %v though nobody else had it: the address follows from the name", first, again)
		}
	})
}

// S1-14: no two clients ever have one address, and the table is bounded.
func TestAliasesAreUniqueAndBounded(t *testing.T) {
	a := NewAliases()
	r := rand.New(rand.NewPCG(1, 2))
	living := map[netip.Addr]Client{}
	for n := range maxAliases {
		c := Client{Addr: netip.AddrFrom4([4]byte{198, byte(n >> 16), byte(n >> 8), byte(n)})}
		addr := take(t, a, c)
		if who, ok := living[addr]; ok {
			t.Fatalf("%v and %v both have %v", who, c, addr)
		}
		if last := addr.As4()[3]; last == 0 || last == 255 || !AliasRange.Contains(addr) {
			t.Fatalf("%v is no address for a client", addr)
		}
		living[addr] = c
	}
	if _, err := a.Take(Client{Peer: "one too many"}); err == nil {
		t.Error("a client got an address though all are in use")
	}
	for _, c := range living {
		if r.IntN(2) == 0 {
			a.Release(c)
		}
	}
	for n := range 1000 {
		take(t, a, Client{Peer: fmt.Sprint(n)})
	}
	if len(a.byClient) > maxAliases || len(a.byAddr) != len(a.byClient) {
		t.Errorf("%d clients, %d addresses; at most %d", len(a.byClient), len(a.byAddr), maxAliases)
	}
}

// S1-14: all flows of a peer to a service with ?alias come from one loopback
// address, and are told apart by port; those of a service without from 127.0.0.1.
func TestFlowsComeFromThePeersAlias(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		aliases := NewAliases()
		p := newPair(t, func(p *pair) {
			p.expose("wg", "udp://"+serviceAddr+"?alias")
			p.homeConfig.Aliases, p.homeConfig.Peer = aliases, "laptop"
		})
		service := listen(t, p.homeNet, serviceAddr, true)
		d := p.dial("wg")
		for _, client := range []string{"127.0.0.1:1001", "127.0.0.1:1002"} {
			listen(t, p.laptopNet, client, false).send(d.Addr(), "hello")
		}
		settle()
		_, from := service.take()
		if len(from) != 2 || from[0].Addr() != from[1].Addr() || from[0].Port() == from[1].Port() || !AliasRange.Contains(from[0].Addr()) {
			t.Fatalf("the service saw %v; want two ports of one address in %v", from, AliasRange)
		}
		if who, _ := aliases.Who(from[0].Addr()); who.Peer != "laptop" {
			t.Errorf("%v belongs to %v", from[0].Addr(), who)
		}
		p.tick(10 * time.Minute)
		if _, held := aliases.Who(from[0].Addr()); held {
			t.Errorf("%v is kept without flows", from[0].Addr())
		}
	})
}

// An alias is refused where the service's name leads elsewhere than to this
// host's loopback.
func TestAliasNeedsALoopbackService(t *testing.T) {
	aliases := NewAliases()
	for _, service := range []string{"192.0.2.1:1", "[::1]:1"} {
		if far, err := Before(newNet(), addr(service), aliases, Client{Peer: "laptop"}); err == nil {
			t.Errorf("%s: a socket at %v", service, far.Conn.LocalAddr())
		}
	}
	n := newNet()
	n.failing(fmt.Errorf("no such address here"))
	if _, err := Before(n, addr(serviceAddr), aliases, Client{Peer: "laptop"}); err == nil {
		t.Error("no error where the address can't be bound")
	}
	if len(aliases.byClient) != 1 || aliases.unused.Len() != 1 {
		t.Error("the address of a socket that was not opened stays in use")
	}
}
