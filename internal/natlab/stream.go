package natlab

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// tcpConn is a TCP connection: a net.Conn over segments that the lab's links
// lose and its NATs judge. Its fields are guarded by the lab's lock.
type tcpConn struct {
	host          *Host
	parent        *listener // until it is accepted
	local, remote netip.AddrPort
	state         tcpState
	hs            tcpHandshake
	in            intake
	out           outlet
	change        sync.Cond     // something to read or to write, or the end
	up            chan struct{} // closed at the end of the handshake, good or bad
	why           error         // that it ended
	closed        bool          // by Close
	linger        bool          // Close ends by RST
	readBy        dgram.Deadline
	writeBy       dgram.Deadline
}

func newTCPConn(h *Host, local, remote netip.AddrPort) *tcpConn {
	s := &tcpConn{host: h, local: local, remote: remote, up: make(chan struct{})}
	s.change.L = &h.lab.mu
	s.hs.iss = uint64(h.rand.Uint32()) + 1
	s.out.init(s.hs.iss + 1)
	h.tcp.streams[pair{local, remote}] = s
	h.tcp.hold(local)
	return s
}

// LocalAddr is net.Conn's, a *net.TCPAddr.
func (s *tcpConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(s.local) }

// RemoteAddr is net.Conn's, a *net.TCPAddr.
func (s *tcpConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

// Read is net.Conn's.
func (s *tcpConn) Read(b []byte) (int, error) {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, tcpError("read", s.local, s.remote, net.ErrClosed)
		case s.readBy.Passed():
			return 0, tcpError("read", s.local, s.remote, os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case s.in.visible > 0:
			n := copy(b, s.in.ready[:s.in.visible])
			s.in.ready = s.in.ready[n:]
			s.in.visible -= n
			s.reopen()
			return n, nil
		case s.why != nil:
			return 0, tcpError("read", s.local, s.remote, s.why)
		case s.in.end:
			return 0, io.EOF
		}
		s.change.Wait()
	}
}

// Write is net.Conn's. It waits while Options.SendBuffer is full of what
// was unsent when this instant began.
func (s *tcpConn) Write(b []byte) (int, error) {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	n := 0
	for {
		var why error
		switch {
		case s.closed || s.out.finished:
			why = net.ErrClosed
		case s.why != nil:
			why = s.why
		case s.writeBy.Passed():
			why = os.ErrDeadlineExceeded
		}
		if why != nil {
			return n, tcpError("write", s.local, s.remote, why)
		}
		if n == len(b) {
			return n, nil
		}
		if room := s.room(); room > 0 {
			k := min(room, len(b)-n)
			s.out.add(b[n : n+k])
			n += k
			s.soon()
			continue
		}
		s.change.Wait()
	}
}

// CloseWrite says that nothing more will be written; as *net.TCPConn's.
func (s *tcpConn) CloseWrite() error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	switch {
	case s.closed:
		return tcpError("close", s.local, s.remote, net.ErrClosed)
	case s.why != nil:
		return tcpError("close", s.local, s.remote, s.why)
	}
	s.finish()
	return nil
}

// SetLinger with 0 makes Close end the connection by an RST; as
// *net.TCPConn's.
func (s *tcpConn) SetLinger(seconds int) error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	s.linger = seconds == 0
	return nil
}

// Close ends Reads and Writes at once. What was written is still delivered,
// unless there is something unread: then the peer gets an RST, as from Linux.
func (s *tcpConn) Close() error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	if s.closed {
		return tcpError("close", s.local, s.remote, net.ErrClosed)
	}
	s.closed = true
	s.readBy.Set(&s.change, time.Time{})
	s.writeBy.Set(&s.change, time.Time{})
	switch {
	case s.why != nil:
	case s.linger || len(s.in.ready) > 0:
		s.abort(net.ErrClosed)
	default:
		s.finish()
		s.tidy()
	}
	return nil
}

// SetDeadline is net.Conn's.
func (s *tcpConn) SetDeadline(t time.Time) error { return s.setDeadlines(t, &s.readBy, &s.writeBy) }

// SetReadDeadline is net.Conn's.
func (s *tcpConn) SetReadDeadline(t time.Time) error { return s.setDeadlines(t, &s.readBy) }

// SetWriteDeadline is net.Conn's.
func (s *tcpConn) SetWriteDeadline(t time.Time) error { return s.setDeadlines(t, &s.writeBy) }

func (s *tcpConn) setDeadlines(t time.Time, which ...*dgram.Deadline) error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	if s.closed {
		return tcpError("set", s.local, s.remote, net.ErrClosed)
	}
	for _, d := range which {
		d.Set(&s.change, t)
	}
	return nil
}
