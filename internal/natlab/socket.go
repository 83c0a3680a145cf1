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
	queued   int           // bytes
	ready    chan struct{} // closed with the socket
	closed   bool
	deadline time.Time
	alarm    *time.Timer
}

var (
	_ dgram.Conn          = (*socket)(nil)
	_ dgram.TTLWriter     = (*socket)(nil)
	_ dgram.RoutersWriter = (*socket)(nil)
)

func newSocket(h *Host, addr netip.AddrPort) *socket {
	return &socket{host: h, addr: addr, ready: make(chan struct{}, 1)}
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
		<-s.ready
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
		a.Release() // who waits holds no memory
		return nil, nil
	}
	a.Reset()
	n := s.fill(a)
	s.queue = slices.Delete(s.queue, 0, n)
	if len(s.queue) > 0 {
		s.wake()
	}
	return a.Bursts(), nil
}

// fill copies as much of the queue into a as it has slots for, and returns how
// many parcels. Datagrams that came one by one are laid end to end where they
// make a burst, as reading from a kernel does.
func (s *socket) fill(a *dgram.Arena) int {
	var last *dgram.Burst // takes more
	used := 0
	for i, p := range s.queue {
		if last != nil && joins(last, p) {
			last.Buf = append(last.Buf, p.buf...)
			if len(p.buf) < last.Size {
				last = nil
			}
			s.queued -= len(p.buf)
			continue
		}
		if used == dgram.Slots {
			return i
		}
		slot := a.Slot(used)
		a.Add(dgram.Burst{Addr: p.from, Buf: slot[:copy(slot, p.buf)], Size: p.size})
		used++
		s.queued -= len(p.buf)
		last = nil
		if p.count() == 1 && p.size > 0 {
			last = &a.Bursts()[used-1]
		}
	}
	return len(s.queue)
}

// joins says whether p continues the burst b.
func joins(b *dgram.Burst, p *parcel) bool {
	n := len(b.Buf) + len(p.buf)
	return p.count() == 1 && p.size > 0 && p.size <= b.Size && p.from == b.Addr &&
		n <= dgram.MaxBytes && n <= cap(b.Buf) && len(b.Buf) < dgram.MaxSegments*b.Size
}

// ring is the alarm.
func (s *socket) ring() {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	if !s.closed {
		s.wake()
	}
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
func (s *socket) WriteTTL(b dgram.Burst, ttl int) error { return s.writeAs(b, parcel{ttl: ttl}) }

// WriteRouters sends b with a timestamp option that overflows behind so many
// routers.
func (s *socket) WriteRouters(b dgram.Burst, routers int) error {
	return s.writeAs(b, parcel{ttl: DefaultTTL, past: routers + 1})
}

func (s *socket) writeAs(b dgram.Burst, as parcel) error {
	lab := s.host.lab
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if err := s.send(b, as); err != nil {
		return &net.OpError{Op: "write", Net: "udp", Source: net.UDPAddrFromAddrPort(s.addr), Addr: net.UDPAddrFromAddrPort(b.Addr), Err: err}
	}
	return nil
}

func (s *socket) send(b dgram.Burst, as parcel) error {
	h := s.host
	to := netip.AddrPortFrom(b.Addr.Addr().Unmap(), b.Addr.Port())
	if s.closed {
		return net.ErrClosed
	}
	if !to.IsValid() || to.Port() == 0 || as.ttl < 1 || as.ttl > 255 {
		return os.NewSyscallError("sendmsg", syscall.EINVAL)
	}
	from, err := h.source(s.addr.Addr(), to.Addr())
	if err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	as.from, as.to = netip.AddrPortFrom(from, s.addr.Port()), to
	return h.launch(&as, b)
}

// launch sends b's datagrams with p's addresses.
func (h *Host) launch(p *parcel, b dgram.Burst) error {
	p.buf, p.size, p.last = slices.Clone(b.Buf), min(b.Size, len(b.Buf)), h.name
	if b.Len() == 1 {
		p.size = len(b.Buf)
	}
	if p.size > dgram.MaxBytes || !h.isLocal(p.to.Addr()) && p.size+p.headers() > h.attachment.link.mtu {
		return dgram.ErrTooLarge
	}
	p.chunks(func(p *parcel) {
		h.lab.number(p, h.name)
		h.dispatch(p)
	})
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
		s.alarm = time.AfterFunc(time.Until(t), s.ring)
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
	close(s.ready)
	s.queue, s.queued = nil, 0
	s.host.release(s)
}
