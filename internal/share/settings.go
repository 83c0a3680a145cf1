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

	"go.yaml.in/yaml/v3"
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
	TCP   word `yaml:"tcp"` // IP:PORT
	UDP   word `yaml:"udp"`
	Proxy bool `yaml:"proxy"`
}

// RuleSetting is a rule as it is written.
type RuleSetting struct {
	Is     word  `yaml:"is"`
	To     word  `yaml:"to"`
	Names  words `yaml:"names"`
	ALPN   words `yaml:"alpn"`
	Keys   words `yaml:"keys"`
	At     int   `yaml:"at"`
	Value  word  `yaml:"value"` // hexadecimal
	Mask   word  `yaml:"mask"`
	Length word  `yaml:"length"` // "100" or "20-100"
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

// word is a string that knows its line.
type word struct {
	text string
	line int
}

// UnmarshalYAML is that of package yaml.
func (w *word) UnmarshalYAML(n *yaml.Node) error {
	w.line = n.Line
	return n.Decode(&w.text)
}

// words are one or a list of them.
type words struct {
	all  []string
	line int
}

// UnmarshalYAML is that of package yaml.
func (w *words) UnmarshalYAML(n *yaml.Node) error {
	w.line = n.Line
	if n.Kind == yaml.ScalarNode {
		w.all = make([]string, 1)
		return n.Decode(&w.all[0])
	}
	return n.Decode(&w.all)
}

// Used says whether anything is to be shared.
func (s *Settings) Used() bool { return len(s.TCP) > 0 || len(s.UDP) > 0 || len(s.Backends) > 0 }

// faults are all that is wrong, each with its line.
type faults []error

func (f *faults) note(line int, format string, args ...any) {
	*f = append(*f, fmt.Errorf("line %d: share: "+format, append([]any{line}, args...)...))
}

// Parse finds all faults at once.
func (s *Settings) Parse() (Config, error) {
	var all faults
	c := Config{Inspect: s.Inspect, Limits: Limits(s.Limits)}
	if c.Inspect == 0 {
		c.Inspect = DefaultInspect
	}
	if c.Inspect < 0 || c.Inspect > mostInspect {
		all = append(all, fmt.Errorf("share: inspect is %v; it may be up to %v", s.Inspect, mostInspect))
	}
	if l := s.Limits; min(l.Connections, l.ConnectionsPerSource, l.Flows, l.FlowsPerSource) < 0 || l.FlowsSecond < 0 || min(l.Idle, l.Unanswered) < 0 {
		all = append(all, errors.New("share: limits: none may be negative; 0 takes the default"))
	}
	backends := map[string]Backend{}
	for _, name := range slices.Sorted(maps.Keys(s.Backends)) {
		b := s.Backends[name].parse(name, &all)
		backends[name] = b
		c.Backends = append(c.Backends, b)
	}
	c.TCP = parseRules(s.TCP, false, &all)
	c.UDP = parseRules(s.UDP, true, &all)
	checkBackends(&c, backends, s, &all)
	checkReach(c.TCP, false, &all)
	checkReach(c.UDP, true, &all)
	return c, errors.Join(all...)
}

// mostInspect is less than a connection has in all.
const mostInspect = 9 * time.Second

func (b BackendSetting) parse(name string, all *faults) Backend {
	out := Backend{Name: name, Proxy: b.Proxy}
	if b.TCP.text == "" && b.UDP.text == "" {
		*all = append(*all, fmt.Errorf("share: backend %s has neither tcp nor udp; give it an address, as {tcp: \"127.0.0.1:8443\"}", name))
	}
	for _, each := range []struct {
		from word
		to   *netip.AddrPort
	}{{b.TCP, &out.TCP}, {b.UDP, &out.UDP}} {
		if each.from.text == "" {
			continue
		}
		a, err := netip.ParseAddrPort(each.from.text)
		if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			all.note(each.from.line, "backend %s: %q is not IP:PORT, as 127.0.0.1:8443; names are not looked up here", name, each.from.text)
			continue
		}
		*each.to = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	if b.Proxy && b.TCP.text == "" {
		all.note(b.UDP.line, "backend %s: proxy is for TCP, which it does not serve", name)
	}
	return out
}

// The sorts of content over each transport.
var (
	overTCP = []Is{TLS, SSH, HTTP, OpenVPN, Bytes, Silence, Anything}
	overUDP = []Is{QUIC, DTLS, WireGuard, OpenVPN, Bytes}
)

func parseRules(in []RuleSetting, udp bool, all *faults) (out []Rule) {
	known, over := overTCP, "TCP"
	if udp {
		known, over = overUDP, "UDP"
	}
	for i := range in {
		r := &in[i]
		line := r.line()
		if !slices.Contains(known, Is(r.Is.text)) {
			all.note(line, "%q is nothing that is known over %s; there are %v", r.Is.text, over, known)
			continue
		}
		before := len(*all)
		rule := r.parse(udp, line, all)
		if len(*all) == before {
			out = append(out, rule)
		}
	}
	return out
}

// line is the first that is known of a rule.
func (r *RuleSetting) line() int {
	for _, n := range []int{r.Is.line, r.To.line, r.Names.line, r.ALPN.line, r.Keys.line, r.Value.line} {
		if n > 0 {
			return n
		}
	}
	return 0
}

func (r *RuleSetting) parse(udp bool, line int, all *faults) Rule {
	out := Rule{Is: Is(r.Is.text), To: r.To.text, ALPN: r.ALPN.all, line: line}
	for _, only := range []struct {
		key  string
		used bool
		of   []Is
	}{
		{"names", r.Names.all != nil, []Is{TLS, QUIC}}, {"alpn", r.ALPN.all != nil, []Is{TLS, QUIC}},
		{"keys", r.Keys.all != nil, []Is{OpenVPN}}, {"value", r.Value.text != "", []Is{Bytes}},
		{"mask", r.Mask.text != "", []Is{Bytes}}, {"at", r.At != 0, []Is{Bytes}},
	} {
		if only.used && !slices.Contains(only.of, out.Is) {
			all.note(line, "%s is for %v, not for %s", only.key, only.of, out.Is)
		}
	}
	for _, n := range r.Names.all {
		n = plainName(n)
		if n == "" || n == "*" || strings.Contains(strings.TrimPrefix(n, "*."), "*") {
			all.note(line, "%q is neither a name nor *.NAME; leave names out for any", n)
		}
		out.Names = append(out.Names, n)
	}
	for _, k := range r.Keys.all {
		if !slices.Contains(allKeys, Keys(k)) {
			all.note(line, "%q is no way of OpenVPN's keys; there are %v", k, allKeys)
		}
		out.Keys = append(out.Keys, Keys(k))
	}
	if out.Is == Bytes {
		out.Bytes = r.pattern(udp, line, all)
	} else if r.Length.text != "" {
		all.note(line, "length is for bytes; that of %s is known", out.Is)
	}
	return out
}

// mostPattern is how far into a connection or datagram a pattern may look.
const mostPattern = 256

func (r *RuleSetting) pattern(udp bool, line int, all *faults) Shape {
	shape := Shape{Max: mostDatagram}
	value, err := hex.DecodeString(strings.ReplaceAll(r.Value.text, " ", ""))
	if err != nil || len(value) == 0 {
		all.note(line, "value %q is no bytes in hexadecimal, as 16fe", r.Value.text)
	}
	var mask []byte
	if r.Mask.text != "" {
		if mask, err = hex.DecodeString(strings.ReplaceAll(r.Mask.text, " ", "")); err != nil || len(mask) != len(value) {
			all.note(line, "mask %q is not as many bytes in hexadecimal as the value", r.Mask.text)
			mask = nil
		}
	}
	if r.At < 0 || r.At+len(value) > mostPattern {
		all.note(line, "the pattern ends at byte %d; the first %d are looked at", r.At+len(value), mostPattern)
	}
	for i := range mask {
		value[i] &= mask[i]
	}
	shape.Fields = []Field{{At: r.At, Value: value, Mask: mask}}
	if shape.bits() < leastBits {
		all.note(line, "the pattern looks at %d bits; it takes %d at least, or too much would match by chance", shape.bits(), leastBits)
	}
	r.lengths(udp, line, &shape, all)
	return shape
}

// leastBits is what a pattern must look at: of random datagrams of its lengths
// 1 in 256 matches then.
const leastBits = 8

func (r *RuleSetting) lengths(udp bool, line int, shape *Shape, all *faults) {
	switch {
	case !udp && r.Length.text != "":
		all.note(line, "length is for datagrams; over TCP bytes come in any pieces")
		return
	case !udp:
		return
	}
	low, high, ranged := strings.Cut(r.Length.text, "-")
	if !ranged {
		high = low
	}
	from, err1 := strconv.Atoi(strings.TrimSpace(low))
	to, err2 := strconv.Atoi(strings.TrimSpace(high))
	if err1 != nil || err2 != nil || from < 1 || from > to || to > mostDatagram {
		all.note(line, "length %q is neither a number of bytes nor a range, as 20-100; a pattern over UDP takes one, as bytes alone would match too much", r.Length.text)
		return
	}
	shape.Min, shape.Max = from, to
	if end := shape.Fields[0].end(); from < end {
		all.note(line, "a datagram of %d bytes ends before the pattern does, at %d", from, end)
	}
}
