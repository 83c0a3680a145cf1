package natlab

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"rendezvous/internal/dgram"
)

var (
	_ dgram.Opener  = (*fakeConn)(nil)
	_ dgram.Heavier = (*fakeConn)(nil)
)

// fakeConn is a socket of fake TCP: its datagrams travel one to one as TCP
// segments, which no NAT tells from others, and which nobody repeats. It does
// what package faketcp does as far as the lab's internet sees it.
type fakeConn struct {
	host   *Host
	in     *socket // where datagrams wait to be read
	beside bool
	peers  map[netip.AddrPort]*fakePeer
}

// fakePace is how long after the last segment of a handshake the next one
// leaves, by how long it has lasted.
var fakePace = [...]struct{ until, gap time.Duration }{
	{300 * time.Millisecond, 20 * time.Millisecond},
	{3 * time.Second, 100 * time.Millisecond},
	{1 << 62, 500 * time.Millisecond},
}

const (
	fakeExtra   = 12 // bytes: TCP's header and UDP's differ by that
	fakeHeld    = 16 // bursts that wait for the end of a handshake
	fakeSilence = 3 * time.Second
	fakeFresh   = 30 * time.Second // what spoke so lately needs no new handshake
	fakeLost    = 10 * time.Second // of silence after an RST or FIN end a flow
	fakeAck     = 500 * time.Millisecond
)

func newFakeConn(h *Host, addr netip.AddrPort, beside bool) *fakeConn {
	f := &fakeConn{host: h, in: newSocket(h, addr), beside: beside, peers: map[netip.AddrPort]*fakePeer{}}
	h.tcp.fakes[addr] = f
	h.tcp.hold(addr)
	return f
}

// LocalAddr is the address as it was bound, with the port that was found.
func (f *fakeConn) LocalAddr() netip.AddrPort { return f.in.addr }

// Read is dgram.Conn's.
func (f *fakeConn) Read(a *dgram.Arena) ([]dgram.Burst, error) { return f.in.Read(a) }

// SetReadDeadline is dgram.Conn's.
func (f *fakeConn) SetReadDeadline(t time.Time) error { return f.in.SetReadDeadline(t) }

// Extra is dgram.Heavier's.
func (f *fakeConn) Extra(netip.AddrPort) int { return fakeExtra }

// Close ends what we opened with a FIN. No RST leaves, which would delete a
// NAT's mapping.
func (f *fakeConn) Close() error {
	f.host.lab.mu.Lock()
	defer f.host.lab.mu.Unlock()
	if f.in.closed {
		return net.ErrClosed
	}
	for to, p := range f.peers {
		if p.opener && p.state == tcpEstablished {
			f.transmit(to, TCPFin)
		}
	}
	f.closeLocked()
	return nil
}

func (f *fakeConn) closeLocked() {
	if f.in.closed {
		return
	}
	f.in.closeLocked()
	delete(f.host.tcp.fakes, f.in.addr)
	f.host.tcp.drop(f.in.addr)
	for _, p := range f.peers {
		p.wake()
	}
}

// Open is dgram.Opener's.
func (f *fakeConn) Open(ctx context.Context, to netip.AddrPort) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	lab := f.host.lab
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if err := f.openable(to); err != nil {
		return tcpError("open", f.in.addr, to, err)
	}
	p := f.peers[to]
	if p == nil {
		p = &fakePeer{}
		f.peers[to] = p
	}
	p.opener = true
	if p.lives(time.Now()) {
		return nil
	}
	before := p.spoke
	p.opens++
	if p.opens == 1 {
		p.began = time.Now()
		f.knock(to, p)
	}
	defer f.opened(to, p)
	for p.state != tcpEstablished || !p.spoke.After(before) {
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		lab.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		lab.mu.Lock()
		switch {
		case f.in.closed:
			return tcpError("open", f.in.addr, to, net.ErrClosed)
		case ctx.Err() != nil:
			return tcpError("open", f.in.addr, to, ctx.Err())
		}
	}
	return nil
}

// Prime is *faketcp.Conn's: one SYN, after which the peer's is answered.
func (f *fakeConn) Prime(to netip.AddrPort, ttl int) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	lab := f.host.lab
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if err := f.openable(to); err != nil {
		return tcpError("prime", f.in.addr, to, err)
	}
	p := f.peers[to]
	if p == nil {
		p = &fakePeer{}
		f.peers[to] = p
	}
	if p.opener = true; p.state == tcpClosed || p.state == tcpSynSent {
		p.state, p.sent = tcpSynSent, time.Now()
		f.transmitTTL(to, TCPSyn, ttl)
	}
	return nil
}

