package share

import (
	"maps"
	"slices"
)

// checkBackends wants each rule to lead somewhere, and each backend to be used.
func checkBackends(s *Settings, all *faults) {
	used := map[string]bool{}
	for _, each := range []struct {
		name  string
		rules []RuleSetting
		has   func(BackendSetting) bool
	}{
		{"tcp", s.TCP, func(b BackendSetting) bool { return b.TCP != "" }},
		{"udp", s.UDP, func(b BackendSetting) bool { return b.UDP != "" }},
	} {
		for i, r := range each.rules {
			at := key("%s[%d]", each.name, i)
			b, ok := s.Backends[r.To]
			used[r.To] = true
			switch {
			case r.To == "":
				all.note(at, "a rule without to: name one of the backends")
			case !ok:
				all.note(at+".to", "there is no backend %q; add it to backends", r.To)
			case !each.has(b):
				all.note(at+".to", "backend %s has no %s address", r.To, each.name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Backends)) {
		if !used[name] {
			all.note(key("backends.%s", name), "no rule leads to it; add one, or remove it")
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
					all.note(b.key, "some datagrams are %s and match %s on line %d too; tell them apart by length, value or mask", b.Is, a.Is, all.line(a))
				}
			case b.Is == Bytes:
				if a.Bytes.collides(&b.Bytes) {
					all.note(b.key, "the pattern collides with that on line %d: lengths and bytes can match both; tell them apart by length, value or mask", all.line(a))
				}
			case b.Is == OpenVPN:
				if k, ok := sameKeys(a, b); ok {
					all.note(b.key, "OpenVPN with keys %s goes by line %d already", k, all.line(a))
				}
			case b.Is == TLS || b.Is == QUIC:
				if covers(a, b) {
					all.note(b.key, "nothing is left to this rule: line %d takes all that it would", all.line(a))
				}
			default:
				all.note(b.key, "%s goes by line %d already", b.Is, all.line(a))
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
