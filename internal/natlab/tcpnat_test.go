package natlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// simultaneous connects from both sides, bob later by skew; gap is how long
// each waits before it tries again when it was refused.
func simultaneous(ann, bob *Host, skew, gap time.Duration) (a, b net.Conn, err error) {
	type result struct {
		conn net.Conn
		err  error
	}
	try := func(h *Host, local, remote string) (r result) {
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(gap) {
			r.conn, _, r.err = dial(h, local, remote, time.Until(end))
			if !errors.Is(r.err, syscall.ECONNREFUSED) || gap == 0 {
				return r
			}
		}
		return r
	}
	ends := make(chan result)
	go func() { ends <- try(ann, "0.0.0.0:4000", bobFake) }()
	time.Sleep(skew)
	late := try(bob, "0.0.0.0:5000", annFake)
	first := <-ends
	return first.conn, late.conn, errors.Join(first.err, late.err)
}

// S4-03, S4-08, S4-10: TCP simultaneous open as kernels do it. NAT.md has the
// same table, measured.
func TestSimultaneousOpen(t *testing.T) {
	drops := Home()
	resets := Home().WithTCP(func(b *Behaviour) { b.Unsolicited = RejectUnsolicited })
	for _, c := range []struct {
		a, b      Behaviour
		skew, gap time.Duration
		works     bool
	}{
		{drops, drops, 0, 0, true},
		{drops, drops, 20 * time.Millisecond, 0, true},
		{drops, drops, 300 * time.Millisecond, 0, true},
		{resets, resets, 0, 0, true},
		{resets, resets, 20 * time.Millisecond, 0, false},
		{resets, resets, 20 * time.Millisecond, time.Microsecond, true},
		{resets, resets, 300 * time.Millisecond, time.Microsecond, true},
		{resets, drops, 20 * time.Millisecond, 0, true}, // the side that drops is hit first
		{drops, resets, 30 * time.Millisecond, 0, false},
	} {
		t.Run(fmt.Sprintf("%d-%d %v gap %v", c.a.forTCP().Unsolicited, c.b.forTCP().Unsolicited, c.skew, c.gap), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				_, _, ann, bob := twoHomes(l, c.a, c.b)
				a, b, err := simultaneous(ann, bob, c.skew, c.gap)
				if (err == nil) != c.works {
					t.Fatalf("it gave %v, want success %v", err, c.works)
				}
				if c.works {
					exchange(t, a, b)
				}
			})
		})
	}
}

// S4-11.
func TestNoInboundSYN(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		left, _, ann, bob := twoHomes(l, Home(), Home())
		vps := l.Host("vps", "203.0.113.10")
		ln := listenTCP(t, vps, "0.0.0.0:443")
		left.Set(NoInboundSYN(true))
		if _, _, err := simultaneous(ann, bob, 0, 0); err == nil {
			// ann's SYN passes and is answered, so one such NAT is crossed.
			t.Log("one NAT that lets no SYN in is crossed")
		}
		if l.Dropped(DropSYN) == 0 {
			t.Error("no SYN was dropped")
		}
		c, s := connect(t, ann, ln, "203.0.113.10:443")
		exchange(t, c, s)
	})
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		left, right, ann, bob := twoHomes(l, Home(), Home())
		left.Set(NoInboundSYN(true))
		right.Set(NoInboundSYN(true))
		if _, _, err := simultaneous(ann, bob, 0, 0); err == nil {
			t.Error("two NATs that let no SYN in were crossed")
		}
	})
}

// S4-12: TCP's mapping is its own.
func TestTCPMappingApartFromUDP(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		b := Home().WithTCP(func(b *Behaviour) {
			b.Mapping, b.Ports, b.Overload = AddressAndPortDependent, Random(20000, 29999), false
		})
		router := l.NAT("router", "198.51.100.1", b)
		home := router.Host("home", "192.168.1.2")
		one, two := l.Host("one", "203.0.113.10"), l.Host("two", "203.0.113.20")
		u := listen(t, home, "0.0.0.0:4000")
		if m1, m2 := seen(t, u, listen(t, one, "203.0.113.10:443")), seen(t, u, listen(t, two, "203.0.113.20:443")); m1 != m2 || m1.Port() != 4000 {
			t.Errorf("UDP is mapped to %v and %v", m1, m2)
		}
		ports := map[string]bool{}
		for _, h := range []*Host{one, two} {
			ln := listenTCP(t, h, "0.0.0.0:443")
			c, _, err := dial(home, "0.0.0.0:4000", netip.AddrPortFrom(h.Addr(), 443).String(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			s, _ := ln.Accept()
			exchange(t, c, s)
			ports[s.RemoteAddr().String()] = true
		}
		if len(ports) != 2 || ports["198.51.100.1:4000"] {
			t.Errorf("TCP is mapped to %v", ports)
		}
	})
}

// S4-09: where an RST deletes the mapping, the next connection has another
// port.
func TestResetForgets(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		inBubble(t, Options{}, func(t *testing.T, l *Lab) {
			b := Carrier().WithTCP(func(b *Behaviour) { b.ResetForgets = forgets })
			home := l.NAT("router", "198.51.100.1", b).Host("home", "192.168.1.2")
			ln := listenTCP(t, l.Host("vps", "203.0.113.10"), "0.0.0.0:443")
			ports := map[string]bool{}
			for range 4 {
				c, _, err := dial(home, "0.0.0.0:4000", "203.0.113.10:443", time.Second)
				if err != nil {
					t.Fatal(err)
				}
				s, _ := ln.Accept()
				ports[s.RemoteAddr().String()] = true
				_ = c.(interface{ SetLinger(int) error }).SetLinger(0)
				_ = c.Close()
				time.Sleep(time.Second)
			}
			if (len(ports) > 1) != forgets {
				t.Errorf("with ResetForgets %v, four connections had the ports %v", forgets, ports)
			}
		})
	}
}

func TestTCPMappingLivesLonger(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		home := l.NAT("router", "198.51.100.1", Home()).Host("home", "192.168.1.2")
		vps := l.Host("vps", "203.0.113.10")
		client, server := connect(t, home, listenTCP(t, vps, "0.0.0.0:443"), "203.0.113.10:443")
		for range 10 {
			time.Sleep(2 * time.Hour)
			exchange(t, server, client)
		}
		time.Sleep(2*time.Hour + 5*time.Minute)
		_, _ = server.Write([]byte("forgotten"))
		_ = client.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the mapping's lifetime Read gave %v", err)
		}
	})
}

func TestPublishedTCPPort(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		router := l.NAT("router", "198.51.100.1", Home())
		home, road := router.Host("home", "192.168.1.2"), l.Host("road", "203.0.113.20")
		ln := listenTCP(t, home, "0.0.0.0:443")
		if _, _, err := dial(road, "0.0.0.0:0", "198.51.100.1:8443", time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an unsolicited SYN gave %v", err)
		}
		router.PublishTCP(8443, netip.MustParseAddrPort("192.168.1.2:443"))
		c, s := connect(t, road, ln, "198.51.100.1:8443")
		exchange(t, c, s)
	})
}
