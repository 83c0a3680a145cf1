package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
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
			Handler: e, Rekey: rekeyWith{ids[i], ids[1-i].StaticKey(), p.secret}})
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

func TestTryMeasuresTheRoundTripAndBothSidesGetAPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false, natlab.Delay(10*time.Millisecond))
		if rtt := p.try(t, 0); rtt != 40*time.Millisecond {
			t.Errorf("round trip %v, want 40ms", rtt)
		}
		time.Sleep(100 * time.Millisecond)
		for _, e := range []*end{p.a, p.b} {
			if e.Best() != path.DirectUDP {
				t.Errorf("best path is %q", e.Best())
			}
		}
	})
}

func TestBurstsKeepOrderBoundariesAndFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false)
		p.try(t, 0)
		sizes := []int{4, 5, 100, 1180, 1300, 1452, 1500, 4000, 30000}
		var want [][]byte
		for i, size := range sizes {
			b := burstOf(uint32(i*100), 7, size)
			for d := range b.All() {
				want = append(want, d)
			}
			b.Buf = append(b.Buf, 1, 2, 3) // a shorter last one
			want = append(want, []byte{1, 2, 3})
			if !p.a.Send(uint16(i+1), b) {
				t.Fatal("no path")
			}
			time.Sleep(10 * time.Millisecond)
		}
		p.a.Send(9, dgram.Burst{})
		want = append(want, nil)
		synctest.Wait()
		time.Sleep(time.Second)
		got := p.b.received()
		if len(got) != len(want) {
			t.Fatalf("%d datagrams arrived of %d; drops %v", len(got), len(want), p.b.Counts().Dropped)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("datagram %d: %d bytes, want %d", i, len(got[i]), len(want[i]))
			}
		}
	})
}

func TestOverheadIsTwentyBytesOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false)
		p.try(t, 0)
		time.Sleep(2 * time.Second) // the size of the path is known
		var sizes []int
		p.lab.Watch(func(r natlab.Record) {
			if r.Event == natlab.Sent && r.Kind == proto.KindData {
				sizes = append(sizes, r.Bytes)
			}
		})
		p.a.Send(1, dgram.One(netip.AddrPort{}, make([]byte, 1452)))
		synctest.Wait()
		if fmt.Sprint(sizes) != "[1472]" {
			t.Errorf("a WireGuard datagram of 1452 bytes left as %v, want one of 1472", sizes)
		}
	})
}

func TestMovingFromRelayToDirectAndBackLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(5*time.Millisecond))
		p.try(t, 1)
		if p.a.Best() != path.RelayUDP {
			t.Fatalf("best path is %q", p.a.Best())
		}
		const total = 3000
		for i := range uint32(total) {
			switch i {
			case 500:
				go func() { _, _ = p.a.Try(t.Context(), path.Path{Conn: p.a.conns[0], Addr: p.addr(1, 0)}, path.DirectUDP) }()
			case 2000: // the direct path is taken away in an orderly fashion
				p.a.Drop(path.Path{Conn: p.a.conns[0], Addr: p.addr(1, 0)})
			}
			p.a.Send(3, dgram.One(netip.AddrPort{}, numbered(i, 200)))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		seen := make(map[uint32]int)
		for _, d := range p.b.received() {
			seen[binary.BigEndian.Uint32(d)]++
		}
		for i := range uint32(total) {
			if seen[i] != 1 {
				t.Fatalf("datagram %d came %d times", i, seen[i])
			}
		}
	})
}

func TestDeadPathIsFoundAndDataIsBackWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 1)
		p.try(t, 0)
		time.Sleep(time.Second)
		direct := p.addr(1, 0)
		var cut time.Duration
		for i := range uint32(5000) {
			if i == 1000 {
				_ = p.b.conns[0].Close() // what is sent to direct vanishes
				cut = time.Since(p.b.began)
			}
			p.a.Send(1, dgram.One(netip.AddrPort{}, numbered(i, 100)))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		var back time.Duration
		p.b.mu.Lock()
		defer p.b.mu.Unlock()
		for _, at := range p.b.at {
			if at > cut+100*time.Millisecond {
				back = at - cut
				break
			}
		}
		t.Logf("data was back %v after %v went away", back, direct)
		if back == 0 || back > 2*time.Second {
			t.Errorf("data was back after %v, want at most 2s", back)
		}
		if p.a.Best() != path.RelayUDP {
			t.Errorf("best path is %q", p.a.Best())
		}
	})
}

