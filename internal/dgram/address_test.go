package dgram_test

import (
	"net"
	"net/netip"
	"testing"

	"rendezvous/internal/dgram"
)

func TestAddrOf(t *testing.T) {
	want := netip.MustParseAddrPort("192.0.2.1:9")
	for _, a := range []net.Addr{
		net.UDPAddrFromAddrPort(want), net.TCPAddrFromAddrPort(want),
		&net.TCPAddr{IP: net.ParseIP("192.0.2.1").To16(), Port: 9},
	} {
		if got := dgram.AddrOf(a); got != want {
			t.Errorf("%T %v is %v, want %v", a, a, got, want)
		}
	}
	for _, a := range []net.Addr{nil, &net.UnixAddr{Name: "socket"}} {
		if got := dgram.AddrOf(a); got.IsValid() {
			t.Errorf("%v is %v", a, got)
		}
	}
}

func TestNear(t *testing.T) {
	for service, want := range map[string]string{
		"127.0.0.1": "127.0.0.1:0", "127.3.4.5": "127.0.0.1:0", "192.0.2.1": "0.0.0.0:0",
		"::1": "[::1]:0", "2001:db8::1": "[::]:0",
	} {
		if got := dgram.Near(netip.MustParseAddr(service)); got != netip.MustParseAddrPort(want) {
			t.Errorf("a client's socket before %s is bound to %v, want %s", service, got, want)
		}
	}
}
