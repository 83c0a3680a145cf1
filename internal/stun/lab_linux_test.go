package stun_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/stun"
)

const (
	eim  = stun.EndpointIndependent
	adm  = stun.AddressDependent
	apdm = stun.AddressAndPortDependent
)

// house is a host behind a NAT of the kernel's, and what that should be called.
type house struct {
	host               *netns.Host
	public             string // the NAT's outside address
	mapping, filtering stun.Behaviour
	preserving         bool
	delta              int
	hairpin            bool
}

// Addresses of the responders, besides that of ours on the VPS.
const (
	foreignAddr      = "192.0.2.10"
	foreignOtherAddr = "192.0.2.11"
	foreignLoneAddr  = "192.0.2.20"
	loneAddr         = "192.0.2.30"
	guestAddr        = "192.0.2.40"
)

// houses are a home behind a carrier, and hosts behind one NAT each.
func houses(s *netns.Scene) map[string]house {
	all := map[string]house{
		"masquerade":    {s.Laptop, netns.LaptopPublic, eim, apdm, true, 0, false},
		"carrier-grade": {s.Home, netns.HomePublic, eim, apdm, false, 0, false},
	}
	for i, n := range []struct {
		name string
		nat  netns.NAT
		is   house
	}{
		{"open filter", netns.OpenFilter().Hairpin(), house{nil, "", eim, eim, true, 0, true}},
		{"address filter", netns.AddressFilter(), house{nil, "", eim, adm, true, 0, false}},
		{"address-dependent", netns.AddressDependent(), house{nil, "", adm, apdm, false, 0, false}},
		{"sequential ports", netns.SequentialPorts(2), house{nil, "", apdm, apdm, false, 2, false}},
	} {
		n.is.public = fmt.Sprintf("198.18.%d.1", i+1)
		router := s.Public(fmt.Sprintf("router%d", i), fmt.Sprintf("198.18.%d.0/24", i+1), n.is.public)
		n.is.host = s.Behind(router, fmt.Sprintf("host%d", i), fmt.Sprintf("192.168.%d.2", 100+i), n.nat, n.is.public)
		all[n.name] = n.is
	}
	return all
}

