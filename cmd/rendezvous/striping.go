package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/stripe"
)

// striping is `stripe:` in rendezvous.yaml.
type striping struct {
	Apply     bool     `yaml:"apply"`     // while serve runs
	Addresses ops.List `yaml:"addresses"` // of this host; empty: found out
	Exclude   ops.List `yaml:"exclude"`   // ports and ranges that are another program's
	Reserved  ops.List `yaml:"reserved"`  // ports and ranges for public ports of services
	UDP       int      `yaml:"udp"`       // the port that others lead to; 0: the one listened on, -1: none
	TCP       int      `yaml:"tcp"`       // likewise
}

// striped is striping as values.
type striped struct {
	addrs    []netip.Addr
	exclude  stripe.Ports
	udp, tcp int
}

func (s *striping) check() (out striped, err error) {
	var faults []error
	for i, a := range s.Addresses {
		ip, err := netip.ParseAddr(a)
		if err != nil {
			faults = append(faults, ops.Faultf(fmt.Sprintf("stripe.addresses[%d]", i), "%q is no IP address", a))
			continue
		}
		out.addrs = append(out.addrs, ip.Unmap())
	}
	for _, each := range []struct {
		name string
		list ops.List
	}{{"exclude", s.Exclude}, {"reserved", s.Reserved}} {
		ports, err := stripe.ParsePorts(strings.Join(each.list, ","))
		if err != nil {
			faults = append(faults, ops.FaultOf("stripe."+each.name, err))
		}
		out.exclude = out.exclude.With(ports)
	}
	for _, each := range []struct {
		key  string
		port int
	}{{"udp", s.UDP}, {"tcp", s.TCP}} {
		if each.port < -1 || each.port > 65535 {
			faults = append(faults, ops.Faultf("stripe."+each.key, "%d is not 1 to 65535, nor 0 for the port listened on, nor -1 for none", each.port))
		}
	}
	out.udp, out.tcp = s.UDP, s.TCP
	return out, errors.Join(faults...)
}

// listening is where a coordinator listens, its main port first.
type listening struct{ udp, tcp []netip.AddrPort }

// config is what is to lead where for a coordinator that listens there.
func (s *striped) config(p parsed, l listening) (stripe.Config, error) {
	c := stripe.Config{Exclude: s.exclude, Addrs: s.addrs}
	c.UDP = leadTo(s.udp, l.udp, p.listen.Port())
	c.TCP = leadTo(s.tcp, l.tcp, p.listen.Port())
	if len(c.Addrs) > 0 {
		return c, nil
	}
	var err error
	c.Addrs, err = ownAddrs(dgram.System(dgram.Options{}), p)
	return c, err
}

// sumless names an interface of the striped addresses that computes no
// checksums, which takes care (see stripe.WithoutChecksums).
func (s *striped) sumless(p parsed) string {
	c, err := s.config(p, listening{})
	if err != nil {
		return "" // said where the rules are made
	}
	return stripe.WithoutChecksums(c.Addrs)
}

// leadTo is the port that others lead to: the one that was set, else the main
// one, else one that is open.
func leadTo(set int, open []netip.AddrPort, main uint16) uint16 {
	switch {
	case set < 0 || len(open) == 0:
		return 0
	case set > 0:
		return uint16(set)
	case slices.ContainsFunc(open, func(a netip.AddrPort) bool { return a.Port() == main }):
		return main
	}
	return open[0].Port()
}

// ownAddrs are the addresses of this host that agents come to: the public ones
// that are its own, else the one it listens on, else all of the interface that
// leads outside.
func ownAddrs(n dgram.Network, p parsed) ([]netip.Addr, error) {
	hosts, err := n.Addrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this host: %w", err)
	}
	own := func(a netip.Addr) bool {
		return slices.ContainsFunc(hosts, func(h dgram.HostAddr) bool { return h.Addr.Addr().Unmap() == a })
	}
	if listen := p.listen.Addr(); listen.IsValid() && !listen.IsUnspecified() {
		return []netip.Addr{listen}, nil
	}
	if public := slices.DeleteFunc(slices.Clone(p.public), func(a netip.Addr) bool { return !own(a) }); len(public) > 0 {
		return public, nil
	}
	var outside []string
	for _, v4 := range []bool{true, false} {
		best, _ := rendezvous.OutsideAddr(n, v4)
		for _, h := range hosts {
			if h.Addr.Addr().Unmap() == best {
				outside = append(outside, h.Interface)
			}
		}
	}
	var out []netip.Addr
	for _, h := range hosts {
		a := h.Addr.Addr().Unmap()
		if h.Up && a.IsGlobalUnicast() && slices.Contains(outside, h.Interface) {
			out = append(out, a)
		}
	}
	return out, nil
}

// withStripe adds to what a daemon answers what is to lead where.
func withStripe(rest http.Handler, config func() (stripe.Config, error)) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	ops.Handle(mux, pathStripe, func(context.Context, struct{}) (stripe.Config, error) { return config() })
	return mux
}
