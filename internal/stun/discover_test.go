package stun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
)

var all = []Behaviour{EndpointIndependent, AddressDependent, AddressAndPortDependent}

// discover runs Discover and checks that it is over in time.
func discover(t *testing.T, network dgram.Network, servers ...netip.AddrPort) Report {
	t.Helper()
	begun := time.Now()
	r, err := Discover(t.Context(), network, servers)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > maxDiscovery {
		t.Errorf("took %v", took)
	}
	return r
}

// TestDiscover tries every mapping with every filtering against a server with
// two addresses, and against one with one.
func TestDiscover(t *testing.T) {
	for _, mapping := range all {
		for _, filtering := range all {
			t.Run(fmt.Sprintf("%v mapping, %v filtering", mapping, filtering), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					n := newInet(20 * time.Millisecond)
					srv := serve(n, fourSockets())
					defer srv.Close()
					h := behind(newNAT(n, "198.51.100.2", mapping, filtering), "192.168.1.2/24")
					r := discover(t, h, ap("203.0.113.10:443"))
					if r.Mapping != mapping || r.Filtering != filtering || len(r.MappingNot) != 2 || len(r.FilteringNot) != 2 {
						t.Errorf("%+v", r)
					}
					checkCommon(t, r, mapping)
				})
				bubble.Test(t, func(t *testing.T) {
					n := newInet(20 * time.Millisecond)
					srv := serve(n, twoPorts())
					defer srv.Close()
					h := behind(newNAT(n, "198.51.100.2", mapping, filtering), "192.168.1.2/24")
					r := discover(t, h, ap("203.0.113.10:443"))
					checkOneAddress(t, mapping, r.Mapping, r.MappingNot)
					checkOneAddress(t, filtering, r.Filtering, r.FilteringNot)
					checkCommon(t, r, mapping)
				})
			})
		}
	}
}

// checkOneAddress: one address tells address-and-port-dependent from the
// others, and no more.
func checkOneAddress(t *testing.T, is, got Behaviour, not []Behaviour) {
	t.Helper()
	if is == AddressAndPortDependent {
		if got != is {
			t.Errorf("got %v for %v", got, is)
		}
	} else if got != Unknown || !slices.Equal(not, []Behaviour{AddressAndPortDependent}) {
		t.Errorf("got %v, not %v for %v", got, not, is)
	}
}

func checkCommon(t *testing.T, r Report, mapping Behaviour) {
	t.Helper()
	if !r.UDP || !r.IPv4 || r.IPv6 || r.Hairpin || r.CGNAT || r.PortPreserving != (mapping == EndpointIndependent) {
		t.Errorf("%+v", r)
	}
	if n := len(r.Mapped); n < 1 || mapping == EndpointIndependent && n != 1 || r.Mapped[0].Addr() != netip.MustParseAddr("198.51.100.2") {
		t.Errorf("mapped %v", r.Mapped)
	}
}

func TestDiscoverPorts(t *testing.T) {
	for _, tt := range []struct {
		name string
		port func(local uint16, n int) uint16
		want func(p Ports) bool
	}{
		{"sequential", func(_ uint16, n int) uint16 { return uint16(40000 + n) }, func(p Ports) bool { return p.PortDelta == 1 }},
		{"by two", func(_ uint16, n int) uint16 { return uint16(40000 + 2*n) }, func(p Ports) bool { return p.PortDelta == 2 }},
		{"downwards", func(_ uint16, n int) uint16 { return uint16(40000 - n) }, func(p Ports) bool { return p.PortDelta == -1 }},
		{"random", func(_ uint16, n int) uint16 { return uint16(1024 + n*n*7919%60000) }, func(p Ports) bool { return p.PortDelta == 0 && p.PortBand[1] > 0 }},
		{"preserving", preserve, func(p Ports) bool { return p == Ports{PortPreserving: true} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				n := newInet(20 * time.Millisecond)
				srv := serve(n, fourSockets())
				defer srv.Close()
				box := newNAT(n, "198.51.100.2", AddressAndPortDependent, AddressAndPortDependent)
				box.port = tt.port
				r := discover(t, behind(box, "192.168.1.2/24"), ap("203.0.113.10:443"))
				if !tt.want(r.Ports) {
					t.Errorf("%+v", r.Ports)
				}
			})
		})
	}
}

