package dgram

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func addrOf(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

// S4-03: a listener and connections to several places leave from one port.
func TestPortIsShared(t *testing.T) {
	streams := SystemStreams()
	for _, ip := range []string{"127.0.0.1", "::1"} {
		free := netip.AddrPortFrom(netip.MustParseAddr(ip), 0)
		mine, err := streams.ListenTCP(free)
		if err != nil {
			t.Skipf("no TCP on %s: %v", ip, err)
		}
		defer mine.Close()
		for range 3 {
			far, err := streams.ListenTCP(free)
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			conn, err := streams.DialTCP(t.Context(), addrOf(mine), addrOf(far))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if at := conn.LocalAddr().(*net.TCPAddr).AddrPort(); at != addrOf(mine) {
				t.Errorf("connected from %v, not from %v", at, addrOf(mine))
			}
		}
		back, err := streams.DialTCP(t.Context(), netip.AddrPort{}, addrOf(mine))
		if err != nil {
			t.Fatalf("the listener on the shared port: %v", err)
		}
		_ = back.Close()
	}
}

func TestDialErrorsAreRecognised(t *testing.T) {
	streams := SystemStreams()
	free := netip.MustParseAddrPort("127.0.0.1:0")
	gone, err := streams.ListenTCP(free)
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	if _, err := streams.DialTCP(t.Context(), free, addrOf(gone)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	live, err := streams.ListenTCP(free)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	first, err := streams.DialTCP(t.Context(), free, addrOf(live))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	from := first.LocalAddr().(*net.TCPAddr).AddrPort()
	if _, err := streams.DialTCP(t.Context(), from, addrOf(live)); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("the same two addresses: %v", err)
	}
	over, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	if _, err := streams.DialTCP(over, free, addrOf(live)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no time left: %v", err)
	}
	if _, err := streams.DialTCP(t.Context(), netip.MustParseAddrPort("[::1]:0"), addrOf(live)); !errors.Is(err, errFamily) {
		t.Errorf("two families: %v", err)
	}
}

// A port that a program listens on is left alone, even where it would share it.
func TestListenersDoNotShareAPort(t *testing.T) {
	streams := SystemStreams()
	first, err := streams.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	at := netip.MustParseAddrPort(first.Addr().String())
	if second, err := streams.ListenTCP(at); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener on %v: %v, %v", at, second, err)
	}
	if _, err := streams.DialTCP(t.Context(), at, netip.AddrPortFrom(at.Addr(), 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection from the listener's port: %v", err)
	}
}
