package natlab

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
)

// seen sends a datagram from c to server and gives the address that it came
// from.
func seen(t *testing.T, c, server dgram.Conn) netip.AddrPort {
	t.Helper()
	sendTo(t, c, server.LocalAddr(), "map")
	got, from := receive(t, server)
	if got != "map" {
		t.Fatalf("%v received %q, want what %v sent", server.LocalAddr(), got, c.LocalAddr())
	}
	return from
}

var rules = []Rule{EndpointIndependent, AddressDependent, AddressAndPortDependent}

// bench is a host behind a NAT, and servers on two public addresses.
type bench struct {
	nat            *NAT
	home           *Host
	inside         dgram.Conn
	s11, s12, s21  dgram.Conn // address, port
	server, second *Host
}

func newBench(t *testing.T, l *Lab, b Behaviour) *bench {
	t.Helper()
	server := l.Host("server", "203.0.113.10")
	second := l.Host("second", "203.0.113.20")
	nat := l.NAT("router", "198.51.100.1", b)
	home := nat.Host("home", "192.168.1.2")
	return &bench{
		nat: nat, home: home, inside: listen(t, home, "0.0.0.0:4000"), server: server, second: second,
		s11: listen(t, server, "203.0.113.10:1000"),
		s12: listen(t, server, "203.0.113.10:2000"),
		s21: listen(t, second, "203.0.113.20:1000"),
	}
}

func TestMappingAndFilteringMatrix(t *testing.T) {
	for _, mapping := range rules {
		for _, filtering := range rules {
			for name, ports := range map[string]Ports{"random": Random(20000, 40000), "preserved": Preserved()} {
				t.Run(fmt.Sprintf("%s/%s/%s", mapping, filtering, name), func(t *testing.T) {
					inBubble(t, Options{}, func(t *testing.T, l *Lab) {
						b := newBench(t, l, Behaviour{Mapping: mapping, Filtering: filtering, Ports: ports})
						checkMapping(t, b, mapping)
						// On a socket of its own: what comes in makes flows too.
						b.inside = listen(t, b.home, "0.0.0.0:5000")
						checkFiltering(t, b, filtering)
					})
				})
			}
		}
	}
}

func checkMapping(t *testing.T, b *bench, want Rule) {
	t.Helper()
	m1, m2, m3 := seen(t, b.inside, b.s11), seen(t, b.inside, b.s12), seen(t, b.inside, b.s21)
	got := AddressAndPortDependent
	switch {
	case m1 == m2 && m1 == m3:
		got = EndpointIndependent
	case m1 == m2:
		got = AddressDependent
	}
	if got != want {
		t.Errorf("mapping to %v, %v, %v is %v", m1, m2, m3, got)
	}
	if again := seen(t, b.inside, b.s11); again != m1 {
		t.Errorf("the mapping moved from %v to %v", m1, again)
	}
}

func checkFiltering(t *testing.T, b *bench, want Rule) {
	t.Helper()
	ext := seen(t, b.inside, b.s11)
	sendTo(t, b.s11, ext, "same")
	expect(t, b.inside, "same", "203.0.113.10:1000")
	got := AddressAndPortDependent
	sendTo(t, b.s12, ext, "other port")
	if d, _ := receive(t, b.inside); d != "" {
		got = AddressDependent
	}
	sendTo(t, b.s21, ext, "other address")
	if d, _ := receive(t, b.inside); d != "" {
		got = EndpointIndependent
	}
	if got != want {
		t.Errorf("filtering is %v, want %v", got, want)
	}
}

func TestPreservedPorts(t *testing.T) {
	for _, overload := range []bool{false, true} {
		t.Run(fmt.Sprintf("overload=%v", overload), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				b := newBench(t, l, Behaviour{Filtering: AddressAndPortDependent, Overload: overload})
				other := listen(t, b.nat.Host("other", "192.168.1.3"), "0.0.0.0:4000")
				if got := seen(t, b.inside, b.s11); got.Port() != 4000 {
					t.Errorf("the port was not preserved: %v", got)
				}
				clash := seen(t, other, b.s11)
				if clash.Port() == 4000 {
					t.Errorf("two hosts have the same external port towards one server")
				}
				// Linux uses the port of the clash again for all later destinations.
				if got := seen(t, other, b.s12); got != clash {
					t.Errorf("later destinations get %v, want %v", got, clash)
				}
				third := listen(t, b.nat.Host("third", "192.168.1.4"), "0.0.0.0:4000")
				if got := seen(t, third, b.s21); (got.Port() == 4000) != overload {
					t.Errorf("towards a server where nobody holds it, the third host got port %d", got.Port())
				}
			})
		})
	}
}

