package share

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"rendezvous/internal/ops"
)

// Settings are `share:` in the coordinator's configuration.
type Settings struct {
	Inspect  time.Duration             `yaml:"inspect"` // 0: DefaultInspect
	Backends map[string]BackendSetting `yaml:"backends"`
	TCP      []RuleSetting             `yaml:"tcp"`
	UDP      []RuleSetting             `yaml:"udp"`
	Limits   LimitSettings             `yaml:"limits"`
}

// BackendSetting is another program.
type BackendSetting struct {
	TCP   string `yaml:"tcp"` // IP:PORT
	UDP   string `yaml:"udp"`
	Proxy bool   `yaml:"proxy"`
}

// RuleSetting is a rule as it is written.
type RuleSetting struct {
	Is     string   `yaml:"is"`
	To     string   `yaml:"to"`
	Names  ops.List `yaml:"names"`
	ALPN   ops.List `yaml:"alpn"`
	Keys   ops.List `yaml:"keys"`
	At     int      `yaml:"at"`
	Value  string   `yaml:"value"` // hexadecimal
	Mask   string   `yaml:"mask"`
	Length string   `yaml:"length"` // "100" or "20-100"
}

// LimitSettings are Limits; 0 is the default.
type LimitSettings struct {
	Connections          int           `yaml:"connections"`
	ConnectionsPerSource int           `yaml:"connections_per_source"`
	Flows                int           `yaml:"flows"`
	FlowsPerSource       int           `yaml:"flows_per_source"`
	FlowsSecond          float64       `yaml:"flows_second"`
	Idle                 time.Duration `yaml:"idle"`
	Unanswered           time.Duration `yaml:"unanswered"`
}

// Used says whether anything is to be shared.
func (s *Settings) Used() bool { return len(s.TCP) > 0 || len(s.UDP) > 0 || len(s.Backends) > 0 }

// faults are all that is wrong, each with the key that it is about.
type faults struct {
	from *ops.Source
	all  []error
}

// key is the way to a setting of `share:`.
func key(format string, args ...any) string { return "share." + fmt.Sprintf(format, args...) }

func (f *faults) note(key, format string, args ...any) {
	f.all = append(f.all, ops.Faultf(key, format, args...))
}

// line is where a rule stands, for what is said of another.
func (f *faults) line(r *Rule) int { return f.from.Line(r.key) }

// Parse finds all faults at once. They tell of other lines of the source, whose
// own Check gives them theirs.
func (s *Settings) Parse(from *ops.Source) (Config, error) {
	all := faults{from: from}
	c := Config{Inspect: s.Inspect, Limits: Limits(s.Limits)}
	if c.Inspect == 0 {
		c.Inspect = DefaultInspect
	}
	if c.Inspect < 0 || c.Inspect > mostInspect {
		all.note(key("inspect"), "it is %v, and may be up to %v", s.Inspect, mostInspect)
	}
	s.Limits.check(&all)
	for _, name := range slices.Sorted(maps.Keys(s.Backends)) {
		c.Backends = append(c.Backends, s.Backends[name].parse(name, &all))
	}
	c.TCP = parseRules(s.TCP, false, &all)
	c.UDP = parseRules(s.UDP, true, &all)
	checkBackends(s, &all)
	checkReach(c.TCP, false, &all)
	checkReach(c.UDP, true, &all)
	return c, errors.Join(all.all...)
}

// mostInspect is less than a connection has in all.
const mostInspect = 9 * time.Second

func (l LimitSettings) check(all *faults) {
	for _, each := range []struct {
		key   string
		value float64
	}{
		{"connections", float64(l.Connections)}, {"connections_per_source", float64(l.ConnectionsPerSource)},
		{"flows", float64(l.Flows)}, {"flows_per_source", float64(l.FlowsPerSource)}, {"flows_second", l.FlowsSecond},
		{"idle", l.Idle.Seconds()}, {"unanswered", l.Unanswered.Seconds()},
	} {
		if each.value < 0 {
			all.note(key("limits.%s", each.key), "it is below 0; 0 takes the default")
		}
	}
}

func (b BackendSetting) parse(name string, all *faults) Backend {
	out := Backend{Name: name, Proxy: b.Proxy}
	at := key("backends.%s", name)
	if b.TCP == "" && b.UDP == "" {
		all.note(at, "it has neither tcp nor udp; give it an address, as {tcp: \"127.0.0.1:8443\"}")
	}
	for _, each := range []struct {
		key, addr string
		to        *netip.AddrPort
	}{{at + ".tcp", b.TCP, &out.TCP}, {at + ".udp", b.UDP, &out.UDP}} {
		if each.addr == "" {
			continue
		}
		a, err := netip.ParseAddrPort(each.addr)
		if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			all.note(each.key, "%q is not IP:PORT, as 127.0.0.1:8443; names are not looked up here", each.addr)
			continue
		}
		*each.to = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	if b.Proxy && b.TCP == "" {
		all.note(at+".proxy", "it is for TCP, which %s does not serve", name)
	}
	return out
}

// The sorts of content over each transport.
var (
	overTCP = []Is{TLS, SSH, HTTP, OpenVPN, Bytes, Silence, Anything}
	overUDP = []Is{QUIC, DTLS, WireGuard, OpenVPN, Bytes}
)

