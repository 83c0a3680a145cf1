package relay

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// wire joins two Legs to a Server in memory, with a delay, and loses what lose
// says.
type wire struct {
	server *Server
	conn   *fakeConn // the relay's
	alloc  Allocation
	legs   [2]*Leg

	mu    sync.Mutex
	addrs [2]netip.AddrPort
	data  [2][]string // what reached each leg and was no answer
	lose  func(d []byte) bool
}

// later delivers after the delay unless the datagram is lost.
func (w *wire) later(d []byte, deliver func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.lose(d) {
		time.AfterFunc(delay, deliver)
	}
	return nil
}

// losing changes what is lost.
func (w *wire) losing(lose func(d []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose = lose
}

// got is what reached a leg and was no answer.
func (w *wire) got(leg int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.data[leg]
}

func (w *wire) addr(leg int) netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addrs[leg]
}

const delay = 20 * time.Millisecond

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{server: NewServer(Limits{}), conn: &fakeConn{addr: relayAddr}, lose: func([]byte) bool { return false }}
	w.addrs = [2]netip.AddrPort{homeAddr, laptopAddr}
	var err error
	if w.alloc, err = w.server.Allocate(time.Now(), "home", "laptop"); err != nil {
		t.Fatal(err)
	}
	w.conn.deliver = func(b dgram.Burst) error {
		return w.later(b.Buf, func() { w.arrive(b) })
	}
	for i := range w.legs {
		conn := &fakeConn{addr: w.addrs[i]}
		conn.deliver = func(b dgram.Burst) error {
			b.Addr = w.addr(i)
			return w.later(b.Buf, func() { w.server.Receive(w.conn, b) })
		}
		if w.legs[i], err = NewLeg(conn, relayAddr, w.allocation(i)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *wire) allocation(leg int) *proto.Allocation {
	return &proto.Allocation{
		Id: w.alloc.ID[:], Key: w.alloc.Keys[leg][:], Leg: uint32(leg),
		Relay: []*proto.Endpoint{proto.NewEndpoint(addr("[2001:db8::1]:443")), proto.NewEndpoint(relayAddr)},
	}
}

// send is a datagram from a leg to the relay.
func (w *wire) send(t *testing.T, leg int, d string) {
	t.Helper()
	if err := w.legs[leg].conn.Write(dgram.One(w.legs[leg].Addr(), []byte(d))); err != nil {
		t.Error(err)
	}
}

func (w *wire) arrive(b dgram.Burst) {
	for i := range w.legs {
		if w.addr(i) != b.Addr {
			continue
		}
		b.Addr = relayAddr
		if !w.legs[i].Receive(b) {
			w.mu.Lock()
			w.data[i] = append(w.data[i], string(b.Buf))
			w.mu.Unlock()
		}
		return
	}
}

func TestBindBlocksUntilBoth(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		began := time.Now()
		first := make(chan error, 1)
		go func() { first <- w.legs[0].Bind(t.Context()) }()
		time.Sleep(300 * time.Millisecond)
		select {
		case err := <-first:
			t.Fatalf("Bind returned %v before the other leg was bound", err)
		default:
		}
		if err := w.legs[1].Bind(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != 300*time.Millisecond+2*delay {
			t.Errorf("the second leg was bound after %v", got)
		}
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != 300*time.Millisecond+2*delay {
			t.Errorf("the first leg heard of it after %v", got)
		}
		w.send(t, 0, "hello")
		time.Sleep(3 * delay)
		if got := w.got(1); len(got) != 1 || got[0] != "hello" || len(w.got(0)) != 0 {
			t.Errorf("data: %q and %q", w.got(0), got)
		}
	})
}

