package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/proto"
)

// A server is in doubt where a main socket was sent from to several of the ports
// that lead to one.
func TestRaced(t *testing.T) {
	at := netip.MustParseAddr("203.0.113.10")
	door := func(port uint16) Door { return Door{proto.Transport_TRANSPORT_UDP, port} }
	stripes := []Door{door(443), door(3478), {proto.Transport_TRANSPORT_TLS, 53}}
	tests := []struct {
		name  string
		ports []uint16
		doors []Door
		want  []uint16
	}{
		{"the main port alone", []uint16{443}, stripes, nil},
		{"one that is translated", []uint16{53}, stripes, nil},
		{"the main port and its own other one", []uint16{443, 3478}, stripes, nil},
		{"the main port and a translated one", []uint16{443, 53}, stripes, []uint16{53, 443}},
		{"two that are translated, and one that is not", []uint16{53, 80, 3478}, stripes, []uint16{53, 80}},
		{"no stripes", []uint16{443, 53}, nil, nil},
	}
	for _, test := range tests {
		now := time.Now()
		var r raced
		r.try(now.Add(-time.Hour), netip.AddrPortFrom(at, 123)) // long forgotten
		r.try(now, netip.MustParseAddrPort("203.0.113.11:500")) // another host
		for _, port := range test.ports {
			r.try(now, netip.AddrPortFrom(netip.AddrFrom16(at.As16()), port))
		}
		var got []uint16
		for _, each := range r.doubtful(now, at, test.doors, 443) {
			got = append(got, each.Port())
		}
		if slices.Sort(got); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
		if late := r.doubtful(now.Add(racedFor+time.Second), at, test.doors, 443); late != nil {
			t.Errorf("%s: later %v", test.name, late)
		}
	}
}

// What such a server saw is not announced beside what others saw.
func TestCertain(t *testing.T) {
	see := func(server, mapped string) sighting {
		return sighting{netip.MustParseAddrPort(server), netip.MustParseAddrPort(mapped)}
	}
	wrong, right := see("203.0.113.10:53", "198.51.100.1:31000"), see("203.0.113.10:3478", "198.51.100.1:40000")
	b := newSwitchboard()
	b.setSTUN(nil, []netip.AddrPort{wrong.server})
	if got := b.certain([]sighting{wrong, right}); !slices.Equal(got, []sighting{right}) {
		t.Errorf("%v", got)
	}
	if got := b.certain([]sighting{wrong}); !slices.Equal(got, []sighting{wrong}) {
		t.Errorf("nothing else is known: %v", got)
	}
}
