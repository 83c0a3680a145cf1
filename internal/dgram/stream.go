package dgram

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// frameHeader is the length that stands before each datagram in a stream.
const frameHeader = 2

// StreamOptions say how a Stream is made.
type StreamOptions struct {
	// Queue is how many bytes may wait to be written; 0 is DefaultQueue.
	Queue int
}

// DefaultQueue is 8 ms of 1 Gbit/s. On slower streams the age of what waits
// bounds it first.
const DefaultQueue = 1 << 20

// Errors that end a stream, as Err gives them.
var (
	errFrame = errors.New("the peer sent a datagram whose length is not between 1 and 65,507")
	errEmpty = errors.New("an empty datagram can't travel in a stream")
)

// Stream is a Conn on a reliable byte stream: each datagram stands behind its
// length, of two bytes, big endian (section "Datagrams in a stream" of
// proto/SPEC.md). All of it comes from and goes to one address.
//
// A write never waits. What the stream can't take waits in a queue that loses
// its oldest datagrams, because the newest matter most: a full queue would
// otherwise delay everything by what is worth nothing any more.
type Stream struct {
	conn   net.Conn
	far    netip.AddrPort
	local  netip.AddrPort
	in     intake
	out    outlet
	done   chan struct{}
	once   sync.Once
	reason atomic.Pointer[error]
}

// NewStream makes a Conn of c, which it owns from now on. far is what its
// datagrams have as their source, whatever c says.
func NewStream(c net.Conn, far netip.AddrPort, o StreamOptions) *Stream {
	s := &Stream{
		conn: c,
		far:  netip.AddrPortFrom(far.Addr().Unmap(), far.Port()),
		done: make(chan struct{}),
	}
	s.local = localOfStream(c, s.far)
	s.out.limit = cmp.Or(o.Queue, DefaultQueue)
	s.out.piece = firstPiece
	if sock, ok := c.(*net.TCPConn); ok {
		prepareStream(sock)
		if raw, err := sock.SyscallConn(); err == nil {
			s.out.raw = raw
			s.in.directly(raw)
		}
	}
	return s
}

// localOfStream is c's own address. Where c has none that says something, it is
// the unspecified one of the family of far.
func localOfStream(c net.Conn, far netip.AddrPort) netip.AddrPort {
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		if at := a.AddrPort(); at.IsValid() {
			return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		}
	}
	if far.Addr().Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
}

// Read is Conn's. A stream that broke or brought nonsense is closed: Err says
// why.
func (s *Stream) Read(a *Arena) ([]Burst, error) {
	for {
		a.Reset()
		err := s.in.parse(a, s.far)
		if len(a.Bursts()) > 0 {
			return a.Bursts(), nil // a fault behind them is found by the next Read
		}
		if err != nil {
			s.end(err)
			return nil, net.ErrClosed
		}
		a.Release() // ten thousand that wait hold no memory
		if err := s.in.fill(s.conn); err != nil {
			if isTimeout(err) {
				return nil, errTimeout
			}
			s.end(err)
			return nil, net.ErrClosed
		}
	}
}

// Write is Conn's. It copies b and returns at once; its address is not looked
// at. The error is net.ErrClosed, or one for which IsTooLarge is true.
func (s *Stream) Write(b Burst) error { return s.write(b, false) }

func (s *Stream) write(b Burst, keep bool) error {
	if err := s.carries(b); err != nil {
		s.out.unfit.Add(uint64(b.Len()))
		return &Error{Op: "write", Local: s.local, Addr: s.far, Bytes: len(b.Buf), Err: err}
	}
	start, open := s.out.push(b, keep)
	if !open {
		return net.ErrClosed
	}
	if start {
		go s.drain()
	}
	return nil
}

func (s *Stream) carries(b Burst) error {
	size := len(b.Buf)
	if b.Len() > 1 {
		size = b.Size
	}
	switch {
	case size == 0:
		return errEmpty
	case size > MaxBytes:
		return ErrTooLarge
	}
	return nil
}

// drain writes what waits until nothing does. It runs only then, so that an
// idle stream costs no goroutine.
func (s *Stream) drain() {
	for {
		piece := s.out.next()
		if piece == nil {
			return
		}
		began := time.Now()
		_, err := s.conn.Write(piece)
		s.out.wrote(len(piece), time.Since(began))
		if err != nil {
			s.end(err)
		}
	}
}

// end closes the stream; the first reason counts.
func (s *Stream) end(why error) {
	s.once.Do(func() {
		s.reason.Store(&why)
		close(s.done)
		_ = s.conn.Close() // what was written and isn't sent yet is of no use now
		s.out.close()
	})
}

// Close is Conn's.
func (s *Stream) Close() error {
	s.end(net.ErrClosed)
	return nil
}

// Done is closed when the stream is: by Close, by the peer or by a fault.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Err is why the stream ended: net.ErrClosed after Close, io.EOF when the peer
// closed it, nil while it is open.
func (s *Stream) Err() error {
	if why := s.reason.Load(); why != nil {
		return fmt.Errorf("stream with %v: %w", s.far, *why)
	}
	return nil
}

// LocalAddr is Conn's: the byte stream's own address, or an unspecified one
// where it has none.
func (s *Stream) LocalAddr() netip.AddrPort { return s.local }

// RemoteAddr is where all datagrams come from and go to.
func (s *Stream) RemoteAddr() netip.AddrPort { return s.far }

// SetReadDeadline is Conn's.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// Dropped is how many datagrams were not sent because newer ones waited.
func (s *Stream) Dropped() uint64 { return s.out.dropped.Load() }

// Malformed is how many impossible lengths came in: one at most, since nothing
// behind it can be understood.
func (s *Stream) Malformed() uint64 { return s.in.malformed.Load() }

// Stats is StatsReader's.
func (s *Stream) Stats() Stats { return Stats{Full: s.Dropped(), TooLarge: s.out.unfit.Load()} }

// SyscallConn is the kernel's connection below; an error where there is none.
func (s *Stream) SyscallConn() (syscall.RawConn, error) {
	if s.out.raw == nil {
		return nil, fmt.Errorf("stream with %v: not a TCP connection of the kernel's", s.far)
	}
	return s.out.raw, nil
}

// putFrame appends a datagram behind its length.
func putFrame(b, datagram []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(datagram)))
	return append(b, datagram...)
}

// frameLen is the length of the datagram that b begins with: false when b is
// too short to tell.
func frameLen(b []byte) (int, bool) {
	if len(b) < frameHeader {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(b)), true
}
