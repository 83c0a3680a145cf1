package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	pb "google.golang.org/protobuf/proto"

	"rendezvous/internal/path"
	"rendezvous/proto"
)

// mostGreeting bounds Connect and Connected, in bytes.
const mostGreeting = 2048

// Request says what a connection is for.
type Request struct {
	Service string
	// Only is the kinds of path that may carry it; the empty set is no rule.
	Only path.Kinds
	// Client is who connected and Listen where to, as the service may want to
	// know; either may be unknown.
	Client, Listen netip.AddrPort
}

// connect is r as the first message on a stream.
func (r Request) connect() *proto.Connect {
	m := &proto.Connect{Service: strings.ToValidUTF8(r.Service, ""), Paths: r.Only.Names()}
	if r.Client.IsValid() {
		m.ClientAddr, m.ClientPort = r.Client.Addr().Unmap().AsSlice(), uint32(r.Client.Port())
	}
	if r.Listen.IsValid() {
		m.ListenAddr, m.ListenPort = r.Listen.Addr().Unmap().AsSlice(), uint32(r.Listen.Port())
	}
	return m
}

// requestOf reads what connect wrote.
func requestOf(m *proto.Connect) (r Request, err error) {
	r.Service = m.GetService()
	if r.Only, err = kindsOf(m.GetPaths()); err != nil {
		return Request{}, err
	}
	r.Client, _ = (&proto.Endpoint{Addr: m.GetClientAddr(), Port: m.GetClientPort()}).AddrPort()
	r.Listen, _ = (&proto.Endpoint{Addr: m.GetListenAddr(), Port: m.GetListenPort()}).AddrPort()
	return r, nil
}

// kindsOf reads a rule. A rule that names nothing we know must not become none.
func kindsOf(words []string) (only path.Kinds, err error) {
	for _, word := range words {
		if k, err := path.ParseKind(word); err == nil {
			only |= path.KindsOf(k)
		}
	}
	if len(words) > 0 && only == 0 {
		return 0, fmt.Errorf("of the kinds of path %q none is known here", words)
	}
	return only, nil
}

// appendMessage writes m behind its length as an unsigned varint. Its strings
// are UTF-8, so that it can be encoded.
func appendMessage(b []byte, m pb.Message) []byte {
	b = binary.AppendUvarint(b, uint64(pb.Size(m)))
	b, _ = pb.MarshalOptions{}.MarshalAppend(b, m)
	return b
}

var errGreeting = errors.New("the peer's greeting is too long")

// readMessage reads one message and not a byte more.
func readMessage(r io.Reader, m pb.Message) error {
	size, err := binary.ReadUvarint(oneByOne{r})
	if err != nil {
		return err
	}
	if size > mostGreeting {
		return fmt.Errorf("%w: %d bytes", errGreeting, size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return pb.Unmarshal(b, m)
}

// oneByOne reads single bytes, so that nothing behind the message is taken.
type oneByOne struct{ io.Reader }

// ReadByte is io.ByteReader's.
func (o oneByOne) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(o, b[:])
	return b[0], err
}
