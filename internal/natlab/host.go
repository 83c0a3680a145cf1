package natlab

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"

	"rendezvous/internal/dgram"
)

// Host is a computer on the lab's internet. It is a dgram.Network, a
// dgram.Streams and a dgram.FakeTCP.
type Host struct {
	station
	rand    *rand.Rand
	local   []dgram.HostAddr // interfaces that lead nowhere
	sockets map[netip.AddrPort]*socket
	ports   map[portKey]int // sockets on a port of a family
	tcp     tcpSockets
	meter   func(to netip.AddrPort, datagrams int)
}

type portKey struct {
	v4   bool
	port uint16
}

var _ dgram.Network = (*Host)(nil)

func newHost(l *Lab, name string) *Host {
	return &Host{
		station: station{lab: l, name: name},
		rand:    l.rand(name + "/ports"),
		sockets: map[netip.AddrPort]*socket{},
		ports:   map[portKey]int{},
		tcp:     newTCPSockets(),
	}
}

func (h *Host) allSockets() []*socket {
	out := make([]*socket, 0, len(h.sockets))
	for _, s := range h.sockets {
		out = append(out, s)
	}
	return out
}

// Readdress gives the host other addresses in its network, in place of all it
// had. Sockets bound to no address go on with the new one.
func (h *Host) Readdress(addrs ...string) {
	h.lab.t.Helper()
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.readdress(addrs)
}

// MoveTo takes the host to another network, over a link of its own there.
func (h *Host) MoveTo(place Place, addr string, options ...Option) {
	h.lab.t.Helper()
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	old := h.attachment
	old.segment.leave(old)
	old.gone = true
	s := place.segment()
	c := s.setup(options)
	h.attachment = s.attach(h, h.lab.mustPrefixes(h.name, append([]string{addr}, c.also...)), c.conditions)
}

// Meter calls count for each burst that the host sends from now on, and for each
// TCP segment: where to, and how many datagrams. It is called with the lab locked
// and must call nothing of it.
func (h *Host) Meter(count func(to netip.AddrPort, datagrams int)) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.meter = count
}

// Addrs are the addresses of the loopback, of the link (eth0), and of those
// interfaces that the option Interface made.
func (h *Host) Addrs() ([]dgram.HostAddr, error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	out := []dgram.HostAddr{
		{Interface: "lo", Addr: netip.MustParsePrefix("127.0.0.1/8"), Up: true},
		{Interface: "lo", Addr: netip.MustParsePrefix("::1/128"), Up: true},
	}
	for _, p := range h.attachment.addrs {
		out = append(out, dgram.HostAddr{Interface: "eth0", Addr: p, Up: !h.attachment.link.cut})
	}
	return append(out, h.local...), nil
}

// isLocal says whether addr is one of the host's own.
func (h *Host) isLocal(addr netip.Addr) bool {
	if addr.IsLoopback() || h.attachment.has(addr) {
		return true
	}
	for _, i := range h.local {
		if i.Addr.Addr() == addr {
			return true
		}
	}
	return false
}

// ListenUDP binds a socket.
func (h *Host) ListenUDP(addr netip.AddrPort) (dgram.Conn, error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if !addr.IsValid() {
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
	}
	fail := func(why error) error {
		return &net.OpError{Op: "listen", Net: "udp", Addr: net.UDPAddrFromAddrPort(addr), Err: why}
	}
	if h.lab.closed {
		return nil, fail(net.ErrClosed)
	}
	if a := addr.Addr(); !a.IsUnspecified() && !h.isLocal(a) {
		return nil, fail(os.NewSyscallError("bind", syscall.EADDRNOTAVAIL))
	}
	if addr.Port() == 0 {
		port, ok := h.freePort(h.ports, addr.Addr())
		if !ok {
			return nil, fail(os.NewSyscallError("bind", syscall.EADDRINUSE))
		}
		addr = netip.AddrPortFrom(addr.Addr(), port)
	} else if h.taken(addr) {
		return nil, fail(os.NewSyscallError("bind", syscall.EADDRINUSE))
	}
	s := newSocket(h, addr)
	h.sockets[addr] = s
	h.ports[portKey{addr.Addr().Is4(), addr.Port()}]++
	return s, nil
}

// freePort looks in Linux's range of ephemeral ports.
func (h *Host) freePort(used map[portKey]int, a netip.Addr) (uint16, bool) {
	const low, n = 32768, 60999 - 32768 + 1
	start := h.rand.IntN(n)
	for i := range n {
		port := uint16(low + (start+i)%n)
		if used[portKey{a.Is4(), port}] == 0 {
			return port, true
		}
	}
	return 0, false
}

// taken says whether binding addr would clash: with the same address, or with
// the unspecified one.
func (h *Host) taken(addr netip.AddrPort) bool {
	if h.ports[portKey{addr.Addr().Is4(), addr.Port()}] == 0 {
		return false
	}
	if addr.Addr().IsUnspecified() {
		return true
	}
	return h.sockets[addr] != nil || h.sockets[unspecified(addr)] != nil
}

func unspecified(addr netip.AddrPort) netip.AddrPort {
	if addr.Addr().Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())
}

func (h *Host) release(s *socket) {
	if h.sockets[s.addr] != s {
		return
	}
	delete(h.sockets, s.addr)
	k := portKey{s.addr.Addr().Is4(), s.addr.Port()}
	if h.ports[k]--; h.ports[k] == 0 {
		delete(h.ports, k)
	}
}

// source is the address that a socket bound to an address sends from to reach
// to.
func (h *Host) source(bound, to netip.Addr) (netip.Addr, error) {
	switch {
	case bound.Is4() != to.Is4():
		return netip.Addr{}, syscall.EAFNOSUPPORT
	case !bound.IsUnspecified():
		if !h.isLocal(bound) || bound.IsLoopback() && !h.isLocal(to) {
			return netip.Addr{}, syscall.ENETUNREACH
		}
		return bound, nil
	case to.IsLoopback() && to.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	case h.isLocal(to):
		return to, nil
	}
	a, ok := h.attachment.source(to)
	if !ok {
		return netip.Addr{}, syscall.ENETUNREACH
	}
	return a, nil
}

// arrive is what the link brought.
func (h *Host) arrive(p *parcel) {
	if !h.isLocal(p.to.Addr()) || p.to.Addr().IsLoopback() {
		h.lab.dropped(p, h.name, DropNoRoute)
		return
	}
	h.receive(p)
}

func (h *Host) receive(p *parcel) {
	if p.tcp != nil {
		h.receiveTCP(p)
		return
	}
	s := h.sockets[p.to]
	if s == nil {
		s = h.sockets[unspecified(p.to)]
	}
	if s == nil {
		h.lab.dropped(p, h.name, DropNoSocket)
		return
	}
	s.enqueue(p)
}
