package share

import (
	"fmt"
	"slices"
)

// checkBackends wants each rule to lead somewhere, and each backend to be used.
func checkBackends(c *Config, backends map[string]Backend, s *Settings, all *faults) {
	used := map[string]bool{}
	for _, each := range []struct {
		rules []RuleSetting
		has   func(Backend) bool
		over  string
	}{
		{s.TCP, func(b Backend) bool { return b.TCP.IsValid() || s.Backends[b.Name].TCP.text != "" }, "tcp"},
		{s.UDP, func(b Backend) bool { return b.UDP.IsValid() || s.Backends[b.Name].UDP.text != "" }, "udp"},
	} {
		for i := range each.rules {
			r := &each.rules[i]
			b, ok := backends[r.To.text]
			used[r.To.text] = true
			switch {
			case r.To.text == "":
				all.note(r.line(), "a rule without to: name one of the backends")
			case !ok:
				all.note(r.line(), "there is no backend %q; add it to backends", r.To.text)
			case !each.has(b):
				all.note(r.line(), "backend %s has no %s address", b.Name, each.over)
			}
		}
	}
	for _, b := range c.Backends {
		if !used[b.Name] {
			*all = append(*all, fmt.Errorf("share: no rule leads to backend %s; add one, or remove it", b.Name))
		}
	}
}

// checkReach finds rules that another one leaves nothing to, and patterns that
// one datagram could match both: by which of them it goes must not depend on
// what the file says first. (Over TCP, what is known goes before patterns.)
func checkReach(rules []Rule, udp bool, all *faults) {
	for i := range rules {
		for j := range i {
			a, b := &rules[j], &rules[i] // a comes first
			switch {
			case a.Is != b.Is:
				if udp && alike(a, b) {
					all.note(b.line, "some datagrams are %s and match %s on line %d too; tell them apart by length, value or mask", b.Is, a.Is, a.line)
				}
			case b.Is == Bytes:
				if a.Bytes.collides(&b.Bytes) {
					all.note(b.line, "the pattern collides with that on line %d: lengths and bytes can match both; tell them apart by length, value or mask", a.line)
				}
			case b.Is == OpenVPN:
				if k, ok := sameKeys(a, b); ok {
					all.note(b.line, "OpenVPN with keys %s goes by line %d already", k, a.line)
				}
			case b.Is == TLS || b.Is == QUIC:
				if covers(a, b) {
					all.note(b.line, "nothing is left to this rule: line %d takes all that it would", a.line)
				}
			default:
				all.note(b.line, "%s goes by line %d already", b.Is, a.line)
			}
		}
	}
}

// alike says whether a pattern could match what another sort of content looks
// like over UDP. If it looks at none of the same bytes that is chance: what we
// know takes 20 bits at least.
func alike(a, b *Rule) bool {
	if a.Is != Bytes && b.Is != Bytes {
		return false // those are apart from each other
	}
	return slices.ContainsFunc(a.known(), func(s Shape) bool {
		return slices.ContainsFunc(b.known(), func(o Shape) bool { return s.collides(&o) && s.near(&o) })
	})
}

// known are all shapes of a rule.
func (r *Rule) known() []Shape {
	out := r.shapes()
	if r.Is == OpenVPN {
		for _, k := range allKeys {
			if len(r.Keys) == 0 || slices.Contains(r.Keys, k) {
				out = append(out, vpnShapes[k]...)
			}
		}
	}
	return out
}

// sameKeys gives the first way of keys that both rules are for.
func sameKeys(a, b *Rule) (Keys, bool) {
	for _, k := range allKeys {
		if (len(a.Keys) == 0 || slices.Contains(a.Keys, k)) && (len(b.Keys) == 0 || slices.Contains(b.Keys, k)) {
			return k, true
		}
	}
	return "", false
}

// covers says whether each hello that b would take, a takes: each of b's names
// and ALPNs is one of a's.
func covers(a, b *Rule) bool {
	within := func(wide, narrow []string, is func(w, n string) bool) bool {
		switch {
		case len(wide) == 0:
			return true
		case len(narrow) == 0:
			return false
		}
		return !slices.ContainsFunc(narrow, func(n string) bool {
			return !slices.ContainsFunc(wide, func(w string) bool { return is(w, n) })
		})
	}
	return within(a.Names, b.Names, nameCovers) && within(a.ALPN, b.ALPN, func(w, n string) bool { return w == n })
}
