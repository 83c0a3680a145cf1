package natlab

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
)

// inBubble runs f in virtual time on a lab.
func inBubble(t *testing.T, options Options, f func(t *testing.T, l *Lab)) {
	t.Helper()
	if options.Seed == 0 {
		options.Seed = 1
	}
	bubble.Test(t, func(t *testing.T) { f(t, New(t, options)) })
}

func listen(t *testing.T, h *Host, addr string) dgram.Conn {
	t.Helper()
	c, err := h.ListenUDP(netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c dgram.Conn, to string, payload string) {
	t.Helper()
	sendTo(t, c, netip.MustParseAddrPort(to), payload)
}

func sendTo(t *testing.T, c dgram.Conn, to netip.AddrPort, payload string) {
	t.Helper()
	if err := c.Write(dgram.One(to, []byte(payload))); err != nil {
		t.Fatal(err)
	}
}

// receive waits up to a second and gives the first datagram of what came, or
// "" and no address.
func receive(t *testing.T, c dgram.Conn) (string, netip.AddrPort) {
	t.Helper()
	var a dgram.Arena
	defer a.Release()
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	bursts, err := c.Read(&a)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", netip.AddrPort{}
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(bursts[0].Buf), bursts[0].Addr
}

func expect(t *testing.T, c dgram.Conn, payload, from string) {
	t.Helper()
	got, addr := receive(t, c)
	if got != payload || from != "" && addr.String() != from {
		t.Fatalf("received %q from %v, want %q from %v", got, addr, payload, from)
	}
}

func TestDelaysOfLinksAddUp(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps := l.Host("vps", "203.0.113.10", Delay(20*time.Millisecond))
		router := l.NAT("router", "198.51.100.1", Home(), Delay(7*time.Millisecond))
		home := router.Host("home", "192.168.1.2", Delay(3*time.Millisecond))
		v, h := listen(t, vps, "0.0.0.0:443"), listen(t, home, "0.0.0.0:4000")

		start := time.Now()
		send(t, h, "203.0.113.10:443", "hello")
		expect(t, v, "hello", "198.51.100.1:4000")
		if d := time.Since(start); d != 30*time.Millisecond {
			t.Errorf("one way took %v, want 30ms", d)
		}
		l.Delay(vps, home, 100*time.Millisecond)
		start = time.Now()
		send(t, v, "198.51.100.1:4000", "back")
		expect(t, h, "back", "203.0.113.10:443")
		if d := time.Since(start); d != 103*time.Millisecond {
			t.Errorf("with an override one way took %v, want 100ms and the home's own 3ms", d)
		}
	})
}

func TestBlockedReadEndsWithClose(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		c := listen(t, l.Host("h", "203.0.113.1"), "0.0.0.0:0")
		ended := make(chan error)
		go func() {
			var a dgram.Arena
			_, err := c.Read(&a)
			ended <- err
		}()
		synctest.Wait() // returns only when Read is durably blocked
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed Read gave %v", err)
		}
		if err := c.Write(dgram.One(netip.MustParseAddrPort("203.0.113.1:1"), nil)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed Write gave %v", err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a second Close gave %v", err)
		}
	})
}

func TestDeadlineWakesABlockedRead(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		c := listen(t, l.Host("h", "203.0.113.1"), "0.0.0.0:0")
		start := time.Now()
		time.AfterFunc(time.Second, func() {
			if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Error(err)
			}
		})
		var a dgram.Arena
		_, err := c.Read(&a)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 2*time.Second {
			t.Errorf("Read gave %v after %v", err, time.Since(start))
		}
		if _, err = c.Read(&a); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a later Read gave %v", err)
		}
	})
}

func TestLoopbackAndOwnAddress(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1", Also("2001:db8::1"))
		service := listen(t, h, "127.0.0.1:51820")
		client := listen(t, h, "0.0.0.0:0")
		send(t, client, "127.0.0.1:51820", "ping")
		got, from := receive(t, service)
		if got != "ping" || from.Addr().String() != "127.0.0.1" {
			t.Fatalf("service received %q from %v", got, from)
		}
		alias := listen(t, h, "127.64.0.9:0")
		sendTo(t, alias, service.LocalAddr(), "alias")
		expect(t, service, "alias", alias.LocalAddr().String())

		open, six := listen(t, h, "0.0.0.0:5000"), listen(t, h, "[::]:5000")
		send(t, client, "203.0.113.1:5000", "self")
		got, from = receive(t, open)
		if got != "self" || from.Addr().String() != "203.0.113.1" {
			t.Fatalf("own address received %q from %v", got, from)
		}
		client6 := listen(t, h, "[::]:0")
		send(t, client6, "[::1]:5000", "six")
		expect(t, six, "six", "")
		send(t, client, "203.0.113.1:51820", "nobody") // bound to the loopback alone
		if got, _ = receive(t, service); got != "" {
			t.Errorf("a socket on the loopback received %q from the own address", got)
		}
	})
}

func TestBindingClashes(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1")
		c := listen(t, h, "0.0.0.0:443")
		for _, addr := range []string{"0.0.0.0:443", "127.0.0.1:443"} {
			if _, err := h.ListenUDP(netip.MustParseAddrPort(addr)); err == nil {
				t.Errorf("%s was bound twice", addr)
			}
		}
		if _, err := h.ListenUDP(netip.MustParseAddrPort("203.0.113.2:443")); err == nil {
			t.Error("a foreign address was bound")
		}
		listen(t, h, "[::]:443")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		listen(t, h, "127.0.0.1:443")
		listen(t, h, "203.0.113.1:443")
	})
}