func TestBindSurvivesLoss(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		rnd := rand.New(rand.NewPCG(1, 2))
		w.losing(func([]byte) bool { return rnd.IntN(3) != 0 })
		done := make(chan error, 2)
		for _, l := range w.legs {
			go func() { done <- l.Bind(t.Context()) }()
		}
		for range w.legs {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestBindRetransmits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		began := time.Now()
		var at []time.Duration
		w.losing(func([]byte) bool { at = append(at, time.Since(began)); return true })
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		err := w.legs[0].Bind(ctx)
		if !errors.Is(err, ErrSilent) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), relayAddr.String()) {
			t.Errorf("error: %v", err)
		}
		want := []time.Duration{0, 50, 150, 350, 750, 1550, 2550, 3550}
		if len(at) != len(want) {
			t.Fatalf("binds at %v", at)
		}
		for i := range want {
			if at[i] != want[i]*time.Millisecond {
				t.Errorf("bind %d at %v, want %v ms", i, at[i], want[i])
			}
		}
	})
}

func TestBindSaysWhoIsMissing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := w.legs[0].Bind(ctx)
		if err == nil || errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), "peer") {
			t.Errorf("error: %v", err)
		}
	})
}

func TestBindOnAClosedConn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		w.legs[0].conn.(*fakeConn).deliver = func(dgram.Burst) error { return net.ErrClosed }
		if err := w.legs[0].Bind(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("error: %v", err)
		}
	})
}

func bindBothLegs(t *testing.T, w *wire) {
	t.Helper()
	other := make(chan error, 1)
	go func() { other <- w.legs[1].Bind(t.Context()) }()
	if err := w.legs[0].Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-other; err != nil {
		t.Fatal(err)
	}
}

func TestKeepRefreshes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		bindBothLegs(t, w)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		kept := make(chan error, 2)
		for _, l := range w.legs {
			go func() { kept <- l.Keep(ctx) }()
		}
		for ctx.Err() == nil {
			time.Sleep(5 * time.Second)
			w.server.Expire(time.Now())
		}
		for range w.legs {
			if err := <-kept; err != nil {
				t.Error(err)
			}
		}
		if st := w.server.Stats(); st.Sessions != 1 || st.Binds < 2*39 || st.Binds > 2*47 {
			t.Errorf("stats: %+v", st)
		}
	})
}

func TestKeepEndsWhenTheRelayIsSilent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		bindBothLegs(t, w)
		sent := 0
		w.losing(func([]byte) bool { sent++; return true })
		began := time.Now()
		err := w.legs[0].Keep(t.Context())
		if !errors.Is(err, ErrSilent) || sent != refreshMost {
			t.Errorf("after %d tries: %v", sent, err)
		}
		if got := time.Since(began); got != 30*time.Second {
			t.Errorf("it took %v", got)
		}
	})
}

func TestKeepAndBindHearThatItIsGone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		bindBothLegs(t, w)
		w.server.Remove(time.Now(), "laptop")
		began := time.Now()
		if err := w.legs[0].Keep(t.Context()); !errors.Is(err, ErrGone) {
			t.Errorf("Keep: %v", err)
		}
		if got := time.Since(began); got != refreshEach+2*delay {
			t.Errorf("it took %v", got)
		}
		if err := w.legs[1].Bind(t.Context()); !errors.Is(err, ErrGone) {
			t.Errorf("Bind: %v", err)
		}
	})
}

func TestRefreshRoams(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		bindBothLegs(t, w)
		w.mu.Lock()
		w.addrs[0] = otherAddr
		w.mu.Unlock()
		if err := w.legs[0].Refresh(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * delay)
		w.send(t, 1, "there")
		time.Sleep(3 * delay)
		if got := w.got(0); len(got) != 1 {
			t.Errorf("data: %q", got)
		}
	})
}

