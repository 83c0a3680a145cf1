package share

import (
	"slices"
	"strings"
)

// plainName is a server name as names are compared.
func plainName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

// nameMatches says whether a pattern, "www.example.org" or "*.example.org",
// covers a name. The star stands for one label or more.
func nameMatches(pattern, name string) bool {
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(name) > len(suffix) && strings.HasSuffix(name, suffix)
	}
	return pattern == name
}

// nameCovers says whether all that a pattern covers, another does too.
func nameCovers(wide, narrow string) bool {
	if wide == "" {
		return true
	}
	if suffix, ok := strings.CutPrefix(wide, "*"); ok {
		return strings.HasSuffix(narrow, suffix) // "*.a.org" has it too
	}
	return wide == narrow
}

// takes says whether a rule for TLS or QUIC is for a hello.
func (r *Rule) takes(h Hello) bool {
	if len(r.Names) > 0 && !slices.ContainsFunc(r.Names, func(p string) bool { return nameMatches(p, h.ServerName) }) {
		return false
	}
	return len(r.ALPN) == 0 || slices.ContainsFunc(r.ALPN, func(p string) bool { return slices.Contains(h.Protocols, p) })
}

// owns says whether a hello is for whoever shares its ports.
func (o *Own) owns(h Hello) bool {
	return slices.ContainsFunc(h.Protocols, func(p string) bool { return slices.Contains(o.Protocols, p) })
}
