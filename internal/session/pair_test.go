package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// end is one side of a session in the lab, with a conn for each of its paths.
type end struct {
	*Session
	t      *testing.T
	conns  []dgram.Conn
	mu     sync.Mutex
	got    [][]byte
	flows  []uint16
	frames []*proto.Frame
	events []Event
	at     []time.Duration
	began  time.Time
	beside besides
}

func (e *end) Deliver(flow uint16, b dgram.Burst) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for d := range b.All() {
		e.got = append(e.got, bytes.Clone(d))
		e.flows = append(e.flows, flow)
		e.at = append(e.at, time.Since(e.began))
	}
}

func (e *end) Frame(f *proto.Frame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frames = append(e.frames, f)
}

func (e *end) Event(v Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, v)
}

func (e *end) received() [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.got
}

// pair is two ends on two hosts of the lab.
type pair struct {
	lab    *natlab.Lab
	hosts  [2]*natlab.Host
	a, b   *end
	secret seal.Secret
}

type rekeyWith struct {
	id     seal.Identity
	peer   []byte
	secret seal.Secret
}

func (r rekeyWith) Initiate() ([]byte, func([]byte) (seal.Keys, error), error) {
	i, m, err := seal.Initiate(r.id, r.peer, r.secret, nil)
	return m, func(b []byte) (seal.Keys, error) { k, _, err := i.Finish(b); return k, err }, err
}

func (r rekeyWith) Respond(m []byte) ([]byte, seal.Keys, error) {
	p, err := seal.Respond(r.id, r.secret, m)
	if err != nil {
		return nil, seal.Keys{}, err
	}
	return p.Finish(nil)
}

// newPair makes two ends with a handshake behind them and n conns each.
func newPair(t *testing.T, n int, raw bool, options ...natlab.Option) *pair {
	t.Helper()
	p := &pair{lab: natlab.New(t, natlab.Options{}), secret: seal.NewSecret()}
	p.hosts[0] = p.lab.Host("a", "198.51.100.1", options...)
	p.hosts[1] = p.lab.Host("b", "198.51.100.2", options...)
	var ids [2]seal.Identity
	for i := range ids {
		id, err := seal.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = id
	}
	seed := bytes.Repeat([]byte{7}, 32)
	ends := [2]*end{}
	for i := range ends {
		e := &end{t: t, began: time.Now()}
		e.Session = New(Config{Probe: seal.DeriveProbeKeys(seed, p.secret, i == 0), Initiator: i == 0, Raw: raw,
			Handler: e, Rekey: rekeyWith{ids[i], ids[1-i].StaticKey(), p.secret}, Detour: &e.beside})
		for range n {
			conn, err := p.hosts[i].ListenUDP(netip.MustParseAddrPort("0.0.0.0:0"))
			if err != nil {
				t.Fatal(err)
			}
			e.conns = append(e.conns, &lossy{Conn: conn, random: rand.New(rand.NewPCG(1, uint64(i)))})
		}
		ends[i] = e
	}
	p.a, p.b = ends[0], ends[1]
	if !raw {
		p.establish(t, ids)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for _, e := range ends {
		for i, c := range e.conns {
			wait.Go(func() { _ = e.read(c, kindOf(i)) })
		}
		wait.Go(func() { e.Run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		for _, e := range ends {
			for _, c := range e.conns {
				_ = c.Close()
			}
		}
		wait.Wait()
	})
	return p
}

// kindOf: the first conn stands for a direct path, the second for a relay, the
// third for fake TCP.
func kindOf(i int) path.Kind {
	return []path.Kind{path.DirectUDP, path.RelayUDP, path.DirectFakeTCP}[i]
}

func (p *pair) establish(t *testing.T, ids [2]seal.Identity) {
	t.Helper()
	i, m1, err := seal.Initiate(ids[0], ids[1].StaticKey(), p.secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.Respond(ids[1], p.secret, m1)
	if err != nil {
		t.Fatal(err)
	}
	m2, kb, err := r.Finish(nil)
	if err != nil {
		t.Fatal(err)
	}
	ka, _, err := i.Finish(m2)
	if err != nil {
		t.Fatal(err)
	}
	p.a.Establish(ka)
	p.b.Establish(kb)
}

func (e *end) read(c dgram.Conn, k path.Kind) error {
	rx := NewRx()
	return path.Read(c, func(b dgram.Burst) { e.Receive(rx, path.Path{Conn: c, Addr: b.Addr}, k, b) })
}

// addr is where the i-th conn of an end is reached.
func (p *pair) addr(side, i int) netip.AddrPort {
	e := []*end{p.a, p.b}[side]
	host := []string{"198.51.100.1", "198.51.100.2"}[side]
	return netip.AddrPortFrom(netip.MustParseAddr(host), e.conns[i].LocalAddr().Port())
}

// try proves the i-th path from a to b.
func (p *pair) try(t *testing.T, i int) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	rtt, err := p.a.Try(ctx, path.Path{Conn: p.a.conns[i], Addr: p.addr(1, i)}, kindOf(i))
	if err != nil {
		t.Fatal(err)
	}
	return rtt
}

func numbered(n uint32, size int) []byte {
	b := bytes.Repeat([]byte{0xab}, size)
	binary.BigEndian.PutUint32(b, n)
	return b
}

// burstOf is count datagrams of one size, numbered from first.
func burstOf(first, count uint32, size int) dgram.Burst {
	var buf []byte
	for i := range count {
		buf = append(buf, numbered(first+i, size)...)
	}
	return dgram.Burst{Buf: buf, Size: size}
}
