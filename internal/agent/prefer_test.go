package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// The port that the settings name first is taken, unless another is measured to
// be better.
// S2-14
func TestBestPort(t *testing.T) {
	ms := time.Millisecond
	tests := []struct {
		name string
		of   []trial
		want uint16
	}{
		{"nothing", nil, 0},
		{"none answers", []trial{{5060, 40, 0, 0}, {443, 40, 0, 0}}, 0},
		{"alike: the order of the settings", []trial{{5060, 40, 40, 41 * ms}, {443, 40, 40, 40 * ms}}, 5060},
		{"the first is blocked", []trial{{5060, 120, 0, 0}, {443, 40, 40, 40 * ms}}, 443},
		{"the first loses a tenth", []trial{{5060, 44, 40, 30 * ms}, {443, 40, 40, 40 * ms}}, 443},
		{"the second is held back by loss", []trial{{5060, 40, 40, 40 * ms}, {443, 80, 40, 40 * ms}}, 5060},
		{"the second is much quicker", []trial{{443, 40, 40, 90 * ms}, {5060, 40, 40, 40 * ms}}, 5060},
		{"quicker, but it loses more", []trial{{443, 40, 40, 90 * ms}, {5060, 50, 40, 40 * ms}}, 443},
		{"quicker by too little", []trial{{443, 40, 40, 9 * ms}, {5060, 40, 40, 5 * ms}}, 443},
		{"the best of three", []trial{{5060, 80, 40, 40 * ms}, {53, 40, 40, 40 * ms}, {443, 40, 40, 39 * ms}}, 53},
	}
	for _, test := range tests {
		if got := bestPort(test.of).port; got != test.want {
			t.Errorf("%s: port %d, want %d", test.name, got, test.want)
		}
	}
}

// Preferred ports are dialed before the link's own, in the order of the
// settings, over UDP at once.
// S2-13, S2-14
func TestPreferredPortsAreDialedFirst(t *testing.T) {
	to := netip.MustParseAddrPort("203.0.113.10:443")
	p := plan{c: Coordinator{Addr: to.String()}, first: []uint16{5060, 53}, tls: true}
	p.byAddr([]netip.AddrPort{to}, wellKnown[:])
	var ports []uint16
	var tls []uint16
	for _, each := range p.sorted() {
		switch each.over {
		case proto.Transport_TRANSPORT_UDP:
			ports = append(ports, each.port())
		case proto.Transport_TRANSPORT_TLS:
			tls = append(tls, each.port())
		}
	}
	if !slices.Equal(ports[:3], []uint16{5060, 53, 443}) || !slices.Equal(tls[:3], []uint16{5060, 53, 443}) {
		t.Errorf("the order is %v over UDP and %v over TLS", ports, tls)
	}
}

// A search begins with the second sweep, takes each of the less known ports in
// two of them, and one of each part of the range.
// S2-13, S2-17
func TestUnusualPorts(t *testing.T) {
	if first := unusual(1); first != nil {
		t.Errorf("the first sweep has %v", first)
	}
	if late := unusual(searchSweeps + 5); late != nil {
		t.Errorf("after a while a sweep has %v", late)
	}
	for _, sweep := range []int{2, 4, 6, 8, 20, 40} {
		two := slices.Concat(unusual(sweep), unusual(sweep+1))
		for _, port := range lessKnown {
			if !slices.Contains(two, port) {
				t.Errorf("%d is in neither of two sweeps: %v", port, two)
			}
		}
		for _, b := range bands {
			if !slices.ContainsFunc(unusual(sweep), func(n uint16) bool { return b[0] <= int(n) && int(n) <= b[1] }) {
				t.Errorf("no port of %v", b)
			}
		}
	}
	if slices.Contains(LikelyPorts(), 22) {
		t.Error("SSH's port is asked, which never leads to a coordinator")
	}
}

// The port that the control connection came in by takes the place of the one
// that the coordinator sees, and stands for no other transport's.
// S2-15, S2-17
func TestThroughDoor(t *testing.T) {
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	told := []netip.AddrPort{at("203.0.113.10:443"), at("203.0.113.10:3478"), at("203.0.113.11:443")}
	over := func(t proto.Transport, s string) attempt { return attempt{over: t, addr: at(s)} }
	tests := []struct {
		how  attempt
		want netip.AddrPort
	}{
		{over(proto.Transport_TRANSPORT_UDP, "203.0.113.10:443"), told[0]},
		{over(proto.Transport_TRANSPORT_UDP, "203.0.113.10:53"), at("203.0.113.10:53")},
		{over(proto.Transport_TRANSPORT_UDP, "[::ffff:203.0.113.10]:53"), at("203.0.113.10:53")},
		{over(proto.Transport_TRANSPORT_UDP, "203.0.113.11:443"), told[0]}, // it is told already
		{over(proto.Transport_TRANSPORT_UDP, "192.168.1.1:53"), told[0]},
		{over(proto.Transport_TRANSPORT_FAKE_TCP, "203.0.113.10:53"), told[0]},
		{attempt{over: proto.Transport_TRANSPORT_TLS, at: "203.0.113.10:53"}, told[0]},
	}
	for _, test := range tests {
		got := throughDoor(slices.Clone(told), test.how)
		if got[0] != test.want || !slices.Equal(got[1:], told[1:]) {
			t.Errorf("%v: %v, want %v first", test.how, got, test.want)
		}
	}
}

// Status shows which port won, which one relay legs go to, and why.
func TestStatusShowsPorts(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		a := w.agent(home, "home", func(c *Config) { c.Ports = []uint16{3478, 443} })
		w.settle()
		time.Sleep(10 * time.Second)
		s := a.Status().Coordinator
		if s.Addr != vpsAddr+":3478" || s.RelayPort != 3478 || len(s.Ports) != 2 || s.Ports[0].Port != 3478 || s.Ports[0].Answered != trialTrain || s.Ports[0].RTT == 0 {
			t.Errorf("%+v", s)
		}
	})
}