func (f *fakeConn) openable(to netip.AddrPort) error {
	if f.in.closed {
		return net.ErrClosed
	}
	if !to.IsValid() || to.Port() == 0 {
		return os.NewSyscallError("sendmsg", syscall.EINVAL)
	}
	if _, err := f.host.source(f.in.addr.Addr(), to.Addr()); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	return nil
}

// opened is the end of an Open. What was held for one that came to nothing is
// lost.
func (f *fakeConn) opened(to netip.AddrPort, p *fakePeer) {
	p.opens--
	if p.opens == 0 && p.state != tcpEstablished {
		delete(f.peers, to)
	}
}

// knock sends the segment that the handshake wants, and plans the next, as
// long as somebody waits for it.
func (f *fakeConn) knock(to netip.AddrPort, p *fakePeer) {
	now := time.Now()
	f.shake(to, p)
	gap := fakePace[len(fakePace)-1].gap
	for _, step := range fakePace {
		if now.Sub(p.began) < step.until {
			gap = step.gap
			break
		}
	}
	opening := p.began
	f.host.lab.agenda.plan(now.Add(gap), func() {
		waits := p.opens > 0 && p.began.Equal(opening) && f.peers[to] == p && !f.in.closed
		if waits && time.Since(p.sent) >= gap {
			f.knock(to, p)
		} else if waits {
			f.again(to, p, opening)
		}
	})
}

// again plans a knock later, as a reset made one leave out of turn.
func (f *fakeConn) again(to netip.AddrPort, p *fakePeer, opening time.Time) {
	f.host.lab.agenda.plan(p.sent.Add(fakePace[0].gap), func() {
		if p.opens > 0 && p.began.Equal(opening) && f.peers[to] == p && !f.in.closed {
			f.knock(to, p)
		}
	})
}

// shake sends a SYN, or a SYN/ACK where the peer's SYN has come.
func (f *fakeConn) shake(to netip.AddrPort, p *fakePeer) {
	k := TCPSyn
	switch p.state {
	case tcpClosed:
		p.state = tcpSynSent
	case tcpSynReceived:
		k = TCPSynAck
	}
	p.sent = time.Now()
	f.transmit(to, k)
}

// transmit sends a segment without payload.
func (f *fakeConn) transmit(to netip.AddrPort, k TCPKind) { f.transmitTTL(to, k, DefaultTTL) }

// transmitTTL is transmit with a hop limit; 0 is the usual one.
func (f *fakeConn) transmitTTL(to netip.AddrPort, k TCPKind, ttl int) {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	h := f.host
	from, err := h.source(f.in.addr.Addr(), to.Addr())
	if err != nil {
		return // the address is gone: as if lost
	}
	p := &parcel{
		from: netip.AddrPortFrom(from, f.in.addr.Port()), to: to, ttl: ttl, last: h.name,
		tcp: &header{Label: Label{TCP: k, Fake: true}},
	}
	h.lab.number(p, h.name)
	h.dispatch(p)
}

// Write is dgram.Conn's. Datagrams to where no handshake was made are refused;
// while one is under way, a few are held.
func (f *fakeConn) Write(b dgram.Burst) error {
	to := netip.AddrPortFrom(b.Addr.Addr().Unmap(), b.Addr.Port())
	f.host.lab.mu.Lock()
	defer f.host.lab.mu.Unlock()
	if err := f.write(to, b); err != nil {
		return tcpError("write", f.in.addr, to, err)
	}
	return nil
}

func (f *fakeConn) write(to netip.AddrPort, b dgram.Burst) error {
	if err := f.openable(to); err != nil {
		return err
	}
	h, p, now := f.host, f.peers[to], time.Now()
	switch {
	case len(b.Buf) == 0: // no segment can carry it: lost
		return nil
	case p != nil && p.ended.After(p.spoke) && p.unanswered(now, fakeLost):
		delete(f.peers, to)
		return os.NewSyscallError("sendmsg", syscall.ENOTCONN)
	case p == nil, p.state != tcpEstablished && p.opens == 0:
		return os.NewSyscallError("sendmsg", syscall.ENOTCONN)
	case p.state != tcpEstablished:
		b.Buf = slices.Clone(b.Buf)
		p.held = append(p.held, b)
		if len(p.held) > fakeHeld {
			p.held = p.held[1:]
		}
		return nil
	case p.opener && p.silent(now) && now.Sub(p.sent) >= time.Second: // the NATs or the peer may have forgotten
		f.shake(to, p)
	}
	if !p.asked.After(p.spoke) {
		p.asked = now
	}
	p.owes = false
	from, err := h.source(f.in.addr.Addr(), to.Addr())
	if err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	return h.launch(&parcel{
		from: netip.AddrPortFrom(from, f.in.addr.Port()), to: to, ttl: DefaultTTL,
		tcp: &header{Label: Label{TCP: TCPData, Fake: true}},
	}, b)
}
