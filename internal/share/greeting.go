package share

import (
	"encoding/binary"
	"slices"
)

// streamRule is a rule over TCP with its backend.
type streamRule struct {
	Rule
	to *backend
}

// streamRules are those for TCP.
type streamRules struct {
	tls, vpn, patterns            []streamRule
	ssh, http, silence, otherwise *backend
}

func (t *streamRules) add(r Rule, to *backend) {
	with := streamRule{r, to}
	switch r.Is {
	case TLS:
		t.tls = append(t.tls, with)
	case OpenVPN:
		t.vpn = append(t.vpn, with)
	case Bytes:
		t.patterns = append(t.patterns, with)
	case SSH:
		t.ssh = to
	case HTTP:
		t.http = to
	case Silence:
		t.silence = to
	case Anything:
		t.otherwise = to
	}
}

// answer is what is known of a connection by its first bytes.
type answer uint8

const (
	never answer = iota // it is not that
	maybe               // it takes more bytes to know
	surely
)

// The first bytes that are looked at, of all but TLS: OpenVPN's first message
// over TCP is the longest.
const mostGreeting = 2 + vpnHead + vpnReplay + vpnTag + vpnReset + vpnKeyMax

// looksTLS wants the head of a handshake's record (RFC 8446 section 5.1).
func looksTLS(b []byte) answer {
	switch {
	case b[0] != 22 || len(b) > 1 && b[1] != 3:
		return never
	case len(b) < 2:
		return maybe
	}
	return surely
}

// looksSTUN wants a request's type and the cookie (RFC 8489 section 5).
func looksSTUN(b []byte) answer {
	cookie := [4]byte{0x21, 0x12, 0xa4, 0x42}
	if b[0]&0xfe != 0 { // class "request", of any method
		return never
	}
	for i := 4; i < 8 && i < len(b); i++ {
		if b[i] != cookie[i-4] {
			return never
		}
	}
	if len(b) < 8 {
		return maybe
	}
	return surely
}

// looksSSH wants "SSH-", with which a client's banner begins (RFC 4253 section
// 4.2).
func looksSSH(b []byte) answer {
	const banner = "SSH-"
	n := min(len(banner), len(b))
	switch {
	case string(b[:n]) != banner[:n]:
		return never
	case n < len(banner):
		return maybe
	}
	return surely
}

// Lengths of HTTP's methods: GET, and the longest that IANA lists.
const (
	leastMethod = 3
	mostMethod  = 17
)

// looksHTTP wants a method and a space behind it (RFC 9112 section 3), or the
// preface of HTTP/2, which has both.
func looksHTTP(b []byte) answer {
	for i, c := range b[:min(len(b), mostMethod+1)] {
		switch {
		case c >= 'A' && c <= 'Z', c == '-' && i > 0:
		case c == ' ' && i >= leastMethod:
			return surely
		default:
			return never
		}
	}
	if len(b) > mostMethod {
		return never
	}
	return maybe
}

// looksOpenVPN wants a whole message behind its length, which over UDP would be
// the first datagram.
func looksOpenVPN(b []byte) (answer, Keys) {
	if len(b) > 1 {
		n := int(binary.BigEndian.Uint16(b))
		if n < vpnHead+vpnReset || n > mostGreeting-2 || len(b) > 2 && b[2] != vpnHardReset2 && b[2] != vpnHardReset3 {
			return never, ""
		}
		if len(b) >= 2+n {
			if k, ok := keysOf(b[2 : 2+n]); ok {
				return surely, k
			}
			return never, ""
		}
	}
	if b[0] > mostGreeting>>8 {
		return never, ""
	}
	return maybe, ""
}

// verdict is where a connection goes.
type verdict struct {
	to   *backend // nil: it stays
	tls  bool     // its ClientHello is still to be read
	more bool     // it takes more bytes to know
}

// judge looks at the first bytes of a connection; there is one at least. What
// is ours, or may still become so, comes first. last says that no more come.
func (t *streamRules) judge(b []byte, last bool) verdict {
	stun, isTLS := looksSTUN(b), looksTLS(b)
	if stun == surely {
		return verdict{}
	}
	if isTLS == surely {
		return verdict{tls: true}
	}
	if (stun == maybe || isTLS == maybe) && !last {
		return verdict{more: true}
	}
	to, open := t.match(b)
	switch {
	case to != nil:
		return verdict{to: to}
	case open && !last && len(b) < mostGreeting:
		return verdict{more: true}
	}
	return verdict{to: t.otherwise}
}

// match finds the backend of what is surely not ours; open says that more bytes
// may still find one.
func (t *streamRules) match(b []byte) (to *backend, open bool) {
	for _, known := range []struct {
		answer
		to *backend
	}{{looksSSH(b), t.ssh}, {looksHTTP(b), t.http}} {
		switch {
		case known.to == nil:
		case known.answer == surely:
			return known.to, false
		case known.answer == maybe:
			open = true
		}
	}
	to, vpn := t.judgeVPN(b)
	if to != nil {
		return to, false
	}
	open = open || vpn == maybe
	for i := range t.patterns {
		fits, whole := t.patterns[i].Bytes.fits(b)
		if fits && whole {
			return t.patterns[i].to, false
		}
		open = open || fits
	}
	return nil, open
}

func (t *streamRules) judgeVPN(b []byte) (*backend, answer) {
	if len(t.vpn) == 0 {
		return nil, never
	}
	looks, keys := looksOpenVPN(b)
	if looks != surely {
		return nil, looks
	}
	for i := range t.vpn {
		if r := &t.vpn[i]; len(r.Keys) == 0 || slices.Contains(r.Keys, keys) {
			return r.to, surely
		}
	}
	return nil, never
}
