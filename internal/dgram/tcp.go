package dgram

import (
	"context"
	"net"
	"net/netip"
)

// Streams makes TCP connections from ports that several sockets of one program
// share, as TCP hole punching wants: a listener and any number of connections
// that are being opened, all on one local port.
type Streams interface {
	// ListenTCP binds addr; port 0 picks a free one. An unspecified address
	// takes its family alone.
	ListenTCP(addr netip.AddrPort) (net.Listener, error)
	// DialTCP connects from local, whose port may be 0, to remote. A peer that
	// connects to us from remote at the same time completes it too
	// (simultaneous open, RFC 9293 section 3.5). It tries once: a refusal is
	// returned at once.
	DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error)
}

// Opener is a Conn on which datagrams leave for an address only after a
// handshake with it. What an address that opens to us brings is read without
// asking.
type Opener interface {
	Conn
	// Open makes the handshake: as a client, or simultaneously with a peer
	// that opens at the same time. It blocks until datagrams may leave in both
	// directions, or ctx ends, and is done at once where that is so already.
	// Datagrams written meanwhile are held, a few, and leave then.
	Open(ctx context.Context, to netip.AddrPort) error
}

// FakeTCP makes sockets whose datagrams travel dressed as TCP segments.
type FakeTCP interface {
	// ListenFakeTCP binds addr; port 0 picks a free one. beside is nil, or the
	// kernel's own listener on that port, whose connections are left alone.
	ListenFakeTCP(addr netip.AddrPort, beside net.Listener) (Opener, error)
}

// Heavier is a Conn whose datagrams cost more bytes on the wire than UDP's
// header does.
type Heavier interface {
	// Extra is how many more, now, on the way to an address.
	Extra(to netip.AddrPort) int
}