// over is where rules stand, and of which content they may be.
func over(udp bool) (name string, known []Is) {
	if udp {
		return "udp", overUDP
	}
	return "tcp", overTCP
}

func parseRules(in []RuleSetting, udp bool, all *faults) (out []Rule) {
	name, known := over(udp)
	for i := range in {
		r, at := &in[i], key("%s[%d]", name, i)
		if !slices.Contains(known, Is(r.Is)) {
			all.note(at+".is", "%q is nothing that is known over %s; there are %v", r.Is, strings.ToUpper(name), known)
			continue
		}
		before := len(all.all)
		rule := r.parse(udp, at, all)
		if len(all.all) == before {
			out = append(out, rule)
		}
	}
	return out
}

func (r *RuleSetting) parse(udp bool, at string, all *faults) Rule {
	out := Rule{Is: Is(r.Is), To: r.To, ALPN: r.ALPN, key: at}
	for _, only := range []struct {
		key  string
		used bool
		of   []Is
	}{
		{"names", r.Names != nil, []Is{TLS, QUIC}}, {"alpn", r.ALPN != nil, []Is{TLS, QUIC}},
		{"keys", r.Keys != nil, []Is{OpenVPN}}, {"value", r.Value != "", []Is{Bytes}},
		{"mask", r.Mask != "", []Is{Bytes}}, {"at", r.At != 0, []Is{Bytes}}, {"length", r.Length != "", []Is{Bytes}},
	} {
		if only.used && !slices.Contains(only.of, out.Is) {
			all.note(at+"."+only.key, "it is for %v, not for %s", only.of, out.Is)
		}
	}
	for _, list := range []struct {
		key string
		of  ops.List
	}{{"names", r.Names}, {"alpn", r.ALPN}, {"keys", r.Keys}} {
		if list.of != nil && len(list.of) == 0 {
			all.note(at+"."+list.key, "there is nothing in it; leave it out for any")
		}
	}
	for _, n := range r.Names {
		n = plainName(n)
		if n == "" || n == "*" || strings.Contains(strings.TrimPrefix(n, "*."), "*") {
			all.note(at+".names", "%q is neither a name nor *.NAME; leave names out for any", n)
		}
		out.Names = append(out.Names, n)
	}
	for _, k := range r.Keys {
		if !slices.Contains(allKeys, Keys(k)) {
			all.note(at+".keys", "%q is no way of OpenVPN's keys; there are %v", k, allKeys)
		}
		out.Keys = append(out.Keys, Keys(k))
	}
	if out.Is == Bytes {
		out.Bytes = r.pattern(udp, at, all)
	}
	return out
}

// mostPattern is how far into a connection or datagram a pattern may look.
const mostPattern = 256

func (r *RuleSetting) pattern(udp bool, at string, all *faults) Shape {
	shape := Shape{Max: mostDatagram}
	value, err := hex.DecodeString(strings.ReplaceAll(r.Value, " ", ""))
	if err != nil || len(value) == 0 {
		all.note(at+".value", "%q is no bytes in hexadecimal, as 16fe", r.Value)
	}
	var mask []byte
	if r.Mask != "" {
		if mask, err = hex.DecodeString(strings.ReplaceAll(r.Mask, " ", "")); err != nil || len(mask) != len(value) {
			all.note(at+".mask", "%q is not as many bytes in hexadecimal as the value", r.Mask)
			mask = nil
		}
	}
	if r.At < 0 || r.At+len(value) > mostPattern {
		all.note(at+".at", "the pattern ends at byte %d; the first %d are looked at", r.At+len(value), mostPattern)
	}
	for i := range mask {
		value[i] &= mask[i]
	}
	shape.Fields = []Field{{At: r.At, Value: value, Mask: mask}}
	if shape.bits() < leastBits {
		all.note(at, "the pattern looks at %d bits; it takes %d at least, or too much would match by chance", shape.bits(), leastBits)
	}
	r.lengths(udp, at+".length", &shape, all)
	return shape
}

// leastBits is what a pattern must look at: of random datagrams of its lengths
// 1 in 256 matches then.
const leastBits = 8

func (r *RuleSetting) lengths(udp bool, at string, shape *Shape, all *faults) {
	switch {
	case !udp && r.Length != "":
		all.note(at, "it is for datagrams; over TCP bytes come in any pieces")
		return
	case !udp:
		return
	}
	low, high, ranged := strings.Cut(r.Length, "-")
	if !ranged {
		high = low
	}
	from, err1 := strconv.Atoi(strings.TrimSpace(low))
	to, err2 := strconv.Atoi(strings.TrimSpace(high))
	if err1 != nil || err2 != nil || from < 1 || from > to || to > mostDatagram {
		all.note(at, "%q is neither a number of bytes nor a range, as 20-100; a pattern over UDP takes one, as bytes alone would match too much", r.Length)
		return
	}
	shape.Min, shape.Max = from, to
	if end := shape.Fields[0].end(); from < end {
		all.note(at, "a datagram of %d bytes ends before the pattern does, at %d", from, end)
	}
}