func TestSequentialPorts(t *testing.T) {
	for _, step := range []int{1, 2, -3} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				b := newBench(t, l, Behaviour{Mapping: AddressAndPortDependent, Ports: Sequential(step, 40000, 40099)})
				last := seen(t, b.inside, b.s11).Port()
				ports := map[uint16]bool{last: true}
				for i := range 99 {
					c := listen(t, b.home, "0.0.0.0:0")
					port := seen(t, c, b.s12).Port()
					want := 40000 + (int(last)-40000+step+100)%100
					if i < 40 && int(port) != want {
						t.Fatalf("mapping %d has port %d after %d, want %d", i, port, last, want)
					}
					last, ports[port] = port, true
				}
				if len(ports) != 100 {
					t.Errorf("100 mappings got %d ports of the 100", len(ports))
				}
			})
		})
	}
}

func TestPortBlockExhausted(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Behaviour{Ports: Random(10000, 10063), Overload: true})
		ports := map[uint16]bool{}
		for range 64 {
			ports[seen(t, listen(t, b.home, "0.0.0.0:0"), b.s11).Port()] = true
		}
		if len(ports) != 64 {
			t.Errorf("64 sockets got %d ports", len(ports))
		}
		for p := range ports {
			if p < 10000 || p > 10063 {
				t.Errorf("port %d is outside the block", p)
			}
		}
		extra := listen(t, b.home, "0.0.0.0:0")
		sendTo(t, extra, b.s11.LocalAddr(), "one too many")
		if got, _ := receive(t, b.s11); got != "" || l.Dropped(DropNoPort) != 1 {
			t.Errorf("the 65th socket got through, or its loss was not counted")
		}
		seen(t, extra, b.s21) // ports are overloaded per destination
	})
}

func TestSessionLimit(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Behaviour{Sessions: 50, Lifetime: 30 * time.Second})
		for range 80 {
			sendTo(t, listen(t, b.home, "0.0.0.0:0"), b.s11.LocalAddr(), "x")
		}
		time.Sleep(time.Second)
		if got := l.Count(Delivered, "server"); got != 50 {
			t.Errorf("%d sessions got through, want 50", got)
		}
		time.Sleep(30 * time.Second)
		sendTo(t, listen(t, b.home, "0.0.0.0:0"), b.s11.LocalAddr(), "x")
		time.Sleep(time.Second)
		if got := l.Count(Delivered, "server"); got != 51 {
			t.Errorf("after the others expired, %d got through, want 51", got)
		}
	})
}

// One destination after the other from one socket is one mapping where mapping
// does not depend on it, and a mapping each where it does.
func TestMappingLimit(t *testing.T) {
	for mapping, want := range map[Rule]int{EndpointIndependent: 2, AddressAndPortDependent: 1} {
		t.Run(mapping.String(), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				b := newBench(t, l, Behaviour{Mapping: mapping, Mappings: 1, Ports: Random(20000, 60000), Lifetime: 30 * time.Second})
				sendTo(t, b.inside, b.s11.LocalAddr(), "x")
				sendTo(t, b.inside, b.s21.LocalAddr(), "x")
				sendTo(t, listen(t, b.home, "0.0.0.0:0"), b.s11.LocalAddr(), "another socket's")
				time.Sleep(time.Second)
				if got, dropped := l.Count(Delivered, "server")+l.Count(Delivered, "second"), l.Dropped(DropMappings); got != want || got+dropped != 3 {
					t.Errorf("%d of 3 got through, want %d; %d were dropped as too many", got, want, dropped)
				}
				time.Sleep(31 * time.Second)
				sendTo(t, listen(t, b.home, "0.0.0.0:0"), b.s11.LocalAddr(), "x")
				time.Sleep(time.Second)
				if got := l.Count(Delivered, "server") + l.Count(Delivered, "second"); got != want+1 {
					t.Errorf("after the others expired, %d got through, want %d", got, want+1)
				}
			})
		})
	}
}

