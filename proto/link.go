package proto

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Link is a join link: rdv://HOST:PORT/#PIN.TOKEN or, when a member made it,
// rdv://HOST:PORT/#PIN.TOKEN.SECRET, each part in unpadded URL-safe base64.
type Link struct {
	Coordinator string   // host:port
	Pin         [32]byte // SHA-256 of the coordinator's public key (SubjectPublicKeyInfo, DER)
	Token       [16]byte // the invite
	Secret      []byte   // the network's secret, 32 bytes, or nil; never sent to the coordinator
}

var b64 = base64.RawURLEncoding

// String is the link as one word.
func (l Link) String() string {
	s := "rdv://" + l.Coordinator + "/#" + b64.EncodeToString(l.Pin[:]) + "." + b64.EncodeToString(l.Token[:])
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
	host, fragment, ok := strings.Cut(rest, "/#")
	if !ok {
		return Link{}, errors.New("the join link has no /# in it; was it cut off, or does the shell need quotes around it?")
	}
	if _, port, err := net.SplitHostPort(host); err != nil || port == "" {
		return Link{}, fmt.Errorf("the join link's coordinator %q is not HOST:PORT", host)
	}
	l := Link{Coordinator: host}
	parts := strings.Split(fragment, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return Link{}, fmt.Errorf("the join link has %d parts behind its #, not 2 or 3; was it cut off?", len(parts))
	}
	want := []int{len(l.Pin), len(l.Token), 32}
	var raw [3][]byte
	for i, p := range parts {
		b, err := b64.DecodeString(p)
		if err != nil || len(b) != want[i] {
			return Link{}, fmt.Errorf("part %d of the join link is damaged; copy the link again", i+1)
		}
		raw[i] = b
	}
	copy(l.Pin[:], raw[0])
	copy(l.Token[:], raw[1])
	l.Secret = raw[2]
	return l, nil
}