func TestIdleSessionKeepsPathAliveWithFewProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		time.Sleep(10 * time.Second)
		before := p.lab.Count(natlab.Sent, "a") + p.lab.Count(natlab.Sent, "b")
		time.Sleep(10 * time.Minute)
		n := p.lab.Count(natlab.Sent, "a") + p.lab.Count(natlab.Sent, "b") - before
		// Two sides, a probe and its answer each 15 s: 160 in ten minutes, and
		// the size search once.
		if n < 120 || n > 220 {
			t.Errorf("%d datagrams in ten idle minutes", n)
		}
		if !p.a.Ready() || !p.b.Ready() {
			t.Error("the path was lost while idle")
		}
	})
}

func TestRekeyIsForwardAndUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false, natlab.Delay(10*time.Millisecond), natlab.Loss(0.05))
		p.try(t, 0)
		const total = 4000
		for i := range uint32(total) {
			p.a.Send(1, dgram.One(netip.AddrPort{}, numbered(i, 50)))
			p.b.Send(2, dgram.One(netip.AddrPort{}, numbered(i, 50)))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		for name, e := range map[string]*end{"a": p.a, "b": p.b} {
			if epoch := e.keys.sending.Load().epoch; epoch < 3 {
				t.Errorf("%s is at epoch %d after 400 s, want 3", name, epoch)
			}
			if old := e.keys.received[(e.keys.sending.Load().epoch+1)&1].Load(); old != nil && old.epoch < e.keys.sending.Load().epoch {
				t.Errorf("%s still holds the key of epoch %d", name, old.epoch)
			}
			// Two links of 5 % loss each way.
			if n := len(e.received()); n < total*85/100 {
				t.Errorf("%s got %d of %d; drops %v", name, n, total, e.Counts().Dropped)
			}
			if n := e.Counts().Dropped["bad-seal"] + e.Counts().Dropped["no-keys"]; n > 0 {
				t.Errorf("%s could not open %d datagrams", name, n)
			}
		}
	})
}

func TestBlackoutAtFullSpeedIsBridged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, lost := range []int{100, 8000, 9000, 20000, 60000, 300000} {
			p := newPair(t, 1, false)
			p.try(t, 0)
			p.a.Send(1, burstOf(0, 10, 20))
			synctest.Wait()
			// Lost on the way: counters go on, nothing arrives.
			p.a.keys.sending.Load().counter.Add(uint64(lost))
			for i := range uint32(40) {
				p.a.Send(1, dgram.One(netip.AddrPort{}, numbered(1000+i, 20)))
				time.Sleep(50 * time.Millisecond)
			}
			synctest.Wait()
			if n := len(p.b.received()); n < 10+25 {
				t.Errorf("after %d lost in a row only %d of 50 arrived: %v", lost, n, p.b.Counts().Dropped)
			}
			p.a.Close()
			p.b.Close()
		}
	})
}

func TestReplayedAndForgedDatagramsAreCountedAndDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false)
		p.try(t, 0)
		from := path.Path{Conn: p.b.conns[0], Addr: p.addr(0, 0)}
		rx := NewRx()
		k := p.a.keys.sending.Load()
		d := k.sealer.Seal(nil, k.epoch, 5, k.counter.Add(1)-1, []byte("once"))
		for range 3 {
			p.b.Receive(rx, from, path.DirectUDP, dgram.One(from.Addr, d))
		}
		forged := k.sealer.Seal(nil, k.epoch, 5, k.counter.Add(1)-1, []byte("once"))
		forged[len(forged)-1] ^= 1
		p.b.Receive(rx, from, path.DirectUDP, dgram.One(from.Addr, forged))
		p.b.Receive(rx, from, path.DirectUDP, dgram.One(from.Addr, []byte{0xa0}))
		p.b.Receive(rx, from, path.DirectUDP, dgram.One(from.Addr, []byte("garbage that is no datagram of ours")))
		if n := len(p.b.received()); n != 1 {
			t.Errorf("%d datagrams delivered, want 1", n)
		}
		drops := p.b.Counts().Dropped
		if drops["replayed"] != 2 || drops["bad-header"] != 2 || drops["bad-seal"] != 1 {
			t.Errorf("drops %v", drops)
		}
	})
}

