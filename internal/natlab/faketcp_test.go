package natlab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
)

func fake(t *testing.T, h *Host, addr string) dgram.Opener {
	t.Helper()
	c, err := h.ListenFakeTCP(netip.MustParseAddrPort(addr), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// opens opens to the address within a limit of time, and says how long it took.
func opens(c dgram.Opener, to string, limit time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	start := time.Now()
	err := c.Open(ctx, netip.MustParseAddrPort(to))
	return time.Since(start), err
}

// twoHomes are two hosts behind a NAT each, 5 ms of line and 0.2 ms of LAN each.
func twoHomes(l *Lab, a, b Behaviour) (*NAT, *NAT, *Host, *Host) {
	left, right := l.NAT("left", "198.51.100.1", a), l.NAT("right", "198.51.100.2", b)
	return left, right, left.Host("ann", "192.168.1.2"), right.Host("bob", "192.168.2.2")
}

const (
	annFake = "198.51.100.1:4000"
	bobFake = "198.51.100.2:5000"
)

// punchFake opens from both sides, bob later by skew, and gives how long each
// took.
func punchFake(t *testing.T, a, b dgram.Opener, skew time.Duration) (time.Duration, time.Duration) {
	t.Helper()
	type result struct {
		took time.Duration
		err  error
	}
	ends := make(chan result)
	go func() {
		took, err := opens(a, bobFake, 5*time.Second)
		ends <- result{took, err}
	}()
	time.Sleep(skew)
	tookB, errB := opens(b, annFake, 5*time.Second)
	first := <-ends
	if err := errors.Join(first.err, errB); err != nil {
		t.Fatal(err)
	}
	return first.took, tookB
}

// S0-04, S0-12.
func TestFakeTCPClientAndListener(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps := l.Host("vps", "203.0.113.10")
		home := l.NAT("router", "198.51.100.1", Home()).Host("home", "192.168.1.2")
		server, client, udp := fake(t, vps, "0.0.0.0:443"), fake(t, home, "0.0.0.0:4000"), listen(t, vps, "0.0.0.0:443")
		if err := client.Write(dgram.One(server.LocalAddr(), []byte("early"))); err == nil {
			t.Error("a datagram left before the handshake")
		}
		took, err := opens(client, "203.0.113.10:443", time.Second)
		if err != nil || took != 2*10200*time.Microsecond {
			t.Fatalf("opened after %v: %v; want a round trip", took, err)
		}
		send(t, client, "203.0.113.10:443", "hello")
		expect(t, server, "hello", "198.51.100.1:4000")
		send(t, server, "198.51.100.1:4000", "back")
		expect(t, client, "back", "203.0.113.10:443")
		if got, _ := receive(t, udp); got != "" {
			t.Errorf("the UDP socket on the same port received %q", got)
		}
		if h, ok := client.(dgram.Heavier); !ok || h.Extra(server.LocalAddr()) != 12 {
			t.Error("a segment of fake TCP should cost 12 bytes more than UDP")
		}
		if took, err = opens(client, "203.0.113.10:443", time.Second); took != 0 || err != nil {
			t.Errorf("opening what is open took %v: %v", took, err)
		}
	})
}

// S0-13: what is written during the handshake leaves behind it.
func TestFakeTCPHoldsWhatIsWrittenWhileItOpens(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		server := fake(t, l.Host("vps", "203.0.113.10"), "0.0.0.0:443")
		client := fake(t, l.Host("home", "203.0.113.20"), "0.0.0.0:4000")
		go func() { _, _ = opens(client, "203.0.113.10:443", time.Second) }()
		synctest.Wait()
		send(t, client, "203.0.113.10:443", "first")
		expect(t, server, "first", "203.0.113.20:4000")
	})
}

// S0-01, S0-02: datagrams stay datagrams, a lost one delays none, and a burst
// stays a burst.
func TestFakeTCPLosesAndKeepsBoundaries(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		server, client := fake(t, vps, "0.0.0.0:443"), fake(t, home, "0.0.0.0:0")
		if _, err := opens(client, "203.0.113.10:443", time.Second); err != nil {
			t.Fatal(err)
		}
		home.DropWhen(func(_, _ netip.AddrPort, d []byte) bool { return len(d) > 0 && d[0] == 'b' })
		start := time.Now()
		if err := client.Write(dgram.Burst{Addr: netip.MustParseAddrPort("203.0.113.10:443"), Buf: []byte("aaabbbcccd"), Size: 3}); err != nil {
			t.Fatal(err)
		}
		var a dgram.Arena
		got, err := server.Read(&a)
		if err != nil || len(got) != 1 || string(got[0].Buf) != "aaacccd" || got[0].Size != 3 {
			t.Fatalf("received %v, %v", got, err)
		}
		if took := time.Since(start); took != 10*time.Millisecond {
			t.Errorf("what was not lost took %v, want 10ms", took)
		}
		large := make([]byte, 1500-40+1)
		if err := client.Write(dgram.One(server.LocalAddr(), large)); err == nil {
			t.Error("a datagram to nowhere left")
		}
		if err := client.Write(dgram.One(netip.MustParseAddrPort("203.0.113.10:443"), large)); !dgram.IsTooLarge(err) {
			t.Errorf("a segment of %d bytes gave %v", len(large), err)
		}
		if err := client.Write(dgram.One(netip.MustParseAddrPort("203.0.113.10:443"), large[1:])); err != nil {
			t.Error(err)
		}
	})
}

