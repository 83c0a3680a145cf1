package forward

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// fakeNet is a host whose sockets reach each other, in a bubble's time.
type fakeNet struct {
	mu    sync.Mutex
	socks map[netip.AddrPort]*fakeSock
	port  uint16
	fail  error
}

func newNet() *fakeNet { return &fakeNet{socks: make(map[netip.AddrPort]*fakeSock), port: 20000} }

func (n *fakeNet) Addrs() ([]dgram.HostAddr, error) { return nil, nil }

func (n *fakeNet) ListenUDP(a netip.AddrPort) (dgram.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return nil, n.fail
	}
	ip := a.Addr()
	switch {
	case ip == netip.IPv4Unspecified():
		ip = netip.MustParseAddr("192.0.2.1")
	case ip == netip.IPv6Unspecified():
		ip = netip.MustParseAddr("2001:db8::1")
	}
	if a.Port() == 0 {
		n.port++
		a = netip.AddrPortFrom(ip, n.port)
	}
	a = netip.AddrPortFrom(ip, a.Port())
	if n.socks[a] != nil {
		return nil, fmt.Errorf("address %v in use", a)
	}
	s := &fakeSock{net: n, addr: a, inbox: make(chan dgram.Burst, 4096), done: make(chan struct{})}
	n.socks[a] = s
	return s, nil
}

// open is how many sockets are open.
func (n *fakeNet) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.socks)
}

func (n *fakeNet) failing(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = err
}

type fakeSock struct {
	net   *fakeNet
	addr  netip.AddrPort
	inbox chan dgram.Burst
	done  chan struct{}
}

func (s *fakeSock) LocalAddr() netip.AddrPort       { return s.addr }
func (s *fakeSock) SetReadDeadline(time.Time) error { return nil }

func (s *fakeSock) Read(*dgram.Arena) ([]dgram.Burst, error) {
	select {
	case b := <-s.inbox:
		return []dgram.Burst{b}, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *fakeSock) Write(b dgram.Burst) error {
	s.net.mu.Lock()
	to := s.net.socks[b.Addr]
	s.net.mu.Unlock()
	if to == nil {
		return nil
	}
	to.inbox <- dgram.Burst{Addr: s.addr, Buf: bytes.Clone(b.Buf), Size: b.Size}
	return nil
}

func (s *fakeSock) Close() error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.net.socks[s.addr] == s {
		delete(s.net.socks, s.addr)
		close(s.done)
	}
	return nil
}

// listener is a client or a service of a test: it notes what comes, and a
// service answers.
type listener struct {
	*fakeSock
	t      *testing.T
	echo   bool
	mu     sync.Mutex
	bursts []dgram.Burst
}