// S1-16
func TestPeerReflexiveAddressBecomesAPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		time.Sleep(time.Second)
		p.hosts[0].Readdress("198.51.100.77")
		for i := range uint32(300) {
			p.a.Send(1, dgram.One(netip.AddrPort{}, numbered(i, 60)))
			p.b.Send(2, dgram.One(netip.AddrPort{}, numbered(i, 60)))
			time.Sleep(10 * time.Millisecond)
		}
		r := p.b.Paths()
		if len(r) == 0 || r[0].Path.Addr.Addr() != netip.MustParseAddr("198.51.100.77") {
			t.Errorf("b sends to %+v", r)
		}
		if n := len(p.a.received()); n < 150 {
			t.Errorf("a got %d of 300 after it moved", n)
		}
	})
}

// S3-07, S3-08
func TestRawPayloadIsNeverEatenAndNothingIsAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, true)
		p.try(t, 0)
		time.Sleep(2 * time.Second)
		token := p.a.PeerToken()
		awkward := [][]byte{
			append(append([]byte{0x81}, token[:]...), make([]byte, 100)...), // as a probe begins, not sealed
			append([]byte{0xa0, 0, 0, 0}, make([]byte, 40)...),              // as sealed data
			{}, {0x40}, bytes.Repeat([]byte{0x81}, proto.ProbeSize), make([]byte, 1472),
		}
		for _, d := range awkward {
			if !p.a.Send(0, dgram.One(netip.AddrPort{}, d)) {
				t.Fatalf("%d bytes were refused", len(d))
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		got := p.b.received()
		if len(got) != len(awkward) {
			t.Fatalf("%d of %d arrived: %v", len(got), len(awkward), p.b.Counts().Dropped)
		}
		for i := range got {
			if !bytes.Equal(got[i], awkward[i]) {
				t.Errorf("datagram %d was changed", i)
			}
		}
		if p.a.Send(0, dgram.One(netip.AddrPort{}, make([]byte, 1473))) {
			t.Error("a raw datagram larger than the path was taken")
		}
	})
}

func TestRawPayloadFromUnprovenAddressIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 1, true)
		p.try(t, 0)
		from := path.Path{Conn: p.b.conns[0], Addr: netip.MustParseAddrPort("203.0.113.66:9")}
		p.b.Receive(NewRx(), from, path.DirectUDP, dgram.One(from.Addr, []byte("spoofed")))
		if len(p.b.received()) != 0 || p.b.Counts().Dropped["unproven-address"] != 1 {
			t.Errorf("got %d, drops %v", len(p.b.received()), p.b.Counts().Dropped)
		}
	})
}

func TestSmallPathIsFoundAndLargeDatagramsAreSplit(t *testing.T) {
	for _, raw := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, 1, raw, natlab.MTU(1400))
			p.try(t, 0)
			time.Sleep(3 * time.Second)
			if mtu := p.a.Paths()[0].MTU; mtu != service(1372, raw) {
				t.Errorf("raw %v: service MTU %d, want %d", raw, mtu, service(1372, raw))
			}
			p.a.Send(1, dgram.One(netip.AddrPort{}, numbered(1, 1452)))
			time.Sleep(time.Second)
			if want := map[bool]int{false: 1, true: 0}[raw]; len(p.b.received()) != want {
				t.Errorf("raw %v: %d datagrams arrived, want %d", raw, len(p.b.received()), want)
			}
		})
	}
}