// S4-08, S4-10: both kinds of NAT, whoever begins.
func TestFakeTCPThroughTwoNATs(t *testing.T) {
	resets := Home().WithTCP(func(b *Behaviour) { b.Unsolicited = RejectUnsolicited })
	for _, c := range []struct {
		name string
		a, b Behaviour
		skew time.Duration
		loss float64
	}{
		{"drop, at once", Home(), Home(), 0, 0},
		{"drop, 50 ms", Home(), Home(), 50 * time.Millisecond, 0},
		{"drop, 300 ms", Home(), Home(), 300 * time.Millisecond, 0},
		{"reset, at once", resets, resets, 0, 0},
		{"reset, 50 ms", resets, resets, 50 * time.Millisecond, 0},
		{"reset, 300 ms", resets, resets, 300 * time.Millisecond, 0},
		{"one resets", Home(), resets, 50 * time.Millisecond, 0},
		{"the other resets", resets, Home(), 50 * time.Millisecond, 0},
		{"20 % loss", Home(), Home(), 10 * time.Millisecond, 0.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				left, _, ann, bob := twoHomes(l, c.a, c.b)
				left.Set(Loss(c.loss))
				a, b := fake(t, ann, "0.0.0.0:4000"), fake(t, bob, "0.0.0.0:5000")
				_, late := punchFake(t, a, b, c.skew)
				if limit := 50 * time.Millisecond; c.loss == 0 && late > limit {
					t.Errorf("the later side took %v, want less than %v", late, limit)
				}
				left.Set(Loss(0))
				send(t, a, bobFake, "to bob")
				expect(t, b, "to bob", annFake)
				send(t, b, annFake, "to ann")
				expect(t, a, "to ann", bobFake)
				// S4-09: no end ever sends an RST.
				if n := l.Segments(Sent, "ann", TCPReset) + l.Segments(Sent, "bob", TCPReset); n != 0 {
					t.Errorf("the ends sent %d RST", n)
				}
			})
		})
	}
}

// S0-19: a network that harms UDP alone.
func TestUDPDegradedOrDroppedWhileTCPPasses(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps := l.Host("vps", "203.0.113.10")
		router := l.NAT("router", "198.51.100.1", Home())
		home := router.Host("home", "192.168.1.2")
		udp, tcp := listen(t, vps, "0.0.0.0:443"), fake(t, vps, "0.0.0.0:443")
		u, f := listen(t, home, "0.0.0.0:4000"), fake(t, home, "0.0.0.0:4000")
		if _, err := opens(f, "203.0.113.10:443", time.Second); err != nil {
			t.Fatal(err)
		}
		count := func() (viaUDP, viaTCP int) {
			for range 200 {
				send(t, u, "203.0.113.10:443", "12345678")
				send(t, f, "203.0.113.10:443", "12345678")
				time.Sleep(10 * time.Millisecond)
			}
			return drain(t, udp), drain(t, tcp)
		}
		for _, c := range []struct {
			name      string
			harm      Option
			low, high int
			why       Reason
		}{
			{"nothing", UDPLoss(0), 200, 200, ""},
			{"half lost", UDPLoss(0.5), 70, 130, DropLoss},
			{"a quarter of the rate", UDPBandwidth(36*8*100/4, 20*time.Millisecond), 45, 60, DropQueue},
			{"none", NoUDP(true), 0, 0, DropUDP},
		} {
			router.Set(UDPLoss(0), UDPBandwidth(0, 0), NoUDP(false), c.harm)
			viaUDP, viaTCP := count()
			if viaUDP < c.low || viaUDP > c.high || viaTCP != 200 {
				t.Errorf("%s: %d of UDP and %d of TCP arrived", c.name, viaUDP, viaTCP)
			}
			if c.why != "" && l.Dropped(c.why) == 0 {
				t.Errorf("%s: nothing was counted as %q", c.name, c.why)
			}
		}
		router.Set(NoUDP(false), UDPLoss(0), UDPBandwidth(0, 0))
		router.BlockUDP()
		if viaUDP, viaTCP := count(); viaUDP != 0 || viaTCP != 200 {
			t.Errorf("blocked: %d of UDP and %d of TCP arrived", viaUDP, viaTCP)
		}
		router.Block(nil)
		if viaUDP, _ := count(); viaUDP != 200 {
			t.Errorf("lifted: %d of UDP arrived", viaUDP)
		}
	})
}

func drain(t *testing.T, c dgram.Conn) (n int) {
	t.Helper()
	var a dgram.Arena
	for {
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		bursts, err := c.Read(&a)
		if err != nil {
			return n
		}
		for _, b := range bursts {
			n += b.Len()
		}
	}
}