func TestHairpin(t *testing.T) {
	for _, hairpin := range []bool{false, true} {
		t.Run(fmt.Sprint(hairpin), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				b := newBench(t, l, Behaviour{Filtering: AddressDependent, Ports: Random(20000, 60000), Hairpin: hairpin})
				other := listen(t, b.nat.Host("other", "192.168.1.3"), "0.0.0.0:5000")
				here, there := seen(t, b.inside, b.s11), seen(t, other, b.s11)
				sendTo(t, b.inside, there, "first") // opens for the other
				receive(t, other)
				sendTo(t, other, here, "second")
				got, from := receive(t, b.inside)
				if !hairpin {
					if got != "" || l.Dropped(DropHairpin) != 2 {
						t.Errorf("without hairpinning %q came in", got)
					}
					return
				}
				if got != "second" || from != there {
					t.Errorf("received %q from %v, want it from the external address %v", got, from, there)
				}
			})
		})
	}
}

func TestNestedNATs(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		server := listen(t, l.Host("server", "203.0.113.10"), "0.0.0.0:443")
		carrier := l.NAT("carrier", "198.51.100.1", Carrier(), Delay(10*time.Millisecond))
		router := carrier.NAT("router", "100.64.0.2", Home())
		neighbour := carrier.NAT("neighbour", "100.64.0.3", Home())
		home := listen(t, router.Host("home", "192.168.1.2"), "0.0.0.0:4000")
		next := listen(t, neighbour.Host("next", "192.168.1.2"), "0.0.0.0:4000")

		sendTo(t, home, netip.MustParseAddrPort("203.0.113.10:443"), "a")
		_, a := receive(t, server)
		sendTo(t, next, netip.MustParseAddrPort("203.0.113.10:443"), "b")
		_, b := receive(t, server)
		if a == b || a.Addr() != b.Addr() || a.Port() < 20000 || a.Port() > 20999 {
			t.Fatalf("the neighbours are seen at %v and %v", a, b)
		}
		sendTo(t, server, a, "answer a")
		expect(t, home, "answer a", "203.0.113.10:443")
		sendTo(t, server, b, "answer b")
		expect(t, next, "answer b", "203.0.113.10:443")

		// Behind one carrier the routers reach each other without it.
		send(t, home, "100.64.0.3:4000", "open")
		send(t, next, "100.64.0.2:4000", "near")
		expect(t, home, "near", "100.64.0.3:4000")
	})
}

func TestFlushReseedReaddress(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Behaviour{Filtering: AddressAndPortDependent, Ports: Random(1024, 65535)})
		first := seen(t, b.inside, b.s11)
		b.nat.Flush()
		if reaches(t, b, first) {
			t.Error("a flushed NAT let an answer in")
		}
		b.nat.Reseed()
		second := seen(t, b.inside, b.s11)
		if second == first || !reaches(t, b, second) {
			t.Errorf("after a flush the mapping is %v, before %v", second, first)
		}
		b.nat.Readdress("198.51.100.99")
		third := seen(t, b.inside, b.s11)
		if third.Addr().String() != "198.51.100.99" || reaches(t, b, second) || !reaches(t, b, third) {
			t.Errorf("at its new address the mapping is %v", third)
		}
	})
}

func TestPublishedPort(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Home())
		b.nat.Publish(51820, netip.MustParseAddrPort("192.168.1.2:4000"))
		b.nat.Flush()
		send(t, b.s21, "198.51.100.1:51820", "stranger")
		expect(t, b.inside, "stranger", "203.0.113.20:1000")
		sendTo(t, b.inside, b.s21.LocalAddr(), "answer")
		expect(t, b.s21, "answer", "198.51.100.1:51820")
		time.Sleep(time.Hour)
		send(t, b.s21, "198.51.100.1:51820", "much later")
		expect(t, b.inside, "much later", "203.0.113.20:1000")
	})
}

func TestBlockUDP(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Home())
		b.nat.Block(func(_, to netip.AddrPort, _ []byte) bool { return to.Port() == 1000 })
		sendTo(t, b.inside, b.s11.LocalAddr(), "blocked")
		if got, _ := receive(t, b.s11); got != "" {
			t.Errorf("a blocked port received %q", got)
		}
		ext := seen(t, b.inside, b.s12)
		b.nat.BlockUDP()
		sendTo(t, b.s12, ext, "blocked")
		if got, _ := receive(t, b.inside); got != "" || l.Dropped(DropBlocked) != 2 {
			t.Errorf("a NAT that blocks let in %q", got)
		}
		b.nat.Block(nil)
		seen(t, b.inside, b.s11)
	})
}

