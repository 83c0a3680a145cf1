package proto

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"

	"google.golang.org/protobuf/proto"
)

// MaxMessage bounds a control message, in bytes. The largest real one is an
// introduction with a full set of candidates, below 4 KiB.
const MaxMessage = 64 << 10

// WriteMessage writes m behind its length as an unsigned varint, in one Write.
func WriteMessage(w io.Writer, m proto.Message) error {
	size := proto.Size(m)
	if size > MaxMessage {
		return fmt.Errorf("control message of %d bytes is over the limit of %d", size, MaxMessage)
	}
	b := binary.AppendUvarint(make([]byte, 0, size+binary.MaxVarintLen32), uint64(size))
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// ReadMessage reads one message into m. A length over MaxMessage is an error
// before anything is allocated for it. io.EOF means that the stream ended
// between two messages, io.ErrUnexpectedEOF that it ended within one.
func ReadMessage(r *bufio.Reader, m proto.Message) error {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return err
	}
	if size > MaxMessage {
		return fmt.Errorf("control message of %d bytes is over the limit of %d", size, MaxMessage)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return proto.Unmarshal(b, m)
}

// Marshal encodes m. It and Unmarshal spare our packages a second import named
// proto.
func Marshal(m proto.Message) ([]byte, error) { return proto.Marshal(m) }

// Unmarshal decodes b into m.
func Unmarshal(b []byte, m proto.Message) error { return proto.Unmarshal(b, m) }

// Clone copies m, all that it holds included.
func Clone[M proto.Message](m M) M { return proto.Clone(m).(M) }

// NewEndpoint is a in protobuf.
func NewEndpoint(a netip.AddrPort) *Endpoint {
	return &Endpoint{Addr: a.Addr().Unmap().AsSlice(), Port: uint32(a.Port())}
}

// AddrPort is e as a value; ok is false where the address has a wrong length
// or the port is 0 or over 65535.
func (e *Endpoint) AddrPort() (a netip.AddrPort, ok bool) {
	return addrPort(e.GetAddr(), e.GetPort())
}

// NewCandidate is a candidate in protobuf.
func NewCandidate(t CandidateType, a netip.AddrPort) *Candidate {
	return &Candidate{Type: t, Addr: a.Addr().Unmap().AsSlice(), Port: uint32(a.Port())}
}

// AddrPort is c as a value; ok as for Endpoint.
func (c *Candidate) AddrPort() (a netip.AddrPort, ok bool) {
	return addrPort(c.GetAddr(), c.GetPort())
}

func addrPort(ip []byte, port uint32) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || port == 0 || port > 65535 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port)), true
}
