package rendezvous

import (
	"net"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// A wake is what a coordinator sends to agents that were connected before it
// was killed. It asks for a sign of life on the control connection; that
// connection is unknown to the new process, which answers with QUIC's
// stateless reset, so the agent learns within a round trip what it otherwise
// would at its next heartbeat.
//
//	+--------+--------------------------------------+
//	|01000000| "rendezvous wake 1" (17 bytes ASCII) |
//	+--------+--------------------------------------+
//
// It looks like QUIC, so that it takes the way of control datagrams; QUIC
// itself drops it, as no connection ID begins so. It needs no proof of origin:
// all it can cause is one small datagram a second on an existing connection.
var wake = append([]byte{0x40}, "rendezvous wake 1"...)

// wakeAtMost is how often an agent follows a wake.
const wakeAtMost = time.Second

// wakeable is a PacketConn that takes wakes out of what is read, and the
// datagrams of lean connections.
type wakeable struct {
	net.PacketConn
	woken chan netip.AddrPort
	leans leans
}

// ReadFrom is that of net.PacketConn.
func (w *wakeable) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := w.PacketConn.ReadFrom(b)
		if err != nil {
			return n, from, err
		}
		if w.leans.take(dgram.AddrOf(from), b[:n]) {
			continue
		}
		if string(b[:n]) != string(wake) {
			return n, from, err
		}
		select {
		case w.woken <- dgram.AddrOf(from):
		default: // one waits already
		}
	}
}

// SetReadBuffer and SetWriteBuffer keep QUIC from complaining: the buffers
// belong to the socket's owner.
func (w *wakeable) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing, as SetReadBuffer.
func (w *wakeable) SetWriteBuffer(int) error { return nil }
