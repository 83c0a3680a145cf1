package natlab

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"rendezvous/internal/dgram"
)

// socket is a host's dgram.Conn. Its fields are guarded by the lab's lock.
type socket struct {
	host     *Host
	addr     netip.AddrPort
	queue    []*parcel
	queued   int // bytes
	ready    chan struct{}
	done     chan struct{}
	closed   bool
	deadline time.Time
	alarm    *time.Timer
}

var (
	_ dgram.Conn      = (*socket)(nil)
	_ dgram.TTLWriter = (*socket)(nil)
)

func newSocket(h *Host, addr netip.AddrPort) *socket {
	return &socket{host: h, addr: addr, ready: make(chan struct{}, 1), done: make(chan struct{})}
}

// LocalAddr is the address as it was bound, with the port that was found.
func (s *socket) LocalAddr() netip.AddrPort { return s.addr }

// Read waits for datagrams.
func (s *socket) Read(a *dgram.Arena) ([]dgram.Burst, error) {
	for {
		bursts, err := s.take(a)
		if err != nil {
			return nil, &net.OpError{Op: "read", Net: "udp", Source: net.UDPAddrFromAddrPort(s.addr), Err: err}
		}
		if bursts != nil {
			return bursts, nil
		}
		select {
		case <-s.ready:
		case <-s.done:
		}
	}
}

// take copies what waits into a; nothing and no error means that nothing
// waits.
func (s *socket) take(a *dgram.Arena) ([]dgram.Burst, error) {
	lab := s.host.lab
	lab.mu.Lock()
	defer lab.mu.Unlock()
	switch {
	case s.closed:
		return nil, net.ErrClosed
	case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
		return nil, os.ErrDeadlineExceeded
	case len(s.queue) == 0:
		return nil, nil
	}
	a.Reset()
	n := min(len(s.queue), dgram.Slots)
	for i, p := range s.queue[:n] {
		slot := a.Slot(i)
		a.Add(dgram.Burst{Addr: p.from, Buf: slot[:copy(slot, p.buf)], Size: p.size})
		s.queued -= len(p.buf)
	}
	s.queue = slices.Delete(s.queue, 0, n)
	if len(s.queue) > 0 {
		s.wake()
	}
	return a.Bursts(), nil
}

func (s *socket) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *socket) enqueue(p *parcel) {
	lab := s.host.lab
	if s.queued+len(p.buf) > lab.options.SocketQueue {
		lab.dropped(p, s.host.name, DropSocketFull)
		return
	}
	lab.delivered(p, s.host.name)
	s.queue = append(s.queue, p)
	s.queued += len(p.buf)
	s.wake()
}

// Write sends b.
func (s *socket) Write(b dgram.Burst) error { return s.WriteTTL(b, DefaultTTL) }

// WriteTTL sends b with a TTL of its own.
func (s *socket) WriteTTL(b dgram.Burst, ttl int) error {
	lab := s.host.lab
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if err := s.send(b, ttl); err != nil {
		return &net.OpError{Op: "write", Net: "udp", Source: net.UDPAddrFromAddrPort(s.addr), Addr: net.UDPAddrFromAddrPort(b.Addr), Err: err}
	}
	return nil
}

func (s *socket) send(b dgram.Burst, ttl int) error {
	h := s.host
	if s.closed {
		return net.ErrClosed
	}
	if !b.Addr.IsValid() || b.Addr.Port() == 0 || ttl < 1 || ttl > 255 {
		return os.NewSyscallError("sendmsg", syscall.EINVAL)
	}
	if len(b.Buf) > dgram.MaxBytes {
		return os.NewSyscallError("sendmsg", syscall.EMSGSIZE)
	}
	if b.Len() > dgram.MaxSegments {
		return os.NewSyscallError("sendmsg", syscall.EINVAL)
	}
	from, err := h.source(s, b.Addr.Addr())
	if err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	size := b.Size
	if b.Len() == 1 {
		size = len(b.Buf)
	}
	h.lab.lastID++
	p := &parcel{
		id: h.lab.lastID, from: netip.AddrPortFrom(from, s.addr.Port()), to: b.Addr,
		buf: slices.Clone(b.Buf), size: size, ttl: ttl, last: h.name,
	}
	local := h.isLocal(p.to.Addr())
	if !local && p.largest()+p.headers() > h.attachment.link.mtu {
		return os.NewSyscallError("sendmsg", syscall.EMSGSIZE)
	}
	h.lab.sent(p, h.name)
	if local {
		h.receive(p)
		return nil
	}
	h.attachment.send(p)
	return nil
}

// SetReadDeadline ends a waiting and every later Read at t; the zero time
// lifts it.
func (s *socket) SetReadDeadline(t time.Time) error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.deadline = t
	if s.alarm != nil {
		s.alarm.Stop()
		s.alarm = nil
	}
	if !t.IsZero() {
		s.alarm = time.AfterFunc(time.Until(t), s.wake)
	}
	return nil
}

// Close ends a waiting Read.
func (s *socket) Close() error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closeLocked()
	return nil
}

func (s *socket) closeLocked() {
	if s.closed {
		return
	}
	s.closed = true
	if s.alarm != nil {
		s.alarm.Stop()
	}
	close(s.done)
	s.queue, s.queued = nil, 0
	s.host.release(s)
}
