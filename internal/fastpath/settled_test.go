package fastpath

import (
	"net/netip"
	"testing"
)

func TestEndsSettled(t *testing.T) {
	for _, c := range []struct{ local, remote, want string }{
		{"127.0.0.1:9", "127.0.0.1:10", "127.0.0.1:9"},
		{"0.0.0.0:9", "127.0.0.1:10", "127.0.0.1:9"},
		{"[::]:9", "127.0.0.1:10", "127.0.0.1:9"},
		{"[::ffff:127.0.0.3]:9", "[::ffff:127.0.0.1]:10", "127.0.0.3:9"},
	} {
		got, err := Ends{netip.MustParseAddrPort(c.local), netip.MustParseAddrPort(c.remote)}.Settled()
		if err != nil || got.Local.String() != c.want || got.Remote.Addr().Is4In6() {
			t.Errorf("%s to %s: %v, %v", c.local, c.remote, got, err)
		}
	}
}
