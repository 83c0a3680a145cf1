package tun

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// fakeDevice is a device whose kernel is the test.
type fakeDevice struct {
	out    chan []byte // what the kernel sends
	mu     sync.Mutex
	got    [][]byte // what it received
	closed chan struct{}
}

func newFakeDevice() *fakeDevice {
	return &fakeDevice{out: make(chan []byte, 100), closed: make(chan struct{})}
}

func (d *fakeDevice) Read(b []byte) (int, error) {
	select {
	case p := <-d.out:
		return copy(b, p), nil
	case <-d.closed:
		return 0, io.EOF
	}
}

func (d *fakeDevice) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got = append(d.got, slices.Clone(b))
	return len(b), nil
}

func (d *fakeDevice) Close() error {
	close(d.closed)
	return nil
}

// send gives a packet as the kernel does that has computed its checksum.
func (d *fakeDevice) send(packet []byte) { d.out <- append(make([]byte, vnetSize), packet...) }

// take is what the device received since the last call.
func (d *fakeDevice) take() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	got := d.got
	d.got = nil
	return got
}

// fakeConn is a socket on a network of such; without one it keeps what is
// written.
type fakeConn struct {
	net    *fakeNet
	local  netip.AddrPort
	in     chan dgram.Burst
	closed chan struct{}
	mu     sync.Mutex
	sent   []dgram.Burst
	err    error
}

type fakeNet struct {
	mu    sync.Mutex
	conns map[netip.AddrPort]*fakeConn
	alias map[netip.AddrPort]netip.AddrPort // a NAT: who sends from the first is seen at the second
}

func newFakeNet() *fakeNet {
	return &fakeNet{conns: make(map[netip.AddrPort]*fakeConn), alias: make(map[netip.AddrPort]netip.AddrPort)}
}

func (n *fakeNet) listen(addr string) *fakeConn {
	c := &fakeConn{net: n, local: netip.MustParseAddrPort(addr), in: make(chan dgram.Burst, 1000), closed: make(chan struct{})}
	n.conns[c.local] = c
	return c
}

// translate shows a socket at another address, and forgets where it was.
func (n *fakeNet) translate(c *fakeConn, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, n.alias[c.local])
	n.alias[c.local] = netip.MustParseAddrPort(to)
	n.conns[n.alias[c.local]] = c
}

func (n *fakeNet) carry(b dgram.Burst, from netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if seen, ok := n.alias[from]; ok {
		from = seen
	}
	if c := n.conns[b.Addr]; c != nil {
		c.in <- dgram.Burst{Addr: from, Buf: slices.Clone(b.Buf), Size: b.Size}
	}
}

func (c *fakeConn) Read(a *dgram.Arena) ([]dgram.Burst, error) {
	a.Reset()
	select {
	case b := <-c.in:
		a.Add(b)
		return a.Bursts(), nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

func (c *fakeConn) Write(b dgram.Burst) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	b.Buf = slices.Clone(b.Buf)
	c.sent = append(c.sent, b)
	if c.net != nil {
		c.net.carry(b, c.local)
	}
	return nil
}

func (c *fakeConn) take() []dgram.Burst {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := c.sent
	c.sent = nil
	return sent
}

func (c *fakeConn) LocalAddr() netip.AddrPort       { return c.local }
func (c *fakeConn) SetReadDeadline(time.Time) error { return nil }
func (c *fakeConn) Close() error                    { close(c.closed); return nil }
