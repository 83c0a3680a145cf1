package stun

import (
	"net/netip"
	"slices"
	"testing"

	"rendezvous/internal/dgram"
)

func TestJudgeMapping(t *testing.T) {
	const a, b, c = "198.51.100.2:1", "198.51.100.2:2", "198.51.100.2:3"
	const s11, s12, s21, s22 = "203.0.113.10:443", "203.0.113.10:3478", "203.0.113.11:443", "203.0.113.11:3478"
	for _, tt := range []struct {
		name string
		seen [][2]string
		want Behaviour
		not  []Behaviour
	}{
		{"nothing", nil, Unknown, nil},
		{"one server", [][2]string{{s11, a}}, Unknown, nil},
		{"two addresses, same", [][2]string{{s11, a}, {s21, a}}, EndpointIndependent, []Behaviour{2, 3}},
		{"four sockets, same", [][2]string{{s11, a}, {s12, a}, {s21, a}, {s22, a}}, EndpointIndependent, []Behaviour{2, 3}},
		{"by address", [][2]string{{s11, a}, {s21, b}, {s22, b}}, AddressDependent, []Behaviour{1, 3}},
		{"by address and port", [][2]string{{s11, a}, {s21, b}, {s22, c}}, AddressAndPortDependent, []Behaviour{1, 2}},
		{"one address, two ports, same", [][2]string{{s11, a}, {s12, a}}, Unknown, []Behaviour{3}},
		{"one address, two ports, differ", [][2]string{{s11, a}, {s12, b}}, AddressAndPortDependent, []Behaviour{1, 2}},
		{"two addresses, one port each, differ", [][2]string{{s11, a}, {s21, b}}, Unknown, []Behaviour{1}},
		{"differs by port alone", [][2]string{{s11, a}, {s21, a}, {s22, b}}, AddressAndPortDependent, []Behaviour{1, 2}},
		{"another outside address", [][2]string{{s11, a}, {s21, "198.51.100.3:1"}, {s12, a}}, AddressDependent, []Behaviour{1, 3}},
	} {
		var seen []sighting
		for _, o := range tt.seen {
			seen = append(seen, sighting{server: ap(o[0]), mapped: ap(o[1])})
		}
		got, not := judgeMapping(seen)
		if got != tt.want || !slices.Equal(not, tt.not) {
			t.Errorf("%s: %v, not %v; want %v, not %v", tt.name, got, not, tt.want, tt.not)
		}
	}
}

func TestJudgeFiltering(t *testing.T) {
	for _, tt := range []struct {
		address, port passage
		want          Behaviour
		not           []Behaviour
	}{
		{untold, untold, Unknown, nil},
		{untold, passed, Unknown, []Behaviour{3}},
		{untold, stopped, AddressAndPortDependent, []Behaviour{1, 2}},
		{passed, untold, EndpointIndependent, []Behaviour{2, 3}},
		{passed, passed, EndpointIndependent, []Behaviour{2, 3}},
		{passed, stopped, EndpointIndependent, []Behaviour{2, 3}}, // the second was lost
		{stopped, untold, Unknown, []Behaviour{1}},
		{stopped, passed, AddressDependent, []Behaviour{1, 3}},
		{stopped, stopped, AddressAndPortDependent, []Behaviour{1, 2}},
	} {
		got, not := judgeFiltering(tt.address, tt.port)
		if got != tt.want || !slices.Equal(not, tt.not) {
			t.Errorf("%v, %v: %v, not %v; want %v, not %v", tt.address, tt.port, got, not, tt.want, tt.not)
		}
	}
}

