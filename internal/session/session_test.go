package session

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

func TestTryMeasuresTheRoundTripAndBothSidesGetAPath(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
