package stun

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// The tests' internet: hosts, NATs before them, and a delay on every datagram.
// It runs in virtual time.

// hop is what a datagram meets on its way out.
type hop interface {
	out(src, dst netip.AddrPort, b []byte)
}

// inet is the internet: it delivers to whoever has the address.
type inet struct {
	mu    sync.Mutex
	delay time.Duration
	// drop may lose a datagram.
	drop func(src, dst netip.AddrPort, b []byte) bool
	in   map[netip.Addr]func(src, dst netip.AddrPort, b []byte)
	sent int
}

func newInet(delay time.Duration) *inet {
	return &inet{delay: delay, in: make(map[netip.Addr]func(src, dst netip.AddrPort, b []byte))}
}

func (n *inet) out(src, dst netip.AddrPort, b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	in := n.in[dst.Addr()]
	if in == nil || n.drop != nil && n.drop(src, dst, b) {
		return
	}
	time.AfterFunc(n.delay, func() { in(src, dst, b) })
}

func (n *inet) attach(a netip.Addr, in func(src, dst netip.AddrPort, b []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.in[a] = in
}

// host implements dgram.Network.
type host struct {
	addrs []dgram.HostAddr
	up    hop

	mu    sync.Mutex
	conns map[uint16]*conn
	next  uint16
	fail  error // of ListenUDP
}

func newHost(up hop, addrs ...string) *host {
	h := &host{up: up, conns: make(map[uint16]*conn), next: 50000}
	for i, a := range addrs {
		prefix := netip.MustParsePrefix(a)
		h.addrs = append(h.addrs, dgram.HostAddr{Interface: fmt.Sprintf("eth%d", i), Addr: prefix, Up: true})
		if n, ok := up.(*inet); ok {
			n.attach(prefix.Addr(), h.in)
		}
	}
	return h
}

func (h *host) Addrs() ([]dgram.HostAddr, error) { return h.addrs, nil }

func (h *host) ListenUDP(addr netip.AddrPort) (dgram.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return nil, h.fail
	}
	port := addr.Port()
	for port == 0 || h.conns[port] != nil {
		h.next += 7 // as strange as a kernel's choice, so that no NAT's delta comes from here
		if h.next%5 == 0 {
			h.next += 1013
		}
		port = h.next
	}
	ip := addr.Addr()
	if ip.IsUnspecified() {
		for _, own := range h.addrs {
			if own.Addr.Addr().Is4() == ip.Is4() {
				ip = own.Addr.Addr()
				break
			}
		}
	}
	c := &conn{host: h, addr: netip.AddrPortFrom(ip, port), rx: make(chan dgram.Burst, 256), closed: make(chan struct{})}
	h.conns[port] = c
	return c, nil
}

func (h *host) in(src, dst netip.AddrPort, b []byte) {
	h.mu.Lock()
	c := h.conns[dst.Port()]
	h.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case c.rx <- dgram.One(src, b):
	default:
	}
}

type conn struct {
	host   *host
	addr   netip.AddrPort
	rx     chan dgram.Burst
	closed chan struct{}
	once   sync.Once
}

