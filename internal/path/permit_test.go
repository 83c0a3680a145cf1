package path

import (
	"net/netip"
	"strings"
	"testing"
)

// S4-04, S4-19
func TestForbiddenTargets(t *testing.T) {
	for _, c := range []struct {
		addr   string
		shared bool
		want   string // a part of the reason; "" for allowed
	}{
		{"198.51.100.1:4000", false, ""},
		{"[2001:db8::1]:4000", false, ""},
		{"192.168.1.2:4000", true, ""},
		{"100.64.0.2:4000", true, ""},
		{"[fd00::1]:4000", true, ""},
		{"192.168.1.2:4000", false, "private"},
		{"10.0.0.1:4000", false, "private"},
		{"172.16.5.4:4000", false, "private"},
		{"100.64.0.2:4000", false, "private"},
		{"[fd00::1]:4000", false, "private"},
		{"[::ffff:192.168.1.2]:4000", false, "private"},
		{"127.0.0.1:4000", true, "loopback"},
		{"[::1]:4000", true, "loopback"},
		{"[::ffff:127.0.0.1]:4000", true, "loopback"},
		{"0.0.0.0:4000", true, "unspecified"},
		{"[::]:4000", true, "unspecified"},
		{"0.1.2.3:4000", true, "reserved"},
		{"224.0.0.1:4000", true, "multicast"},
		{"[ff02::1]:4000", true, "multicast"},
		{"255.255.255.255:4000", true, "reserved"},
		{"240.0.0.1:4000", true, "reserved"},
		{"169.254.1.1:4000", true, "link-local"},
		{"[fe80::1]:4000", true, "link-local"},
		{"198.51.100.1:0", true, "port 0"},
		{"[2001::4136:e378:8000:63bf:3fff:fdd2]:4000", true, "transition"}, // Teredo
		{"[2001:1::1]:4000", false, ""},
		{"[2002:c0a8:102::1]:4000", true, "transition"}, // 6to4 of 192.168.1.2
		{"[64:ff9b::7f00:1]:4000", true, "transition"},  // NAT64 of 127.0.0.1
		{"[64:ff9b:1::a00:1]:4000", true, "transition"},
		{"[::192.168.1.2]:4000", true, "transition"},
		{"[100::1]:4000", true, "reserved"},
	} {
		got := Refuse(netip.MustParseAddrPort(c.addr), c.shared)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s, shared %v: %q, want %q", c.addr, c.shared, got, c.want)
		}
	}
	if Refuse(netip.AddrPort{}, true) == "" {
		t.Error("no address at all is allowed")
	}
}

// S4-04: N addresses and M ports for each.
func TestBudgetBoundsTargets(t *testing.T) {
	var many []netip.AddrPort
	for a := range byte(20) {
		for p := range uint16(10) {
			many = append(many, netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, a}), 4000+p))
		}
	}
	allowed, refused := Permitted(append(many, many...), false, Budget{Addrs: 3, Ports: 2})
	if len(allowed) != 6 || len(refused) != 194 {
		t.Errorf("%d allowed, %d refused", len(allowed), len(refused))
	}
	ports := map[netip.Addr]int{}
	for _, a := range allowed {
		ports[a.Addr()]++
	}
	if len(ports) != 3 {
		t.Errorf("%d addresses", len(ports))
	}
}

func FuzzPermitted(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1, 0, 1, 198, 51, 100, 1, 15, 160}, false)
	f.Fuzz(func(t *testing.T, b []byte, shared bool) {
		var list []netip.AddrPort
		for ; len(b) >= 6; b = b[6:] {
			list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(b[4])<<8|uint16(b[5])))
		}
		allowed, _ := Permitted(list, shared, DefaultBudget)
		if len(allowed) > DefaultBudget.Addrs*DefaultBudget.Ports {
			t.Fatalf("%d targets", len(allowed))
		}
		for _, a := range allowed {
			ip := a.Addr()
			if ip.IsLoopback() || ip.IsMulticast() || ip.IsUnspecified() || a.Port() == 0 || ip.IsPrivate() && !shared {
				t.Fatalf("%v is allowed", a)
			}
		}
	})
}