func TestPooling(t *testing.T) {
	for _, arbitrary := range []bool{false, true} {
		t.Run(fmt.Sprintf("arbitrary %v", arbitrary), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				server := listen(t, l.Host("server", "203.0.113.10"), "203.0.113.10:443")
				nat := l.NAT("carrier", "198.51.100.1", Behaviour{Pooling: arbitrary, Ports: Random(1024, 65535)}, Also("198.51.100.2", "198.51.100.3"))
				home := nat.Host("home", "192.168.1.2")
				addrs := map[netip.Addr]bool{}
				for range 30 {
					addrs[seen(t, listen(t, home, "0.0.0.0:0"), server).Addr()] = true
				}
				if (len(addrs) > 1) != arbitrary {
					t.Errorf("30 mappings of one host have %d addresses", len(addrs))
				}
			})
		})
	}
}

func TestRejectedIsCounted(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := newBench(t, l, Behaviour{Filtering: AddressAndPortDependent, Unsolicited: RejectUnsolicited})
		send(t, b.s11, "198.51.100.1:4000", "early")
		if got, _ := receive(t, b.inside); got != "" || l.Dropped(DropRejected) != 1 {
			t.Errorf("unsolicited %q came in", got)
		}
		if got := seen(t, b.inside, b.s11); got.Port() != 4000 {
			t.Errorf("a rejected datagram left a trace: the port is %d", got.Port())
		}
	})
}

func TestIPv6FirewallFiltersWithoutTranslation(t *testing.T) {
	for _, open := range []bool{false, true} {
		t.Run(fmt.Sprintf("open %v", open), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				behaviour := Poisonable()
				behaviour.Open6 = open
				server := listen(t, l.Host("server", "2001:db8::10"), "[::]:443")
				other := listen(t, l.Host("other", "2001:db8::20"), "[::]:443")
				carrier := l.NAT("carrier", "198.51.100.1", Carrier(), Prefix("2001:db8:1::/48"))
				carrier.Behave(Behaviour{Open6: true})
				router := carrier.NAT("router", "100.64.0.2", behaviour, Prefix("2001:db8:1:5::/64"))
				home := router.Host("home", "192.168.1.2", Also("2001:db8:1:5::2"))
				c := listen(t, home, "[::]:4000")

				send(t, other, "[2001:db8:1:5::2]:4000", "unsolicited")
				if got, _ := receive(t, c); (got != "") != open {
					t.Errorf("unsolicited %q came in", got)
				}
				send(t, c, "[2001:db8::10]:443", "out")
				expect(t, server, "out", "[2001:db8:1:5::2]:4000")
				send(t, server, "[2001:db8:1:5::2]:4000", "in")
				expect(t, c, "in", "[2001:db8::10]:443")
				send(t, c, "[2001:db8::20]:443", "to who came first") // no port to steal
				expect(t, other, "to who came first", "[2001:db8:1:5::2]:4000")
			})
		})
	}
}

// What routers count is dropped by a NAT before that looks whose it is, and
// opens those on its way.
func TestWriteRouters(t *testing.T) {
	for routers, want := range map[int]string{1: "", 2: "x"} {
		inBubble(t, Options{Hops: -1}, func(t *testing.T, l *Lab) {
			ours, theirs := l.NAT("ours", "198.51.100.1", Poisonable()), l.NAT("theirs", "198.51.100.2", Poisonable())
			theirs.Publish(1000, netip.MustParseAddrPort("192.168.2.2:1000"))
			c, peer := listen(t, ours.Host("host", "192.168.1.2"), "0.0.0.0:4000"), listen(t, theirs.Host("peer", "192.168.2.2"), "0.0.0.0:1000")
			if err := c.(dgram.RoutersWriter).WriteRouters(dgram.One(netip.MustParseAddrPort("198.51.100.2:1000"), []byte("x")), routers); err != nil {
				t.Fatal(err)
			}
			if got, _ := receive(t, peer); got != want {
				t.Errorf("past %d routers came %q, want %q", routers, got, want)
			}
			send(t, peer, "198.51.100.1:4000", "y")
			expect(t, c, "y", "198.51.100.2:1000")
		})
	}
}