// TestLab meets the real components: coturn's clients ask our responder, and
// Discover asks ours and coturn's, through the kernel's NATs. Most of it is
// waiting for datagrams that a NAT drops, so all goes side by side.
func TestLab(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	street := houses(s)
	guest := s.Public("guest", "192.0.2.0/24", guestAddr, foreignAddr, foreignOtherAddr, foreignLoneAddr, loneAddr)
	guest.Turnserver(3478, foreignAddr, foreignOtherAddr)
	guest.Turnserver(3480, foreignLoneAddr)
	two := respond(t, s.VPS, netns.VPSAddr, netns.VPSOtherAddr)
	one := respond(t, guest, loneAddr)

	var wg sync.WaitGroup
	try := func(name string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	for name, h := range street {
		try(name+", natdiscovery", h.natdiscovery)
		try(name+", discover", func() error {
			return errors.Join(
				h.discover(t, two, full),
				h.discover(t, netip.MustParseAddrPort(foreignAddr+":3478"), full),
				h.discover(t, one, partial),
				h.discover(t, netip.MustParseAddrPort(foreignLoneAddr+":3480"), little),
			)
		})
	}
	try("carrier, home", func() error { return carrier(t, s.Home, netns.HomePublic, two, true) })
	try("carrier, laptop", func() error { return carrier(t, s.Laptop, netns.LaptopPublic, two, false) })
	try("stunclient behind a NAT", street["masquerade"].stunclient)
	try("stunclient without a NAT", func() error { return freeStunclient(guest) })
	wg.Wait()
}

// natdiscovery asks coturn's client for its verdict.
func (h house) natdiscovery() error {
	words := map[stun.Behaviour]string{
		eim: "Endpoint Independent", adm: "Address Dependent", apdm: "Address and Port Dependent",
	}
	out, err := h.host.Try("turnutils_natdiscovery", "-m", "-f", "-p", "443", netns.VPSAddr)
	if err != nil {
		return err
	}
	for _, want := range []string{
		"NAT with " + words[h.mapping] + " Mapping!", "NAT with " + words[h.filtering] + " Filtering!",
	} {
		if !strings.Contains(out, want) {
			return fmt.Errorf("it didn't say %q:\n%s", want, out)
		}
	}
	return nil
}

// stunclient is coturn's. It ends its test with RESPONSE-PORT, whose answer the
// NAT drops, and waits for ever.
func (h house) stunclient() error {
	out, err := h.host.Try("timeout", "2", "turnutils_stunclient", "-p", "443", netns.VPSAddr)
	if !strings.Contains(out, "UDP reflexive addr: "+h.public+":") {
		return fmt.Errorf("it said %w:\n%s", err, out)
	}
	return nil
}

// freeStunclient gets its answer to RESPONSE-PORT, and goes on with PADDING of
// 1500 bytes.
func freeStunclient(guest *netns.Host) error {
	out, err := guest.Try("timeout", "5", "turnutils_stunclient", "-p", "443", netns.VPSAddr)
	answers, right := strings.Count(out, "RFC 5780 response"), strings.Count(out, "reflexive addr: "+guestAddr+":")
	if err != nil || answers != 3 || right < 3 || strings.Contains(out, "error") {
		return fmt.Errorf("%d answers, then %w:\n%s", answers, err, out)
	}
	return nil
}

// carrier expects BehindCarrier to be right.
func carrier(t *testing.T, host *netns.Host, public string, server netip.AddrPort, want bool) error {
	return host.Do(func() error {
		got, err := stun.BehindCarrier(t.Context(), netip.MustParseAddr(public), server)
		if err != nil || got != want {
			return fmt.Errorf("told %v, %w", got, err)
		}
		return nil
	})
}

// What a server can tell.
type power int

const (
	full    power = iota // two addresses
	partial              // one address, two ports
	little               // one address, one port
)

// discover expects all that the server can tell, and nothing wrong. A machine
// that stood still for a while excuses what is missing, so it tries again.
func (h house) discover(t *testing.T, server netip.AddrPort, p power) error {
	mapping, filtering := h.mapping, h.filtering
	if p == little || p == partial && mapping != apdm {
		mapping = stun.Unknown
	}
	if p == little || p == partial && filtering != apdm {
		filtering = stun.Unknown
	}
	for range 3 {
		begun := time.Now()
		r, err := stun.Discover(t.Context(), inside{h.host}, []netip.AddrPort{server})
		took := time.Since(begun)
		if err != nil {
			return err
		}
		if r.Mapping != stun.Unknown && r.Mapping != h.mapping || slices.Contains(r.MappingNot, h.mapping) ||
			r.Filtering != stun.Unknown && r.Filtering != h.filtering || slices.Contains(r.FilteringNot, h.filtering) {
			return fmt.Errorf("%v: got %+v, which is wrong of %+v", server, r, h)
		}
		if r.UDP && r.Mapped[0].Addr().String() == h.public && r.Mapping == mapping && r.Filtering == filtering &&
			r.PortPreserving == h.preserving && r.PortDelta == h.delta && r.Hairpin == h.hairpin && !r.CGNAT && took < 3*time.Second {
			return nil
		}
		t.Logf("%v: got %+v in %v, want %v mapping, %v filtering of %+v", server, r, took, mapping, filtering, h)
	}
	return fmt.Errorf("%v: never got all that it can tell", server)
}

// inside is a host's network, for a program that is not on the host.
type inside struct{ host *netns.Host }

func (n inside) ListenUDP(addr netip.AddrPort) (c dgram.Conn, err error) {
	err = n.host.Do(func() error {
		c, err = dgram.System(dgram.DefaultOptions()).ListenUDP(addr)
		return err
	})
	return c, err
}

func (n inside) Addrs() (all []dgram.HostAddr, err error) {
	err = n.host.Do(func() error {
		all, err = dgram.System(dgram.DefaultOptions()).Addrs()
		return err
	})
	return all, err
}

// respond runs a responder on ports 443 and 3478 of one or two addresses of a
// host, until the test ends, and gives the first of its sockets' addresses.
func respond(t *testing.T, host *netns.Host, addrs ...string) netip.AddrPort {
	t.Helper()
	var sockets stun.Sockets
	var conns [2][2]dgram.Conn
	for i, a := range addrs {
		for j, port := range []uint16{443, 3478} {
			sockets[i][j] = netip.AddrPortFrom(netip.MustParseAddr(a), port)
			c, err := inside{host}.ListenUDP(sockets[i][j])
			if err != nil {
				t.Fatal(err)
			}
			conns[i][j] = c
			t.Cleanup(func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	r := stun.NewResponder(sockets)
	for i := range addrs {
		for j := range 2 {
			go answer(t, r, stun.Socket{Address: uint8(i), Port: uint8(j)}, conns)
		}
	}
	return sockets[0][0]
}

// answer reads one of a responder's sockets until it is closed.
func answer(t *testing.T, r *stun.Responder, in stun.Socket, conns [2][2]dgram.Conn) {
	var arena dgram.Arena
	defer arena.Release()
	for {
		bursts, err := conns[in.Address][in.Port].Read(&arena)
		if err != nil {
			return
		}
		for _, burst := range bursts {
			for b := range burst.All() {
				a, ok := r.Answer(time.Now(), in, burst.Addr, b)
				if !ok {
					continue
				}
				if err := conns[a.From.Address][a.From.Port].Write(dgram.One(a.To, a.Message)); err != nil {
					t.Errorf("answer %v: %v", a.To, err)
				}
			}
		}
	}
}