func (c *conn) Read(a *dgram.Arena) ([]dgram.Burst, error) {
	select {
	case b := <-c.rx:
		a.Reset()
		n := copy(a.Slot(0), b.Buf)
		a.Add(dgram.One(b.Addr, a.Slot(0)[:n]))
		return a.Bursts(), nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

func (c *conn) Write(b dgram.Burst) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	for d := range b.All() {
		c.host.up.out(c.addr, b.Addr, append([]byte(nil), d...))
	}
	return nil
}

func (c *conn) LocalAddr() netip.AddrPort         { return c.addr }
func (c *conn) SetReadDeadline(t time.Time) error { return nil }

func (c *conn) Close() error {
	c.once.Do(func() {
		c.host.mu.Lock()
		delete(c.host.conns, c.addr.Port())
		c.host.mu.Unlock()
		close(c.closed)
	})
	return nil
}

// nat is a NAT of the given behaviour before one host or before another NAT.
type nat struct {
	addr      netip.Addr
	mapping   Behaviour
	filtering Behaviour
	port      func(local uint16, n int) uint16 // the n-th mapping's outside port
	hairpin   bool
	up        hop
	inside    func(src, dst netip.AddrPort, b []byte)

	mu     sync.Mutex
	byFlow map[[2]netip.AddrPort]*mapped
	byPort map[uint16]*mapped
}

type mapped struct {
	local netip.AddrPort
	out   netip.AddrPort
	peers map[netip.AddrPort]bool // by filtering: cut to what counts
}

func preserve(local uint16, _ int) uint16 { return local }

func newNAT(up *inet, addr string, mapping, filtering Behaviour) *nat {
	n := &nat{
		addr: netip.MustParseAddr(addr), mapping: mapping, filtering: filtering, port: preserve, up: up,
		byFlow: make(map[[2]netip.AddrPort]*mapped), byPort: make(map[uint16]*mapped),
	}
	if mapping != EndpointIndependent {
		n.port = func(_ uint16, i int) uint16 { return uint16(20000 + i*i*31%40000) }
	}
	up.attach(n.addr, n.in)
	return n
}

// cut reduces an address to what a behaviour looks at.
func cut(b Behaviour, a netip.AddrPort) netip.AddrPort {
	switch b {
	case EndpointIndependent:
		return netip.AddrPort{}
	case AddressDependent:
		return netip.AddrPortFrom(a.Addr(), 0)
	}
	return a
}

func (n *nat) out(src, dst netip.AddrPort, b []byte) {
	n.mu.Lock()
	key := [2]netip.AddrPort{src, cut(n.mapping, dst)}
	m := n.byFlow[key]
	if m == nil {
		port := n.port(src.Port(), len(n.byFlow))
		for n.byPort[port] != nil {
			port++
		}
		m = &mapped{local: src, out: netip.AddrPortFrom(n.addr, port), peers: make(map[netip.AddrPort]bool)}
		n.byFlow[key], n.byPort[port] = m, m
	}
	m.peers[cut(n.filtering, dst)] = true
	n.mu.Unlock()
	if dst.Addr() != n.addr {
		n.up.out(m.out, dst, b)
	} else if n.hairpin {
		n.in(m.out, dst, b)
	}
}

func (n *nat) in(src, dst netip.AddrPort, b []byte) {
	n.mu.Lock()
	m := n.byPort[dst.Port()]
	ok := m != nil && m.peers[cut(n.filtering, src)]
	n.mu.Unlock()
	if ok {
		n.inside(src, m.local, b)
	}
}

// behind puts a host behind a NAT.
func behind(n *nat, addrs ...string) *host {
	h := newHost(n, addrs...)
	n.inside = h.in
	return h
}

// server answers STUN on the given sockets of a host until its conns close.
type server struct {
	*Responder
	conns map[Socket]dgram.Conn
}

func serve(n *inet, sockets Sockets) *server {
	s := &server{Responder: NewResponder(sockets), conns: make(map[Socket]dgram.Conn)}
	hosts := make(map[netip.Addr]*host)
	for a := range sockets {
		for p, addr := range sockets[a] {
			if !addr.IsValid() {
				continue
			}
			h := hosts[addr.Addr()]
			if h == nil {
				h = newHost(n, netip.PrefixFrom(addr.Addr(), addr.Addr().BitLen()).String())
				hosts[addr.Addr()] = h
			}
			c, err := h.ListenUDP(addr)
			must(err)
			s.conns[Socket{uint8(a), uint8(p)}] = c
		}
	}
	for in, c := range s.conns {
		go s.read(in, c)
	}
	return s
}

func (s *server) read(in Socket, c dgram.Conn) {
	var arena dgram.Arena
	for {
		bursts, err := c.Read(&arena)
		if err != nil {
			return
		}
		for _, b := range bursts {
			if a, ok := s.Answer(time.Now(), in, b.Addr, b.Buf); ok {
				must(s.conns[a.From].Write(dgram.One(a.To, a.Message)))
			}
		}
	}
}

func (s *server) Close() {
	for _, c := range s.conns {
		must(c.Close())
	}
}

func ap(s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(s)
}

// fourSockets are a coordinator's with two addresses.
func fourSockets() Sockets {
	return Sockets{
		{ap("203.0.113.10:443"), ap("203.0.113.10:3478")},
		{ap("203.0.113.11:443"), ap("203.0.113.11:3478")},
	}
}

// twoPorts are a coordinator's with one.
func twoPorts() Sockets {
	return Sockets{{ap("203.0.113.10:443"), ap("203.0.113.10:3478")}}
}
