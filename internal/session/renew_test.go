package session

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// another opens one more direct conn at both ends and proves the path.
func (p *pair) another(t *testing.T) path.Path {
	t.Helper()
	ends := []*end{p.a, p.b}
	for i, e := range ends {
		conn, err := p.hosts[i].ListenUDP(netip.MustParseAddrPort("0.0.0.0:0"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		e.conns = append(e.conns, conn)
		go func() { _ = e.read(conn, path.DirectUDP) }()
	}
	n := len(p.a.conns) - 1
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	at := path.Path{Conn: p.a.conns[n], Addr: p.addr(1, n)}
	if _, err := p.a.Try(ctx, at, path.DirectUDP); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestRenewedPathsGiveWay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		old := p.a.Paths()[0].Path
		next := p.another(t)
		time.Sleep(time.Minute)
		if got := p.a.Paths()[0].Path; got != old {
			t.Fatal("data has left a path for an equal one")
		}
		p.a.Renew(path.DirectUDP)
		p.b.Renew(path.DirectUDP)
		if got := p.a.Paths()[0].Path; got.Conn == p.a.conns[1] {
			t.Fatal("data has gone to the relay though no successor is there")
		}
		third := p.another(t)
		time.Sleep(100 * time.Millisecond)
		for _, e := range []*end{p.a, p.b} {
			if got := e.Paths()[0].Path.Conn; got != e.conns[3] {
				t.Errorf("data does not take the successor: %+v", e.Paths())
			}
		}
		// Where it fails at once, what there was is still there.
		p.a.Drop(third)
		if got := p.a.Paths()[0]; got.Path != old && got.Path != next {
			t.Errorf("the old paths went too soon: %+v", p.a.Paths())
		}
	})
}

func TestOldPathsAreForgottenOnceBothSidesHaveLeftThem(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		p.a.Renew(path.DirectUDP)
		p.b.Renew(path.DirectUDP)
		p.another(t)
		for i := range uint32(200) {
			if !p.a.Send(1, burstOf(i, 1, 100)) || !p.b.Send(1, burstOf(i, 1, 100)) {
				t.Fatal("no path")
			}
			time.Sleep(100 * time.Millisecond)
		}
		for _, e := range []*end{p.a, p.b} {
			if n := len(e.received()); n != 200 {
				t.Errorf("%d datagrams arrived of 200", n)
			}
			for _, r := range e.Paths() {
				if r.Path.Conn == e.conns[0] {
					t.Errorf("the old path is still there: %+v", r)
				}
			}
		}
	})
}

// A path that is to be left is not left for one of another kind.
func TestNothingSucceedsARenewedPathButItsOwnKind(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		p.try(t, 1)
		p.a.Renew(path.DirectUDP)
		for i := range uint32(600) {
			p.a.Send(1, burstOf(i, 1, 100))
			time.Sleep(100 * time.Millisecond)
		}
		if got := p.a.Best(); got != path.DirectUDP {
			t.Errorf("data takes %s", got)
		}
		if n := len(p.b.received()); n != 600 {
			t.Errorf("%d datagrams arrived of 600", n)
		}
	})
}

func TestIdlePathsAreProbedAsKept(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		time.Sleep(10 * time.Second)
		p.a.Keep(time.Minute)
		p.b.Keep(time.Hour)
		var sent atomic.Int64
		p.lab.Watch(func(r natlab.Record) {
			if r.Event == natlab.Sent && r.Kind == proto.KindProbe && r.From.Addr() == p.addr(0, 0).Addr() {
				sent.Add(1)
			}
		})
		time.Sleep(10 * time.Minute)
		if n := sent.Load(); n < 9 || n > 11 {
			t.Errorf("%d probes in ten minutes", n)
		}
	})
}