func TestDiscoverHairpin(t *testing.T) {
	for _, filtering := range all {
		bubble.Test(t, func(t *testing.T) {
			n := newInet(20 * time.Millisecond)
			srv := serve(n, twoPorts())
			defer srv.Close()
			box := newNAT(n, "198.51.100.2", EndpointIndependent, filtering)
			box.hairpin = true
			if r := discover(t, behind(box, "192.168.1.2/24"), ap("203.0.113.10:443")); !r.Hairpin {
				t.Errorf("%v filtering: %+v", filtering, r)
			}
		})
	}
}

func TestDiscoverWithoutNAT(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		srv := serve(n, fourSockets())
		defer srv.Close()
		r := discover(t, newHost(n, "198.51.100.9/24"), ap("203.0.113.10:443"))
		if r.Mapping != EndpointIndependent || r.Filtering != EndpointIndependent || !r.PortPreserving || r.Hairpin {
			t.Errorf("%+v", r)
		}
	})
}

func TestDiscoverBehindCarrier(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		srv := serve(n, fourSockets())
		defer srv.Close()
		box := newNAT(n, "198.51.100.2", EndpointIndependent, AddressDependent)
		if r := discover(t, behind(box, "100.72.1.2/10"), ap("203.0.113.10:443")); !r.CGNAT {
			t.Errorf("%+v", r)
		}
	})
}

// Loss is not taken for filtering, nor for another mapping: here the first
// datagrams from everywhere to everywhere are lost.
func TestDiscoverWithLoss(t *testing.T) {
	for lose := 1; lose <= 2; lose++ {
		bubble.Test(t, func(t *testing.T) {
			n := newInet(20 * time.Millisecond)
			sent := make(map[[2]netip.AddrPort]int)
			n.drop = func(src, dst netip.AddrPort, _ []byte) bool {
				sent[[2]netip.AddrPort{src, dst}]++
				return sent[[2]netip.AddrPort{src, dst}] <= lose
			}
			srv := serve(n, fourSockets())
			defer srv.Close()
			h := behind(newNAT(n, "198.51.100.2", EndpointIndependent, AddressDependent), "192.168.1.2/24")
			r := discover(t, h, ap("203.0.113.10:443"))
			if lose == 1 && (r.Mapping != EndpointIndependent || r.Filtering != AddressDependent || !r.PortPreserving) {
				t.Errorf("%+v", r)
			}
			if slices.Contains(r.MappingNot, EndpointIndependent) || slices.Contains(r.FilteringNot, AddressDependent) {
				t.Errorf("a wrong verdict: %+v", r)
			}
		})
	}
}

func TestDiscoverPrefersWhoCanTell(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		at := ap("203.0.113.20:3478")
		defer foreign(n, at, func(m *pion.Message, from netip.AddrPort) []byte { return plainAnswer(m, from, "") }).Close()
		srv := serve(n, fourSockets())
		defer srv.Close()
		h := behind(newNAT(n, "198.51.100.2", AddressDependent, AddressDependent), "192.168.1.2/24")
		dead := ap("203.0.113.77:3478")
		r := discover(t, h, dead, at, ap("203.0.113.10:443"))
		if r.Mapping != AddressDependent || r.Filtering != AddressDependent || slices.Contains(r.Servers, dead) || len(r.Servers) != 5 {
			t.Errorf("%+v", r)
		}
	})
}