func TestLegKnowsAnswers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		bindBothLegs(t, w)
		l := w.legs[0]
		bound := func(change func(*proto.Bind)) []byte {
			b := proto.Bind{Bound: true, Allocation: w.alloc.ID, Counter: l.counter, Both: true, Observed: homeAddr}
			change(&b)
			if b.MAC == [16]byte{} {
				b.MAC = seal.BindMAC(w.alloc.Keys[0][:], b)
			}
			return proto.AppendBind(nil, b)
		}
		genuine := bound(func(*proto.Bind) {})
		for name, c := range map[string]struct {
			from netip.AddrPort
			d    []byte
			want bool
		}{
			"genuine":            {relayAddr, genuine, true},
			"old":                {relayAddr, bound(func(b *proto.Bind) { b.Counter -= 10; b.Both = false }), true},
			"from elsewhere":     {otherAddr, genuine, false},
			"wrong MAC":          {relayAddr, bound(func(b *proto.Bind) { b.MAC[0] = 1 }), false},
			"another allocation": {relayAddr, bound(func(b *proto.Bind) { b.Allocation[0] ^= 1 }), false},
			"the other leg":      {relayAddr, bound(func(b *proto.Bind) { b.Leg = 1 }), false},
			"a bind":             {relayAddr, bound(func(b *proto.Bind) { b.Bound = false }), false},
			"short":              {relayAddr, genuine[:20], false},
			"data":               {relayAddr, make([]byte, proto.BindSize), false},
		} {
			if got := l.Receive(dgram.One(c.from, c.d)); got != c.want {
				t.Errorf("%s: %v", name, got)
			}
		}
		if !l.both {
			t.Error("an old answer counted")
		}

		data := bytes.Repeat([]byte{'d'}, proto.BindSize)
		mixed := bytes.Join([][]byte{data, genuine, data, genuine, []byte("end")}, nil)
		b := dgram.Burst{Addr: relayAddr, Buf: mixed, Size: proto.BindSize}
		if l.Receive(b) {
			t.Error("a burst with data in it is not only answers")
		}
		rest, ok := l.Strip(b)
		if want := string(data) + string(data) + "end"; !ok || string(rest.Buf) != want || rest.Size != proto.BindSize {
			t.Errorf("stripped: %q %v", rest.Buf, ok)
		}
		if _, ok := l.Strip(dgram.One(relayAddr, genuine)); ok {
			t.Error("something is left of an answer")
		}
	})
}

func TestNewLegChecksTheAllocation(t *testing.T) {
	good := func() *proto.Allocation {
		return &proto.Allocation{Id: make([]byte, 8), Key: make([]byte, 32)}
	}
	conn := &fakeConn{addr: addr("0.0.0.0:1")}
	if l, err := NewLeg(conn, relayAddr, good()); err != nil || l.Addr() != relayAddr {
		t.Errorf("good: %v", err)
	}
	for name, spoil := range map[string]func(*proto.Allocation){
		"id": func(a *proto.Allocation) { a.Id = a.Id[1:] }, "key": func(a *proto.Allocation) { a.Key = nil },
		"leg": func(a *proto.Allocation) { a.Leg = 2 },
	} {
		a := good()
		spoil(a)
		if _, err := NewLeg(conn, relayAddr, a); err == nil {
			t.Errorf("a spoiled %s passed", name)
		}
	}
	if _, err := NewLeg(conn, relayAddr, nil); err == nil {
		t.Error("a nil allocation passed")
	}
}

// Of several transports the one that the relay answers first is taken, before
// the peer has bound its leg.
func TestClaimNeedsTheRelayAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		lost := 0
		w.losing(func([]byte) bool { lost++; return lost == 1 })
		began := time.Now()
		if err := w.legs[0].Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != bindFirst+2*delay {
			t.Errorf("claimed after %v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.legs[0].Bind(ctx); err == nil || !strings.Contains(err.Error(), "has not bound") {
			t.Errorf("Bind without the other leg: %v", err)
		}
		w.losing(func([]byte) bool { return true })
		silent, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.legs[1].Claim(silent); !errors.Is(err, ErrSilent) {
			t.Errorf("a silent relay: %v", err)
		}
	})
}

func TestKeepEndsWithTheConn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		bindBothLegs(t, w)
		w.legs[0].conn.(*fakeConn).deliver = func(dgram.Burst) error { return net.ErrClosed }
		began := time.Now()
		if err := w.legs[0].Keep(t.Context()); !errors.Is(err, net.ErrClosed) || time.Since(began) > refreshEach {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}
