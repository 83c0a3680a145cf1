package dgram

import (
	"maps"
	"net/netip"
	"testing"
)

func TestFlagsOfAddresses(t *testing.T) {
	got := parseFlags([]byte(`20010db8000000000000000000000001 02 40 00 80     eth0
20010db8000000000000000000000002 02 40 00 20     eth0
20010db8000000000000000000000003 02 40 00 01     eth0
20010db8000000000000000000000004 02 40 00 48     eth0
20010db8 02 40 00 20     eth0
nonsense
20010db8000000000000000000000005 02 40 00 zz     eth0
`))
	want := map[netip.Addr]flags{
		netip.MustParseAddr("2001:db8::2"): {deprecated: true},
		netip.MustParseAddr("2001:db8::4"): {unusable: true},
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
