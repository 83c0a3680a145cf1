// Package stun tells an agent how it is seen from outside (RFC 8489) and how
// its NAT behaves (RFC 5780), and lets a coordinator tell others.
//
//   - Client asks, on a socket that somebody else reads.
//   - Responder answers; it is a table that owns no socket.
//   - Discover finds out how the NAT maps and filters, on sockets of its own.
//
// The codec of messages is pion/stun's.
package stun

import (
	"encoding/binary"
	"errors"
	"net/netip"

	pion "github.com/pion/stun/v3"
)

// Two attributes of our own, from the range that whoever doesn't know them
// must ignore (RFC 8489 section 14).
const (
	// attrFill makes a request as large as its answer, so that a coordinator
	// may answer a stranger without sending more than it was sent. RFC 5780's
	// PADDING would do it too, but servers without RFC 5780 refuse that.
	attrFill pion.AttrType = 0xFAD0
	// attrOtherPort is a responder's other port, where it has two ports and
	// one address: RFC 5780 forbids OTHER-ADDRESS there. It promises that
	// "change port" is honoured. Two bytes.
	attrOtherPort pion.AttrType = 0xFAD1
)

// requestSize is the size of every request of ours, in bytes. The largest
// answer of our responder has three IPv6 addresses: 20 + 3*24 = 92.
const requestSize = 96

// The flags of CHANGE-REQUEST (RFC 5780 section 7.2).
const (
	flagChangeIP   = 1 << 2
	flagChangePort = 1 << 1
)

const (
	headerSize     = 20
	attrHeaderSize = 4
	cookie         = 0x2112A442
)

// transaction is a transaction's id.
type transaction = [pion.TransactionIDSize]byte

// errMalformed is all that is said of bytes that are no STUN message.
var errMalformed = errors.New("not a well-formed STUN message")

// parse decodes a datagram that must be one STUN message and nothing more.
// The message aliases b.
func parse(b []byte) (*pion.Message, error) {
	// These first, because they are cheap: garbage must not cost allocations.
	if len(b) < headerSize || b[0]&0xc0 != 0 || len(b)%4 != 0 ||
		binary.BigEndian.Uint32(b[4:]) != cookie ||
		headerSize+int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return nil, errMalformed
	}
	m := &pion.Message{Raw: b}
	if err := m.Decode(); err != nil {
		return nil, errMalformed
	}
	if m.Contains(pion.AttrFingerprint) && pion.Fingerprint.Check(m) != nil {
		return nil, errMalformed
	}
	return m, nil
}

// address reads an attribute that holds an address, XORed or plain.
func address(m *pion.Message, attr pion.AttrType) (netip.AddrPort, bool) {
	value, err := m.Get(attr)
	if err != nil || !(len(value) == 8 && value[1] == 1) && !(len(value) == 20 && value[1] == 2) {
		return netip.AddrPort{}, false
	}
	var a pion.MappedAddress
	if attr == pion.AttrXORMappedAddress {
		err = (*pion.XORMappedAddress)(&a).GetFromAs(m, attr)
	} else {
		err = a.GetFromAs(m, attr)
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	if err != nil || !ok || ip.IsUnspecified() || a.Port == 0 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(a.Port)), true
}

// addAddress appends an attribute that holds an address.
func addAddress(m *pion.Message, attr pion.AttrType, addr netip.AddrPort) {
	a := pion.MappedAddress{IP: addr.Addr().Unmap().AsSlice(), Port: int(addr.Port())}
	var err error
	if attr == pion.AttrXORMappedAddress {
		err = pion.XORMappedAddress(a).AddToAs(m, attr)
	} else {
		err = a.AddToAs(m, attr)
	}
	must(err)
}

// must is for setters that fail only on an address of neither family or on a
// reason that is too long: a mistake of this package.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// newMessage begins a message.
func newMessage(t pion.MessageType, id transaction) *pion.Message {
	m := pion.New()
	m.Type, m.TransactionID = t, id
	m.WriteHeader()
	return m
}

// bindingRequest is a request of requestSize bytes with the given flags of
// CHANGE-REQUEST.
func bindingRequest(id transaction, flags uint32) []byte { return bindingRequestTo(id, flags, 0) }

// bindingRequestTo is bindingRequest with RESPONSE-PORT, where port is not 0.
func bindingRequestTo(id transaction, flags uint32, port uint16) []byte {
	m := newMessage(pion.BindingRequest, id)
	if flags != 0 {
		m.Add(pion.AttrChangeRequest, binary.BigEndian.AppendUint32(nil, flags))
	}
	if port != 0 {
		m.Add(pion.AttrResponsePort, binary.BigEndian.AppendUint16(nil, port))
	}
	m.Add(attrFill, make([]byte, requestSize-len(m.Raw)-attrHeaderSize))
	return m.Raw
}

// plain is an address as it is compared: without IPv4-in-IPv6 and zone.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
