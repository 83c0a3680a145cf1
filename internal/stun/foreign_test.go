package stun

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
)

// foreign is a responder that only knows RFC 8489: it ignores or refuses
// CHANGE-REQUEST, or names an other address which is dead or none.
func foreign(n *inet, at netip.AddrPort, answer func(m *pion.Message, from netip.AddrPort) []byte) dgram.Conn {
	c, err := newHost(n, at.Addr().String()+"/24").ListenUDP(at)
	must(err)
	go func() {
		var arena dgram.Arena
		for {
			bursts, err := c.Read(&arena)
			if err != nil {
				return
			}
			for _, b := range bursts {
				m, err := parse(b.Buf)
				must(err)
				if out := answer(m, b.Addr); out != nil {
					must(c.Write(dgram.One(b.Addr, out)))
				}
			}
		}
	}()
	return c
}

func plainAnswer(m *pion.Message, from netip.AddrPort, other string) []byte {
	a := newMessage(pion.BindingSuccess, m.TransactionID)
	addAddress(a, pion.AttrXORMappedAddress, from)
	if other != "" {
		addAddress(a, pion.AttrOtherAddress, ap(other))
	}
	return a.Raw
}

// A foreign responder gives a partial report, never an error and never a claim
// that it can't support.
func TestDiscoverForeign(t *testing.T) {
	changes := func(m *pion.Message) bool { return m.Contains(pion.AttrChangeRequest) }
	for _, tt := range []struct {
		name   string
		answer func(m *pion.Message, from netip.AddrPort) []byte
	}{
		{"refuses changes", func(m *pion.Message, from netip.AddrPort) []byte {
			if changes(m) {
				return refusal(m, pion.CodeUnknownAttribute, []pion.AttrType{pion.AttrChangeRequest})
			}
			return plainAnswer(m, from, "")
		}},
		{"ignores changes", func(m *pion.Message, from netip.AddrPort) []byte { return plainAnswer(m, from, "") }},
		{"ignores whoever wants changes", func(m *pion.Message, from netip.AddrPort) []byte {
			if changes(m) {
				return nil
			}
			return plainAnswer(m, from, "")
		}},
		{"names a dead other address", func(m *pion.Message, from netip.AddrPort) []byte {
			if changes(m) {
				return nil
			}
			return plainAnswer(m, from, "203.0.113.99:3479")
		}},
		{"names itself as the other", func(m *pion.Message, from netip.AddrPort) []byte {
			return plainAnswer(m, from, "203.0.113.20:3478")
		}},
		{"names loopback as the other", func(m *pion.Message, from netip.AddrPort) []byte {
			return plainAnswer(m, from, "127.0.0.1:53")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				n := newInet(20 * time.Millisecond)
				at := ap("203.0.113.20:3478")
				defer foreign(n, at, tt.answer).Close()
				h := behind(newNAT(n, "198.51.100.2", EndpointIndependent, AddressAndPortDependent), "192.168.1.2/24")
				r := discover(t, h, at)
				if !r.UDP || len(r.Mapped) != 1 || r.Mapping != Unknown || r.Filtering != Unknown || !r.PortPreserving {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// Two foreign responders tell together what one can't.
func TestDiscoverTwoForeign(t *testing.T) {
	for _, mapping := range all {
		bubble.Test(t, func(t *testing.T) {
			n := newInet(20 * time.Millisecond)
			answer := func(m *pion.Message, from netip.AddrPort) []byte { return plainAnswer(m, from, "") }
			a, b := ap("203.0.113.20:3478"), ap("203.0.113.30:3478")
			defer foreign(n, a, answer).Close()
			defer foreign(n, b, answer).Close()
			h := behind(newNAT(n, "198.51.100.2", mapping, AddressAndPortDependent), "192.168.1.2/24")
			r := discover(t, h, a, b)
			if mapping == EndpointIndependent && r.Mapping != mapping {
				t.Errorf("%+v", r)
			}
			if mapping != EndpointIndependent && (r.Mapping != Unknown || !slices.Equal(r.MappingNot, []Behaviour{EndpointIndependent})) {
				t.Errorf("%+v", r)
			}
		})
	}
}