func TestPortFilter(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps := l.Host("vps", "203.0.113.10")
		office := l.NAT("office", "198.51.100.1", Home(), TCPPorts(80, 443), NoUDP(true))
		home := office.Host("home", "192.168.1.2")
		fake(t, vps, "0.0.0.0:443")
		fake(t, vps, "0.0.0.0:3478")
		c := fake(t, home, "0.0.0.0:0")
		if _, err := opens(c, "203.0.113.10:3478", time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("port 3478 gave %v", err)
		}
		if l.Dropped(DropTCPPort) == 0 {
			t.Error("the drops were not counted")
		}
		if _, err := opens(c, "203.0.113.10:443", time.Second); err != nil {
			t.Error(err)
		}
		// Nobody outside begins, from whichever port; a SYN that crosses one from
		// inside is an answer.
		outside, ours := fake(t, vps, "203.0.113.10:80"), l.Host("guest", "198.51.100.9", TCPPorts(80))
		inside := fake(t, ours, "198.51.100.9:7000")
		before := l.Dropped(DropTCPPort)
		if _, err := opens(outside, "198.51.100.9:7000", time.Second); !errors.Is(err, context.DeadlineExceeded) || l.Dropped(DropTCPPort) == before {
			t.Errorf("from outside: %v", err)
		}
		if _, err := opens(inside, "203.0.113.10:80", time.Second); err != nil {
			t.Error(err)
		}
		office.Set(TCPPorts())
		if _, err := opens(c, "203.0.113.10:3478", time.Second); err != nil {
			t.Error(err)
		}
	})
}

// A kernel's listener and fake TCP share a port, each with its own.
func TestFakeTCPBesideAListener(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		ln := listenTCP(t, vps, "0.0.0.0:443")
		server, err := vps.ListenFakeTCP(netip.MustParseAddrPort("0.0.0.0:443"), ln)
		if err != nil {
			t.Fatal(err)
		}
		client := fake(t, home, "0.0.0.0:0")
		if _, err := opens(client, "203.0.113.10:443", time.Second); err != nil {
			t.Fatal(err)
		}
		c, s := connect(t, home, ln, "203.0.113.10:443")
		exchange(t, c, s)
		send(t, client, "203.0.113.10:443", "datagram")
		expect(t, server, "datagram", "")
		if _, err := vps.ListenFakeTCP(netip.MustParseAddrPort("0.0.0.0:443"), ln); err == nil {
			t.Error("the port was taken twice")
		}
		if _, err := home.ListenTCP(client.LocalAddr()); err == nil {
			t.Error("a kernel's listener took the port of fake TCP")
		}
	})
}

// Where a NAT has forgotten the flow, silence brings a new handshake.
func TestFakeTCPSurvivesAForgetfulNAT(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		server := fake(t, l.Host("vps", "203.0.113.10"), "0.0.0.0:443")
		b := Carrier()
		router := l.NAT("router", "198.51.100.1", b)
		client := fake(t, router.Host("home", "192.168.1.2"), "0.0.0.0:4000")
		if _, err := opens(client, "203.0.113.10:443", time.Second); err != nil {
			t.Fatal(err)
		}
		router.Flush()
		for range 50 {
			send(t, client, "203.0.113.10:443", "still here")
			time.Sleep(100 * time.Millisecond)
		}
		if drain(t, server) == 0 {
			t.Error("nothing arrived after the NAT forgot")
		}
	})
}

// S0-07 in effect: one-way traffic is acknowledged, so its sender sees no
// silence, and a peer that has gone is noticed.
func TestFakeTCPOneWay(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps, home := l.Host("vps", "203.0.113.10"), l.Host("home", "203.0.113.20")
		server, client := fake(t, vps, "0.0.0.0:443"), fake(t, home, "0.0.0.0:4000")
		if _, err := opens(client, "203.0.113.10:443", time.Second); err != nil {
			t.Fatal(err)
		}
		stream := func(seconds int) (err error) {
			for range 10 * seconds {
				if e := client.Write(dgram.One(netip.MustParseAddrPort("203.0.113.10:443"), []byte("x"))); e != nil {
					err = e
				}
				time.Sleep(100 * time.Millisecond)
			}
			return err
		}
		before := l.Segments(Sent, "home", TCPSyn)
		if err := stream(10); err != nil || l.Segments(Sent, "home", TCPSyn) != before {
			t.Errorf("one-way traffic gave %v and %d more SYN", err, l.Segments(Sent, "home", TCPSyn)-before)
		}
		_ = server.Close()
		if err := stream(15); !errors.Is(err, syscall.ENOTCONN) {
			t.Errorf("a peer that has gone gave %v", err)
		}
	})
}

func TestFakeTCPEnds(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		home := l.Host("home", "203.0.113.20")
		c := fake(t, home, "0.0.0.0:0")
		time.AfterFunc(time.Second, func() { _ = c.Close() })
		if took, err := opens(c, "203.0.113.99:443", time.Minute); !errors.Is(err, net.ErrClosed) || took != time.Second {
			t.Errorf("closing gave %v after %v", err, took)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a second Close gave %v", err)
		}
		if err := c.Write(dgram.One(netip.MustParseAddrPort("203.0.113.99:443"), nil)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed Write gave %v", err)
		}
	})
}
