package proto

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Link is a join link: rdv://HOST:PORT/#PIN.TOKEN or, when a member made it,
// rdv://HOST:PORT/#PIN.TOKEN.SECRET, each part in unpadded URL-safe base64;
// /veil# in place of /# asks for veiled control datagrams.
type Link struct {
	Coordinator string   // host:port
	Veil        bool     // control datagrams over UDP are veiled
	Pin         [32]byte // SHA-256 of the coordinator's public key (SubjectPublicKeyInfo, DER)
	Token       [16]byte // the invite
	Secret      []byte   // the network's secret, 32 bytes, or nil; never sent to the coordinator
}

// b64 is strict, so that a link has one spelling.
var b64 = base64.RawURLEncoding.Strict()

// linkVeil stands for "/#" in a link with a veil. Agents that know of none
// refuse it.
const linkVeil = "/veil#"

// String is the link as one word.
func (l Link) String() string {
	mark := "/#"
	if l.Veil {
		mark = linkVeil
	}
	s := "rdv://" + l.Coordinator + mark + b64.EncodeToString(l.Pin[:]) + "." + b64.EncodeToString(l.Token[:])
	if l.Secret != nil {
		s += "." + b64.EncodeToString(l.Secret)
	}
	return s
}

// ParseLink reads a join link. Its errors never repeat the token or secret.
func ParseLink(s string) (Link, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), "rdv://")
	if !ok {
		return Link{}, errors.New("a join link begins with rdv://")
	}
	host, fragment, veil := strings.Cut(rest, linkVeil)
	if !veil {
		host, fragment, ok = strings.Cut(rest, "/#")
	}
	if !ok {
		return Link{}, errors.New("the join link has no /# in it; was it cut off, or does the shell need quotes around it?")
	}
	if !validHostPort(host) {
		return Link{}, fmt.Errorf("the join link's coordinator %q is not HOST:PORT", host)
	}
	l := Link{Coordinator: host, Veil: veil}
	parts := strings.Split(fragment, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return Link{}, fmt.Errorf("the join link has %d parts behind its #, not 2 or 3; was it cut off?", len(parts))
	}
	want := []int{len(l.Pin), len(l.Token), 32}
	var raw [3][]byte
	for i, p := range parts {
		b, err := b64.DecodeString(p)
		if err != nil || len(b) != want[i] || len(p) != b64.EncodedLen(want[i]) {
			return Link{}, fmt.Errorf("part %d of the join link is damaged; copy the link again", i+1)
		}
		raw[i] = b
	}
	copy(l.Pin[:], raw[0])
	copy(l.Token[:], raw[1])
	l.Secret = raw[2]
	return l, nil
}

// hostLetters are those of host names; the underscore is none in RFC 952, but
// found in the wild.
const hostLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"

// validHostPort says whether s is an IP address or a host name with a port. An
// address with a zone means something on one host alone.
func validHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == ""
	}
	// RFC 1035 section 2.3.4 bounds a name.
	return host != "" && len(host) <= 253 && strings.Trim(host, hostLetters) == ""
}
