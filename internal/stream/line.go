package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// LineHeader is what a datagram of a line begins with (section "TCP services"
// of proto/SPEC.md):
//
//	+----------+----------+--------+------------+-------------+
//	| kind (1) | rule (1) | id (4) | offset (8) | payload ... |
//	+----------+----------+--------+------------+-------------+
type LineHeader struct {
	End    bool       // the line has ended
	Answer bool       // from the side that did not begin the line
	Only   path.Kinds // the rule that the line serves
	ID     uint32
	Offset uint64 // of the payload in all that its sender sends
}

// lineHeader is its size in bytes.
const lineHeader = 14

const (
	lineAnswer = 1 << 0
	lineEnd    = 1 << 1
)

var errLine = errors.New("no datagram of a byte stream")

// Append writes h behind b.
func (h LineHeader) Append(b []byte) []byte {
	kind := byte(0)
	if h.Answer {
		kind |= lineAnswer
	}
	if h.End {
		kind |= lineEnd
	}
	b = append(b, kind, byte(h.Only))
	b = binary.BigEndian.AppendUint32(b, h.ID)
	return binary.BigEndian.AppendUint64(b, h.Offset)
}

// ParseLine reads a datagram of a line.
func ParseLine(b []byte) (h LineHeader, payload []byte, err error) {
	if len(b) < lineHeader || b[0] > lineAnswer|lineEnd || path.Kinds(b[1]) > path.AllKinds {
		return LineHeader{}, nil, errLine
	}
	h.Answer, h.End = b[0]&lineAnswer != 0, b[0]&lineEnd != 0
	h.Only = path.Kinds(b[1])
	h.ID = binary.BigEndian.Uint32(b[2:])
	h.Offset = binary.BigEndian.Uint64(b[6:])
	return h, b[lineHeader:], nil
}

// LineConfig is what a Line needs.
type LineConfig struct {
	// Header names the line in what it sends; its offset is the line's.
	Header LineHeader
	// Await waits until more may be sent, stop is closed or nothing can be sent
	// any more. It returns how many bytes Send should get at once.
	Await func(stop <-chan struct{}) (int, error)
	// Send sends datagrams of one size, end to end, of which the last may be
	// shorter. They must arrive in their order or be missed.
	Send func(b []byte, size int) error
	// Ended is called once, when the line has.
	Ended func(why error)
}

// Bounds of a line, in bytes: of a datagram, of what waits to be sent, and of
// what waits to be read. The last is far more than a reader falls behind who
// reads all the time, as yamux does.
const (
	lineDatagram = 8 << 10
	mostLineOut  = 56 << 10
	mostLineIn   = 8 << 20
)

var (
	errGap   = errors.New("a datagram of the byte stream is missing")
	errBrim  = errors.New("the byte stream is not read")
	errEnded = errors.New("the other side has ended the byte stream")
)

// Line is a byte stream (net.Conn) whose bytes travel in datagrams that arrive
// in their order or not at all, such as those on one TCP connection: each says
// where in the stream it stands, and a gap ends the line.
type Line struct {
	cfg  LineConfig
	done chan struct{}

	mu      sync.Mutex
	changed sync.Cond
	out     []byte // datagrams that wait, each but the last of full size
	free    []byte // the other buffer
	offset  uint64 // of the next byte written
	in      []byte // came, from read on
	read    int
	came    uint64
	timeout dgram.Deadline // for reads
	err     error
}

// NewLine begins a line; Close ends it.
func NewLine(cfg LineConfig) *Line {
	l := &Line{cfg: cfg, done: make(chan struct{})}
	l.changed.L = &l.mu
	go l.flush()
	return l
}

// Write is net.Conn's. It waits while much is on its way.
func (l *Line) Write(b []byte) (total int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(b) > 0 {
		for len(l.out) >= mostLineOut && l.err == nil {
			l.changed.Wait()
		}
		if l.err != nil {
			return total, l.err
		}
		n := l.put(b)
		b, total = b[n:], total+n
		l.changed.Broadcast()
	}
	return total, nil
}

// put lays bytes into the last datagram, or a new one.
func (l *Line) put(b []byte) int {
	filled := len(l.out) % lineDatagram
	if filled == 0 {
		h := l.cfg.Header
		h.Offset = l.offset
		l.out = h.Append(l.out)
		filled = lineHeader
	}
	n := min(len(b), lineDatagram-filled)
	l.out = append(l.out, b[:n]...)
	l.offset += uint64(n)
	return n
}

// flush sends what is written.
func (l *Line) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(l.out) == 0 && l.err == nil {
			l.changed.Wait()
		}
		if l.err != nil {
			return
		}
		l.mu.Unlock()
		most, err := l.cfg.Await(l.done)
		l.mu.Lock()
		if err != nil {
			l.end(err)
			return
		}
		n := min(max(most/lineDatagram, 1)*lineDatagram, len(l.out))
		b := l.out[:n]
		l.out, l.free = append(l.free[:0], l.out[n:]...), l.out
		l.changed.Broadcast()
		l.mu.Unlock()
		err = l.cfg.Send(b, min(lineDatagram, len(b)))
		l.mu.Lock()
		if err != nil {
			l.end(err)
			return
		}
	}
}

// Deliver takes a datagram's payload. It never waits.
func (l *Line) Deliver(h LineHeader, payload []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
	case h.End:
		l.end(errEnded)
	case h.Offset != l.came:
		l.end(fmt.Errorf("%w: byte %d came where %d was due", errGap, h.Offset, l.came))
	case len(l.in)-l.read+len(payload) > mostLineIn:
		l.end(errBrim)
	default:
		l.came += uint64(len(payload))
		if l.read > 0 && len(l.in)+len(payload) > cap(l.in) {
			l.in, l.read = l.in[:copy(l.in, l.in[l.read:])], 0
		}
		l.in = append(l.in, payload...)
		l.changed.Broadcast()
	}
}

// mostIdleIn is how much memory is kept for what comes next, in bytes.
const mostIdleIn = 256 << 10

// Read is net.Conn's.
func (l *Line) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.read == len(l.in) {
		switch {
		case l.err != nil:
			return 0, l.err
		case l.timeout.Passed():
			return 0, os.ErrDeadlineExceeded
		}
		l.changed.Wait()
	}
	n := copy(b, l.in[l.read:])
	if l.read += n; l.read == len(l.in) {
		l.read, l.in = 0, l.in[:0]
		if cap(l.in) > mostIdleIn {
			l.in = nil
		}
	}
	return n, nil
}

// end ends the line; the first reason counts. Caller holds l.mu.
func (l *Line) end(why error) {
	if l.err != nil {
		return
	}
	l.err = why
	close(l.done)
	l.timeout.Set(&l.changed, time.Time{})
	if l.cfg.Ended != nil {
		go l.cfg.Ended(why)
	}
}

// Close is net.Conn's. What was written and is not sent yet is dropped.
func (l *Line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(net.ErrClosed)
	return nil
}

// Done is closed when the line has ended.
func (l *Line) Done() <-chan struct{} { return l.done }

// SetReadDeadline is net.Conn's.
func (l *Line) SetReadDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.timeout.Set(&l.changed, t)
	}
	return nil
}

// SetWriteDeadline does nothing: the end of the line ends a write.
func (l *Line) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (l *Line) SetDeadline(t time.Time) error { return l.SetReadDeadline(t) }

// LocalAddr is net.Conn's; a line has none of its own.
func (l *Line) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr is net.Conn's.
func (l *Line) RemoteAddr() net.Addr { return &net.TCPAddr{} }