func listen(t *testing.T, n *fakeNet, a string, echo bool) *listener {
	t.Helper()
	c, err := n.ListenUDP(addr(a))
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{fakeSock: c.(*fakeSock), t: t, echo: echo}
	go func() {
		for {
			bursts, err := l.Read(nil)
			if err != nil {
				return
			}
			for _, b := range bursts {
				l.mu.Lock()
				l.bursts = append(l.bursts, b)
				l.mu.Unlock()
				if l.echo {
					l.send(b.Addr, "echo "+string(b.Buf))
				}
			}
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l
}

func (l *listener) send(to netip.AddrPort, d string) {
	l.t.Helper()
	if err := l.Write(dgram.One(to, []byte(d))); err != nil {
		l.t.Error(err)
	}
}

// take gives what came since the last take: datagrams, and their sources.
func (l *listener) take() (datagrams []string, from []netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.bursts {
		for d := range b.All() {
			datagrams = append(datagrams, string(d))
			from = append(from, b.Addr)
		}
	}
	l.bursts = nil
	return datagrams, from
}

// want checks the datagrams that came since the last take.
func (l *listener) want(want ...string) {
	l.t.Helper()
	got, _ := l.take()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		l.t.Errorf("%v got %q, want %q", l.addr, got, want)
	}
}

// line is one direction of a session between two Flows: in order, delayed, and
// losing what lose says.
type line struct {
	mu    sync.Mutex
	to    *Flows
	lose  func(f *proto.Frame) bool // f is nil for data
	raws  []uint16
	only  []path.Kinds // of each burst and Open that left
	sent  []*proto.Frame
	data  []dgram.Burst
	queue chan func(*Flows)
}

const delay = 10 * time.Millisecond

func newLine(t *testing.T) *line {
	l := &line{queue: make(chan func(*Flows), 65536)}
	go func() {
		for do := range l.queue {
			l.mu.Lock()
			to := l.to
			l.mu.Unlock()
			if to != nil {
				do(to)
			}
		}
	}()
	t.Cleanup(func() { time.Sleep(2 * delay); close(l.queue) })
	return l
}

// put hands do to the far side after the delay.
func (l *line) put(do func(*Flows)) {
	at := time.Now().Add(delay)
	l.queue <- func(t *Flows) {
		time.Sleep(time.Until(at))
		do(t)
	}
}

func (l *line) Send(only path.Kinds, flow uint16, b dgram.Burst) {
	b.Buf = bytes.Clone(b.Buf)
	l.mu.Lock()
	l.only = append(l.only, only)
	lost := l.lose != nil && l.lose(nil)
	l.data = append(l.data, b)
	l.mu.Unlock()
	if !lost {
		l.put(func(t *Flows) { t.Deliver(flow, b) })
	}
}

func (l *line) SendFrame(only path.Kinds, f *proto.Frame) {
	l.mu.Lock()
	if f.GetOpen() != nil {
		l.only = append(l.only, only)
	}
	lost := l.lose != nil && l.lose(f)
	l.sent = append(l.sent, f)
	l.mu.Unlock()
	if !lost {
		l.put(func(t *Flows) { t.Frame(f) })
	}
}

func (l *line) Raw(flow uint16, _ uint64) {
	l.mu.Lock()
	l.raws = append(l.raws, flow)
	l.mu.Unlock()
}

func (l *line) losing(lose func(f *proto.Frame) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = lose
}

// frames counts what was sent since it was asked last.
func (l *line) frames() (opens, openeds, closes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.sent {
		switch f.Body.(type) {
		case *proto.Frame_Open:
			opens++
		case *proto.Frame_Opened:
			openeds++
		case *proto.Frame_Close:
			closes++
		}
	}
	l.sent = nil
	return opens, openeds, closes
}

func (l *line) aim(to *Flows) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = to
}

// pair is a laptop that dials and a home that exposes, each a host of its own.
type pair struct {
	t                     *testing.T
	laptop, home          *Flows
	laptopNet, homeNet    *fakeNet
	toHome, toLaptop      *line
	services              *Services
	homeConfig, lapConfig Config
}

const (
	serviceAddr = "127.0.0.1:51820"
	dialAddr    = "127.0.0.1:51821"
)

func newPair(t *testing.T, change ...func(p *pair)) *pair {
	t.Helper()
	p := &pair{t: t, laptopNet: newNet(), homeNet: newNet(), toHome: newLine(t), toLaptop: newLine(t), services: NewServices()}
	p.expose("wg", "udp://"+serviceAddr)
	p.lapConfig = Config{Carrier: p.toHome, Instance: 11, Low: true, Services: NewServices(), Network: p.laptopNet}
	p.homeConfig = Config{Carrier: p.toLaptop, Instance: 22, Services: p.services, Network: p.homeNet}
	for _, c := range change {
		c(p)
	}
	p.laptop, p.home = New(p.lapConfig), New(p.homeConfig)
	p.toHome.aim(p.home)
	p.toLaptop.aim(p.laptop)
	t.Cleanup(func() {
		p.laptop.Close()
		p.home.Close()
	})
	return p
}

func (p *pair) expose(name, url string) {
	p.t.Helper()
	if err := p.services.Expose(name, url); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) dial(service string) *Dial {
	p.t.Helper()
	d, err := p.laptop.Listen(service, addr(dialAddr), 0)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

// tick lets time pass, with Expire once a second on both sides.
func (p *pair) tick(d time.Duration) {
	for ; d > 0; d -= time.Second {
		time.Sleep(min(d, time.Second))
		p.laptop.Expire(time.Now())
		p.home.Expire(time.Now())
	}
}

func (p *pair) wantDrops(t *Flows, why reason, n uint64) {
	p.t.Helper()
	if got := t.Drops()[reasonNames[why]]; got != n {
		p.t.Errorf("%s: %d, want %d; all: %v", reasonNames[why], got, n, t.Drops())
	}
}

// settle lets everything arrive that is on its way.
func settle() {
	time.Sleep(5 * delay)
	synctest.Wait()
}
