package simopen

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// field is two hosts, each behind a router or not, as far as TCP's opening
// goes. A connect is a SYN that travels for delay; it opens the router that it
// leaves by until it is answered or given up.
type field struct {
	delay time.Duration

	mu    sync.Mutex
	sides map[netip.Addr]*side // by outside address
	lose  func(n int) bool     // the n-th SYN of all
	syns  int
}

// Routers by what they do with a SYN of a stranger's.
const (
	drops = iota
	resets
	open // no router: the listener gets it
)

// side is one host with one port, a dgram.Streams.
type side struct {
	field   *field
	at      netip.AddrPort // outside
	router  int
	deaf    bool // lets in no SYN at all
	busy    int  // so many connects find their 4-tuple in use
	calls   map[netip.AddrPort]*call
	arrived chan net.Conn
	closed  chan struct{}
	once    sync.Once
	times   []time.Time // of connects
}

// call is a connect under way.
type call struct {
	done chan answer // of one
	open bool
}

type answer struct {
	conn net.Conn
	err  error
}

func newField(delay time.Duration) *field {
	return &field{delay: delay, sides: make(map[netip.Addr]*side)}
}

func (f *field) side(at string, router int) *side {
	s := &side{field: f, at: netip.MustParseAddrPort(at), router: router, calls: make(map[netip.AddrPort]*call),
		arrived: make(chan net.Conn, 100), closed: make(chan struct{})}
	f.sides[s.at.Addr()] = s
	return s
}

// Accept, Close and Addr are net.Listener's.
func (s *side) Accept() (net.Conn, error) {
	select {
	case c := <-s.arrived:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *side) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *side) Addr() net.Addr { return net.TCPAddrFromAddrPort(s.at) }

func (s *side) ListenTCP(netip.AddrPort) (net.Listener, error) { return s, nil }

// DialTCP is dgram.Streams'.
func (s *side) DialTCP(ctx context.Context, _, remote netip.AddrPort) (net.Conn, error) {
	f := s.field
	f.mu.Lock()
	s.times = append(s.times, time.Now())
	if s.busy > 0 {
		s.busy--
		f.mu.Unlock()
		return nil, syscall.EADDRNOTAVAIL
	}
	c := &call{done: make(chan answer, 1), open: true}
	s.calls[remote] = c
	f.syns++
	if f.lose == nil || !f.lose(f.syns) {
		time.AfterFunc(f.delay, func() { f.syn(s, remote, c) })
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		c.open = false
	}()
	select {
	case a := <-c.done:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// syn is a SYN's arrival.
func (f *field) syn(from *side, to netip.AddrPort, c *call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sides[to.Addr()]
	if s == nil || s.deaf || !c.open {
		return
	}
	back := s.calls[from.at]
	switch {
	case s.at == to && back != nil && back.open: // SYNs have crossed
		a, b := pipe(from.at, to)
		back.open = false
		back.done <- answer{conn: b}
		f.later(c, answer{conn: a})
	case s.router == open && s.at == to && !s.over():
		a, b := pipe(from.at, to)
		s.arrived <- b
		f.later(c, answer{conn: a})
	case s.router != drops:
		f.later(c, answer{err: syscall.ECONNREFUSED})
	}
}

func (s *side) over() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (f *field) later(c *call, a answer) {
	time.AfterFunc(f.delay, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if c.open {
			c.open = false
			c.done <- a
		}
	})
}

// addressed is one end of a pipe.
type addressed struct {
	net.Conn
	local, remote netip.AddrPort
}

func (c addressed) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c addressed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func pipe(a, b netip.AddrPort) (net.Conn, net.Conn) {
	x, y := net.Pipe()
	return addressed{x, a, b}, addressed{y, b, a}
}

// stranger connects to a side's listener, from any address.
func (s *side) stranger(from string, say string) net.Conn {
	a, b := pipe(netip.MustParseAddrPort(from), s.at)
	s.arrived <- b
	go func() { _, _ = io.WriteString(a, say); _, _ = io.Copy(io.Discard, a) }()
	return a
}