func TestDiscoverBothFamilies(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		srv := serve(n, fourSockets())
		defer srv.Close()
		srv6 := serve(n, Sockets{{ap("[2001:db8::10]:443"), ap("[2001:db8::10]:3478")}, {ap("[2001:db8::11]:443"), ap("[2001:db8::11]:3478")}})
		defer srv6.Close()
		h := newHost(n, "198.51.100.9/24", "2001:db8:1::2/64")
		r := discover(t, h, ap("[2001:db8::10]:443"), ap("203.0.113.10:443"))
		if !r.IPv4 || !r.IPv6 || len(r.Mapped) != 2 || !r.Mapped[0].Addr().Is4() {
			t.Errorf("%+v", r)
		}
		r = discover(t, h, ap("[2001:db8::10]:443"), ap("203.0.113.99:443"))
		if r.IPv4 || !r.IPv6 || r.Mapping != EndpointIndependent {
			t.Errorf("%+v", r)
		}
	})
}

func TestDiscoverNobodyAnswers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		h := behind(newNAT(n, "198.51.100.2", EndpointIndependent, EndpointIndependent), "192.168.1.2/24")
		begun := time.Now()
		r := discover(t, h, ap("203.0.113.10:443"), ap("[2001:db8::1]:443"))
		if r.UDP || r.Mapping != Unknown || time.Since(begun) > 2*time.Second {
			t.Errorf("%+v after %v", r, time.Since(begun))
		}
	})
}

func TestDiscoverErrors(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		h := newHost(n, "198.51.100.9/24")
		if _, err := Discover(t.Context(), h, nil); err == nil || !strings.Contains(err.Error(), "no STUN server") {
			t.Error(err)
		}
		if _, err := Discover(t.Context(), h, []netip.AddrPort{{}}); err == nil {
			t.Error("a server without an address was asked")
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		begun := time.Now()
		if _, err := Discover(ctx, h, []netip.AddrPort{asked}); !errors.Is(err, context.Canceled) || time.Since(begun) > 60*time.Millisecond {
			t.Error(err, time.Since(begun))
		}
		h.fail = errors.New("out of sockets")
		if _, err := Discover(t.Context(), h, []netip.AddrPort{asked}); !errors.Is(err, h.fail) {
			t.Error(err)
		}
	})
}

// A caller in a hurry gets what was found, and no verdict from a silence that
// was too short.
func TestDiscoverInAHurry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		srv := serve(n, fourSockets())
		defer srv.Close()
		h := behind(newNAT(n, "198.51.100.2", EndpointIndependent, AddressAndPortDependent), "192.168.1.2/24")
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		r, err := Discover(ctx, h, []netip.AddrPort{asked})
		if err != nil || r.Mapping != EndpointIndependent || r.Filtering != Unknown {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestDiscoverFarAway(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(300 * time.Millisecond)
		srv := serve(n, fourSockets())
		defer srv.Close()
		h := behind(newNAT(n, "198.51.100.2", EndpointIndependent, AddressAndPortDependent), "192.168.1.2/24")
		r := discover(t, h, asked)
		if r.Mapping != EndpointIndependent || r.Filtering != AddressAndPortDependent {
			t.Errorf("%+v", r)
		}
	})
}

// Discover is polite: its traffic is bounded, and no answer of ours was larger
// than what it answered.
func TestDiscoverTraffic(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		srv := serve(n, fourSockets())
		defer srv.Close()
		h := behind(newNAT(n, "198.51.100.2", AddressAndPortDependent, AddressAndPortDependent), "192.168.1.2/24")
		discover(t, h, asked)
		if n.sent > 60 {
			t.Errorf("%d datagrams for one discovery", n.sent)
		}
		if s := srv.Stats(); s.Limited != 0 || s.Refused != 0 || s.Malformed != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestReportJSON(t *testing.T) {
	r := Report{
		UDP: true, IPv4: true, Mapped: []netip.AddrPort{ap("198.51.100.2:40112")},
		Mapping: EndpointIndependent, Filtering: AddressAndPortDependent, Ports: Ports{PortPreserving: true}, CGNAT: true,
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"udp":true`, `"ipv4":true`, `"ipv6":false`, `"mapped":["198.51.100.2:40112"]`, `"mapping":"endpoint-independent"`,
		`"filtering":"address-and-port-dependent"`, `"port_preserving":true`, `"port_delta":0`, `"hairpin":false`,
		`"cgnat":true`, `"mapping_lifetime_s":0`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
}
