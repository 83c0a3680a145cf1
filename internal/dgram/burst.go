// Package dgram moves datagrams in bursts: sockets that read and write many
// datagrams a system call where the platform can, and one where it can't.
package dgram

import (
	"iter"
	"net/netip"
	"time"
)

// MaxSegments and MaxBytes bound one write: the kernel takes at most 64
// segments and 65,507 bytes of UDP payload in one call (UDP_MAX_SEGMENTS; an
// IPv4 datagram's limit).
const (
	MaxSegments = 64
	MaxBytes    = 65507
)

// Burst is datagrams from or to one address, laid end to end: each Size bytes,
// the last may be shorter. A burst of one datagram has Size == len(Buf), and
// one empty datagram is an empty Buf.
type Burst struct {
	Addr netip.AddrPort
	Buf  []byte
	Size int
}

// One is a burst of the single datagram b.
func One(addr netip.AddrPort, b []byte) Burst { return Burst{Addr: addr, Buf: b, Size: len(b)} }

// Len is the number of datagrams.
func (b Burst) Len() int {
	if b.Size <= 0 || len(b.Buf) <= b.Size {
		return 1
	}
	return (len(b.Buf) + b.Size - 1) / b.Size
}

// All yields each datagram; they alias Buf.
func (b Burst) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := b.Buf
		for b.Size > 0 && len(rest) > b.Size {
			if !yield(rest[:b.Size:b.Size]) {
				return
			}
			rest = rest[b.Size:]
		}
		yield(rest)
	}
}

// Conn is a socket that carries bursts. Write may be called from many
// goroutines at once, Read from one.
type Conn interface {
	// Read waits for datagrams and returns what one visit to the kernel
	// brought: a burst or several. They stay valid until the next Read with
	// the same arena or its Release. An error that concerns one destination
	// (an ICMP-born ECONNREFUSED) is not returned; net.ErrClosed is, and
	// os.ErrDeadlineExceeded.
	Read(a *Arena) ([]Burst, error)
	// Write sends b. A datagram larger than the path gives an error for which
	// IsTooLarge is true; nothing is fragmented.
	Write(b Burst) error
	LocalAddr() netip.AddrPort
	SetReadDeadline(t time.Time) error
	Close() error
}

// TTLWriter is a Conn that can send one datagram with a TTL (or hop limit) of
// its own. It needs no privilege.
type TTLWriter interface {
	WriteTTL(b Burst, ttl int) error
}

// RoutersWriter is a Conn that can send datagrams which so many routers let pass,
// and the next one drops even if it is where they go: unlike one whose TTL runs
// out, such a datagram is nobody's before a router has looked at it. That is
// IPv4's timestamp option without room, whose count of routers that found none
// overflows (RFC 791 section 3.1). A router that knows no options may drop it at
// once, or let it pass for ever.
type RoutersWriter interface {
	// WriteRouters sends to an IPv4 address; routers is 1 to 15. Its error is
	// the system's.
	WriteRouters(b Burst, routers int) error
}

// RefusalCounter is a Conn that can tell how many of its datagrams were answered
// by ICMP as unreachable (RFC 792, type 3). On Linux that is so over IPv4; a
// socket that is not connected is told nothing of it elsewhere.
type RefusalCounter interface {
	// CountRefusals has the system gather them, or gather them no longer. Its
	// error is the system's.
	CountRefusals(on bool) error
	// Refusals is how many came since the last call, 0 while they are not
	// gathered.
	Refusals() int
}

// Network makes sockets; agents in tests live on an internet in memory.
type Network interface {
	// ListenUDP binds addr; port 0 picks a free one. An address of the
	// unspecified IPv4 or IPv6 address takes that family alone.
	ListenUDP(addr netip.AddrPort) (Conn, error)
	// Addrs are the host's own addresses, with the name of their interface.
	Addrs() ([]HostAddr, error)
}

// HostAddr is an address of this host.
type HostAddr struct {
	Interface string
	Addr      netip.Prefix
	Up        bool
	// Deprecated is an IPv6 address whose days are numbered: it serves what is
	// under way, and nothing new begins there (RFC 4862 section 5.5.4).
	Deprecated bool
}