func TestJudgePorts(t *testing.T) {
	local := []uint16{40100, 51234, 33333, 60001, 45678, 39999}
	for _, tt := range []struct {
		name    string
		outside []uint16
		want    Ports
	}{
		{"none", nil, Ports{}},
		{"preserved", local, Ports{PortPreserving: true}},
		{"preserved but one", []uint16{40100, 1025, 33333, 60001, 45678, 39999}, Ports{PortPreserving: true}},
		{"one by one", []uint16{1024, 1025, 1026, 1027, 1028, 1029}, Ports{PortDelta: 1, PortBand: [2]uint16{1024, 1029}}},
		{"two by two", []uint16{1024, 1026, 1028, 1030, 1032, 1034}, Ports{PortDelta: 2, PortBand: [2]uint16{1024, 1034}}},
		{"downwards", []uint16{1034, 1033, 1032, 1031, 1030, 1029}, Ports{PortDelta: -1, PortBand: [2]uint16{1029, 1034}}},
		{"by 256", []uint16{1024, 1280, 1536, 1792, 2048, 2304}, Ports{PortDelta: 256, PortBand: [2]uint16{1024, 2304}}},
		{"with other users", []uint16{1024, 1026, 1027, 1031, 1033, 1034}, Ports{PortDelta: 2, PortBand: [2]uint16{1024, 1034}}},
		{"wrapped", []uint16{65533, 65534, 65535, 1024, 1025, 1026}, Ports{PortDelta: 1, PortBand: [2]uint16{1024, 65535}}},
		{"random", []uint16{9000, 23456, 1234, 60000, 34567, 11111}, Ports{PortBand: [2]uint16{1234, 60000}}},
		{"rising by chance", []uint16{9000, 13456, 21234, 30000, 44567, 51111}, Ports{PortBand: [2]uint16{9000, 51111}}},
		{"too few", []uint16{1024, 1025}, Ports{PortBand: [2]uint16{1024, 1025}}},
	} {
		var choices []choice
		for i, o := range tt.outside {
			choices = append(choices, choice{local: local[i], outside: o})
		}
		if got := judgePorts(choices); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestBehindCarrier(t *testing.T) {
	mapped := netip.MustParseAddr("198.51.100.2")
	for _, tt := range []struct {
		name   string
		own    []string
		mapped string
		want   bool
	}{
		{"home", []string{"192.168.1.2/24"}, "", false},
		{"public", []string{"198.51.100.2/24"}, "", false},
		{"modem", []string{"100.72.1.2/10"}, "", true},
		{"modem, point to point", []string{"100.72.1.2/32", "127.0.0.1/8"}, "", true},
		{"an overlay beside the home network", []string{"192.168.1.2/24", "100.101.102.103/32"}, "", false},
		{"modem beside a home network", []string{"192.168.1.2/24", "100.72.1.2/20"}, "", true},
		{"server within the carrier", []string{"100.72.1.2/10"}, "100.72.1.2", false},
		{"just outside the space", []string{"100.128.0.1/10", "100.63.0.1/10"}, "", false},
	} {
		var own []dgram.HostAddr
		for _, a := range tt.own {
			own = append(own, dgram.HostAddr{Addr: netip.MustParsePrefix(a), Up: true})
		}
		m := mapped
		if tt.mapped != "" {
			m = netip.MustParseAddr(tt.mapped)
		}
		if got := behindCarrier(own, m); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	down := []dgram.HostAddr{{Addr: netip.MustParsePrefix("100.72.1.2/10")}}
	if behindCarrier(down, mapped) {
		t.Error("an interface that is down counts")
	}
	if !SharedSpace(netip.MustParseAddr("100.64.3.4"), mapped) || SharedSpace(mapped, mapped) {
		t.Error("SharedSpace")
	}
}

// A server must not make us send to an address that it couldn't reach itself.
func TestMayAsk(t *testing.T) {
	for _, tt := range []struct {
		addr, server string
		want         bool
	}{
		{"203.0.113.11", "203.0.113.10", true},
		{"127.0.0.1", "203.0.113.10", false},
		{"192.168.1.1", "203.0.113.10", false},
		{"100.64.0.1", "203.0.113.10", false},
		{"169.254.169.254", "203.0.113.10", false},
		{"224.0.0.1", "203.0.113.10", false},
		{"255.255.255.255", "203.0.113.10", false},
		{"0.0.0.0", "203.0.113.10", false},
		{"2001:db8::1", "203.0.113.10", false},
		{"::1", "2001:db8::1", false},
		{"2001:db8::2", "2001:db8::1", true},
		{"192.168.1.1", "10.0.0.1", true},
		{"127.0.0.2", "127.0.0.1", true},
	} {
		if got := mayAsk(netip.MustParseAddr(tt.addr), netip.MustParseAddr(tt.server)); got != tt.want {
			t.Errorf("%s named by %s: %v", tt.addr, tt.server, got)
		}
	}
	if mayAsk(netip.Addr{}, netip.MustParseAddr("203.0.113.10")) {
		t.Error("no address may be asked")
	}
}
