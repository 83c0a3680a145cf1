package faketcp

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
)

// parcel is one segment on its way.
type parcel struct {
	segment
	payload []byte
}

func (p *parcel) has(flags uint8) bool { return p.flags&flags != 0 }

// span is how far it moves the sequence number.
func (p *parcel) span() uint32 {
	n := uint32(len(p.payload))
	if p.has(flagSYN) {
		n++
	}
	if p.has(flagFIN) {
		n++
	}
	return n
}

// course is a direction on a wire.
type course int

const (
	rightwards course = 1
	leftwards  course = -1
)

// box is something between two hosts. pass returns what goes on, in the same
// direction; it is called under the wire's lock.
type box interface {
	pass(w *wire, at int, d course, p *parcel) *parcel
}

// wire is two devices and the boxes between them, in virtual time.
type wire struct {
	mu          sync.Mutex
	left, right *memDevice
	boxes       []box
	trace       func(d course, p *parcel) // what arrives
}

// memDevice is a device in memory.
type memDevice struct {
	wire     *wire
	addr     netip.AddrPort
	out      course
	queue    []*parcel
	ready    chan struct{}
	deadline time.Time
	closed   bool
	mtu      int
}

var (
	leftAddr  = netip.MustParseAddrPort("198.51.100.2:40001")
	rightAddr = netip.MustParseAddrPort("203.0.113.9:443")
)

// newWire joins leftAddr and rightAddr, or others where boxes translate.
func newWire(left, right netip.AddrPort, boxes ...box) *wire {
	w := &wire{boxes: boxes}
	w.left = &memDevice{wire: w, addr: left, out: rightwards, ready: make(chan struct{}, 1), mtu: 1500}
	w.right = &memDevice{wire: w, addr: right, out: leftwards, ready: make(chan struct{}, 1), mtu: 1500}
	return w
}

// walk moves p on from before box at, in direction d. Called under mu.
func (w *wire) walk(at int, d course, p *parcel) {
	for ; at >= 0 && at < len(w.boxes); at += int(d) {
		if p = w.boxes[at].pass(w, at, d, p); p == nil {
			return
		}
	}
	dev := w.right
	if d == leftwards {
		dev = w.left
	}
	if dev.closed || p.remote != dev.addr {
		return
	}
	if w.trace != nil {
		w.trace(d, p)
	}
	dev.queue = append(dev.queue, p)
	dev.signal()
}

func (m *memDevice) signal() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

func (m *memDevice) send(s *segment, b dgram.Burst) error {
	w := m.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	start := 0
	if m.out == leftwards {
		start = len(w.boxes) - 1
	}
	if min(b.Size, len(b.Buf))+40+len(s.options) > m.mtu {
		return dgram.ErrTooLarge
	}
	seq := s.seq
	k, last := 0, b.Len()-1
	for d := range b.All() {
		p := &parcel{segment: *s, payload: slices.Clone(d)}
		p.local, p.seq, p.options = m.addr, seq, slices.Clone(s.options)
		if p.ttl == 0 {
			p.ttl = 64
		}
		if k < last {
			p.flags &^= flagPSH | flagFIN
		}
		seq += uint32(len(d))
		k++
		w.walk(start, m.out, p)
	}
	return nil
}

// receive hands out runs as a kernel with receive offload merges them.
func (m *memDevice) receive(a *dgram.Arena, visit func(s *segment, b dgram.Burst)) error {
	a.Reset()
	for {
		m.wire.mu.Lock()
		queue := m.queue
		m.queue = nil
		closed, late := m.closed, !m.deadline.IsZero() && !time.Now().Before(m.deadline)
		m.wire.mu.Unlock()
		switch {
		case closed:
			return net.ErrClosed
		case len(queue) > 0:
			for len(queue) > 0 {
				n := run(queue)
				s := queue[0].segment
				s.local, s.remote = s.remote, s.local // the receiver's view
				b := dgram.Burst{Addr: s.remote, Size: len(queue[0].payload)}
				for _, p := range queue[:n] {
					b.Buf = append(b.Buf, p.payload...)
				}
				visit(&s, b)
				queue = queue[n:]
			}
			return nil
		case late:
			return os.ErrDeadlineExceeded
		}
		<-m.ready
	}
}

// run is how many of the first parcels make one run.
func run(queue []*parcel) int {
	n := 1
	for size := len(queue[0].payload); n < len(queue) && n < dgram.MaxSegments; n++ {
		last, p := queue[n-1], queue[n]
		if len(last.payload) != size || size == 0 || len(p.payload) == 0 || len(p.payload) > size || last.flags != flagACK ||
			p.flags&^flagPSH != flagACK || p.seq != last.seq+uint32(size) || p.ack != last.ack || p.local != last.local {
			break
		}
	}
	return n
}

func (m *memDevice) local() netip.AddrPort { return m.addr }

func (m *memDevice) setReadDeadline(t time.Time) error {
	m.wire.mu.Lock()
	defer m.wire.mu.Unlock()
	m.deadline = t
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), m.signal)
	}
	m.signal()
	return nil
}

func (m *memDevice) close() error {
	m.wire.mu.Lock()
	defer m.wire.mu.Unlock()
	m.closed = true
	m.signal()
	return nil
}

// host is a Conn with a reader that keeps what came.
type host struct {
	*Conn
	mu   sync.Mutex
	came []arrival
}

type arrival struct {
	from netip.AddrPort
	body string
	at   time.Time
}

func newHost(t *testing.T, d device, o Options) *host {
	t.Helper()
	h := &host{Conn: newConn(d, o, false)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var a dgram.Arena
		defer a.Release()
		for {
			bursts, err := h.Read(&a)
			if err != nil {
				return
			}
			h.mu.Lock()
			for _, b := range bursts {
				for d := range b.All() {
					h.came = append(h.came, arrival{b.Addr, string(d), time.Now()})
				}
			}
			h.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		h.Close()
		<-done
	})
	return h
}

func (h *host) arrivals() []arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.came)
}

// write sends one datagram.
func (h *host) write(t *testing.T, to netip.AddrPort, body string) {
	t.Helper()
	if err := h.Write(dgram.One(to, []byte(body))); err != nil {
		t.Errorf("write: %v", err)
	}
}

// hosts puts a Conn at either end.
func (w *wire) hosts(t *testing.T, o Options) (left, right *host) {
	return newHost(t, w.left, o), newHost(t, w.right, o)
}

// virtual runs a test in a bubble of virtual time; cleanups too.
func virtual(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	bubble.Test(t, f)
}
