package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/share"
	"rendezvous/internal/stripe"
)

// settings are rendezvous.yaml; flags override them.
type settings struct {
	Listen        string   `yaml:"listen"`         // ":443" or "IP:443"
	AlternatePort int      `yaml:"alternate_port"` // 0: none
	Ports         []int    `yaml:"ports"`          // more ports
	TCP           bool     `yaml:"tcp"`
	FakeTCP       bool     `yaml:"faketcp"`
	PublicAddr    ops.List `yaml:"public_addr"`
	Host          string   `yaml:"host"` // HOST or HOST:PORT of join links
	State         string   `yaml:"state"`
	Metrics       string   `yaml:"metrics"` // "127.0.0.1:9090"; empty: none
	Log           string   `yaml:"log"`     // a level
	Offload       bool     `yaml:"offload"`
	Limits        limits   `yaml:"limits"`
	portSettings  `yaml:",inline"`
	from          *ops.Source
}

// portSettings are what else comes of this host's ports.
type portSettings struct {
	Stripe  striping       `yaml:"stripe"`
	Share   share.Settings `yaml:"share"` // the coordinator's ports with other programs
	Publish []publishing   `yaml:"publish"`
}

// limits are what agents may take; 0 is the default.
type limits struct {
	Connections          int     `yaml:"connections"`
	ConnectionsPerSource int     `yaml:"connections_per_source"` // over TCP
	Introductions        int     `yaml:"introductions"`
	RelayAllocations     int     `yaml:"relay_allocations"`
	RelayPerMember       int     `yaml:"relay_per_member"`
	RelayPublic          int     `yaml:"relay_public"`           // of all public ports: clients and spares
	RelayMegabits        float64 `yaml:"relay_megabits"`         // a second, of one session and direction
	RelayDatagramsSecond float64 `yaml:"relay_datagrams_second"` // likewise
}

func defaultSettings() settings {
	return settings{
		Listen:        ":" + strconv.Itoa(rendezvous.DefaultPort),
		AlternatePort: rendezvous.DefaultAlternate,
		TCP:           true,
		FakeTCP:       true,
		Log:           "info",
		Offload:       true,
		from:          &ops.Source{},
	}
}

// read reads a file over the settings.
func (s *settings) read(file string) (err error) {
	s.from, err = ops.ReadConfig(file, s)
	return err
}

// parsed are settings as values.
type parsed struct {
	listen netip.AddrPort
	public []netip.Addr
	ports  []uint16
	host   host
	stripe striped
	share  *share.Config // nil: nothing is shared

	publish []rendezvous.PublishRule
}

// host is what join links name; an empty name is to be found out, and port 0
// is the one listened on.
type host struct {
	name string
	port uint16
}

// Check finds all faults at once, and gives the values.
func (s *settings) Check() (parsed, error) {
	var p parsed
	var faults []error
	note := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	var err error
	p.listen, err = parseListen(s.Listen)
	note(err)
	for i, a := range s.PublicAddr {
		ip, err := netip.ParseAddr(a)
		if err != nil {
			err = ops.Faultf(fmt.Sprintf("public_addr[%d]", i), "%q is no IP address; a DNS name belongs to host", a)
		}
		note(err)
		p.public = append(p.public, ip.Unmap())
	}
	p.host, err = parseHost(s.Host)
	note(err)
	if s.AlternatePort < 0 || s.AlternatePort > 65535 {
		note(ops.Faultf("alternate_port", "%d is not 1 to 65535, nor 0 for none", s.AlternatePort))
	} else if s.AlternatePort != 0 && s.AlternatePort == int(p.listen.Port()) {
		note(ops.Faultf("alternate_port", "%d is also the port to listen on; choose another, or 0 for none", s.AlternatePort))
	}
	p.ports, err = portNumbers(s.Ports)
	note(err)
	if s.Metrics != "" {
		if _, _, err := net.SplitHostPort(s.Metrics); err != nil {
			note(ops.Faultf("metrics", "%q is not ADDRESS:PORT", s.Metrics))
		}
	}
	if !slices.Contains(ops.LogLevels[:], s.Log) && s.Log != "" {
		note(ops.Faultf("log", "there is no level %q; there are %v", s.Log, ops.LogLevels))
	}
	note(s.Limits.check())
	note(s.checkPublish(&p))
	p.stripe, err = s.Stripe.check()
	note(err)
	for _, rule := range p.publish {
		p.stripe.exclude = p.stripe.exclude.With(stripe.Of(rule.Ports...))
	}
	p.stripe.exclude = p.stripe.exclude.With(stripe.Single(append(p.ports, uint16(max(s.AlternatePort, 0)))...))
	if s.Share.Used() {
		shared, err := s.Share.Parse(s.from)
		note(err)
		p.share = &shared
	}
	return p, s.from.Check(errors.Join(faults...))
}

func (l *limits) check() error {
	var faults []error
	for _, each := range []struct {
		key   string
		value float64
	}{
		{"connections", float64(l.Connections)}, {"connections_per_source", float64(l.ConnectionsPerSource)}, {"introductions", float64(l.Introductions)},
		{"relay_allocations", float64(l.RelayAllocations)}, {"relay_per_member", float64(l.RelayPerMember)}, {"relay_public", float64(l.RelayPublic)},
		{"relay_megabits", l.RelayMegabits}, {"relay_datagrams_second", l.RelayDatagramsSecond},
	} {
		if each.value < 0 {
			faults = append(faults, ops.Faultf("limits."+each.key, "it is %v; 0 takes the default", each.value))
		}
	}
	return errors.Join(faults...)
}

// parseListen reads ":443", "IP:443" or "[IP]:443".
func parseListen(s string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, ops.Faultf("listen", "%q is neither :PORT nor IP:PORT", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, ops.Faultf("listen", "%q in %q is no port", port, s)
	}
	var ip netip.Addr
	if host != "" {
		if ip, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, ops.Faultf("listen", "%q in %q is no IP address of this host; leave it out to listen on all", host, s)
		}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

// portNumbers are ports as values.
func portNumbers(in []int) (out []uint16, err error) {
	for i, n := range in {
		if n < 1 || n > 65535 {
			err = errors.Join(err, ops.Faultf(fmt.Sprintf("ports[%d]", i), "%d is not 1 to 65535", n))
			continue
		}
		out = append(out, uint16(n))
	}
	return out, err
}

// parseHost reads HOST or HOST:PORT; an IPv6 address is in brackets when a
// port follows.
func parseHost(s string) (host, error) {
	if _, err := netip.ParseAddr(s); err == nil || s == "" {
		return host{name: s}, nil
	}
	name, port, err := net.SplitHostPort(s)
	if err != nil {
		name, port = s, "0"
	} else if port == "0" {
		port = "none"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return host{}, ops.Faultf("host", "the port in %q is not 1 to 65535", s)
	}
	if _, err := netip.ParseAddr(name); err != nil && !isName(name) {
		return host{}, ops.Faultf("host", "%q is neither a DNS name nor an IP address, with or without a port", s)
	}
	return host{name, uint16(n)}, nil
}

// nameForm is a host name as RFC 1123 section 2.1 has it, and underscores.
var nameForm = regexp.MustCompile(`^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*\.?$`)

// isName says whether s can be a name in the DNS.
func isName(s string) bool { return len(s) <= 253 && nameForm.MatchString(s) }
