package share

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Hello is what a ClientHello of TLS tells of where it wants to go.
type Hello struct {
	ServerName string // in lower case, without a dot behind it; "" when none is told
	Protocols  []string
}

// mostHello bounds a ClientHello, in bytes: browsers' have some 2 KB with
// post-quantum keys.
const mostHello = 16 << 10

var errNoHello = errors.New("no ClientHello of TLS, or one of more than 16 KiB")

// What stands before a ClientHello, and in it (RFC 8446 sections 4, 4.1.2, 4.2
// and 5.1).
const (
	recordHead      = 5 // type, version, length
	recordHandshake = 22

	messageHead        = 4 // type, length
	messageClientHello = 1

	extensionName = 0  // RFC 6066 section 3
	extensionALPN = 16 // RFC 7301 section 3.1
	nameOfHost    = 0
)

// readHello reads no more of a connection than it takes for its ClientHello,
// which may be in many records. (crypto/tls, stopped before it answers, allocates
// 40 times for it, 8 KB in all: several times of what all else here costs.)
func readHello(o *opening) (Hello, error) {
	var message []byte
	for {
		record, err := nextRecord(o)
		if err != nil {
			return Hello{}, err
		}
		if message == nil {
			message = slices.Clip(record) // what is added goes elsewhere
		} else {
			message = append(message, record...)
		}
		whole, err := wholeHello(message)
		if err != nil {
			return Hello{}, err
		}
		if whole != nil {
			return parseHello(whole)
		}
	}
}

// nextRecord gives the content of a record of a handshake. Other records have no
// place before a ClientHello's end, nor have empty ones.
func nextRecord(o *opening) ([]byte, error) {
	head, err := o.next(recordHead)
	if err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(head[3:]))
	if head[0] != recordHandshake || head[1] != 3 || size == 0 {
		return nil, errNoHello
	}
	return o.next(size)
}

// wholeHello is the first message of a handshake once all of it is there; nil
// before.
func wholeHello(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] != messageClientHello {
		return nil, errNoHello
	}
	if len(b) < messageHead {
		return nil, nil
	}
	size := messageHead + int(binary.BigEndian.Uint32(b)&0xffffff)
	switch {
	case size > mostHello:
		return nil, errNoHello
	case size > len(b):
		return nil, nil
	}
	return b[:size], nil
}

// parseHello reads a whole ClientHello. It takes each one that crypto/tls takes,
// and finds the same in it; of extensions that name no destination it looks at
// nothing but their lengths.
func parseHello(message []byte) (h Hello, err error) {
	extensions, ok := extensionsOf(message)
	if !ok {
		return h, errNoHello
	}
	var name, protocols cryptobyte.String
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return h, errNoHello
		}
		// The first of two would not be whom others take for the destination.
		if kind == extensionName && !once(&name, data) || kind == extensionALPN && !once(&protocols, data) {
			return h, errNoHello
		}
	}
	if name != nil && !h.readName(name) || protocols != nil && !h.readProtocols(protocols) {
		return Hello{}, errNoHello
	}
	return h, nil
}

// extensionsOf skips what stands before them. Before TLS 1.2 they need not be.
func extensionsOf(message []byte) (extensions cryptobyte.String, ok bool) {
	s := cryptobyte.String(message[messageHead:])
	var session, suites, compressions cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || // version and random
		!s.ReadUint16LengthPrefixed(&suites) || !s.ReadUint8LengthPrefixed(&compressions) {
		return nil, false
	}
	ok = s.Empty() || s.ReadUint16LengthPrefixed(&extensions) && s.Empty()
	return extensions, ok
}

// once keeps an extension, of which there may be no other.
func once(kept *cryptobyte.String, data cryptobyte.String) bool {
	if *kept != nil {
		return false
	}
	*kept = data
	return true
}

// readName reads the list of names (RFC 6066 section 3), of which one may be a
// host's.
func (h *Hello) readName(s cryptobyte.String) bool {
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) || !s.Empty() || list.Empty() {
		return false
	}
	var host cryptobyte.String
	for !list.Empty() {
		var kind uint8
		var name cryptobyte.String
		if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&name) || name.Empty() || kind == nameOfHost && !once(&host, name) {
			return false
		}
	}
	h.ServerName = plainName(string(host))
	return true
}

// readProtocols reads the list of ALPNs (RFC 7301 section 3.1).
func (h *Hello) readProtocols(s cryptobyte.String) bool {
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) || !s.Empty() || list.Empty() {
		return false
	}
	for !list.Empty() {
		var name cryptobyte.String
		if !list.ReadUint8LengthPrefixed(&name) || name.Empty() {
			return false
		}
		h.Protocols = append(h.Protocols, string(name))
	}
	return true
}
