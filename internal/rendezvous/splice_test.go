package rendezvous

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// splicePair is two members with an allocation between them.
type splicePair struct {
	*coordinator
	t      *testing.T
	guests [2]*guest
	legs   [2]*relay.Leg
	dialer *TLSDialer
	at     string
}

func newSplicePair(t *testing.T) *splicePair {
	t.Helper()
	c := newStreamCoordinator(t)
	p := joinSplicePair(t, c, func(name string) *guest { return tlsGuest(t, c, name) })
	p.dialer, p.at = straight(), c.tcp(t)
	return p
}

// joinSplicePair has two members join, each by join.
func joinSplicePair(t *testing.T, c *coordinator, join func(name string) *guest) *splicePair {
	t.Helper()
	p := &splicePair{coordinator: c, t: t, guests: [2]*guest{join("laptop"), join("home")}}
	p.meet()
	return p
}

// meet gives the two an allocation.
func (p *splicePair) meet() {
	p.t.Helper()
	one, other := allocations(p.t, p.guests[0], p.guests[1])
	for i, a := range []*proto.Allocation{one, other} {
		leg, err := relay.NewLeg(nil, netip.AddrPort{}, a)
		if err != nil {
			p.t.Fatal(err)
		}
		p.legs[i] = leg
	}
}

// join is a guest's end of a splice with a leg.
func (p *splicePair) join(g *guest, leg *relay.Leg, number uint64, within time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), within)
	defer cancel()
	conn, err := p.dialer.Splice(ctx, p.at, p.pin, g.certificate(), leg, number)
	if err == nil {
		p.t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

// both joins both ends.
func (p *splicePair) both(number uint64) (near, far net.Conn) {
	p.t.Helper()
	type end struct {
		conn net.Conn
		err  error
	}
	there := make(chan end, 1)
	go func() {
		conn, err := p.join(p.guests[1], p.legs[1], number, 10*time.Second)
		there <- end{conn, err}
	}()
	near, err := p.join(p.guests[0], p.legs[0], number, 10*time.Second)
	if err != nil {
		p.t.Fatal(err)
	}
	e := <-there
	if e.err != nil {
		p.t.Fatal(e.err)
	}
	return near, e.conn
}

// idle waits until no splice is left.
func (p *splicePair) idle() {
	p.t.Helper()
	s := &p.front.splices
	waitFor(p.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.all == 0 && len(s.of) == 0 && len(s.waiting) == 0 && s.open.Load() == 0
	})
}

// What one end writes comes out at the other, both ways at once, and either
// direction may end first.
func TestSplice(t *testing.T) {
	p := newSplicePair(t)
	near, far := p.both(7)
	b := make([]byte, 6<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	go func() {
		_, _ = io.Copy(struct{ io.Writer }{far}, struct{ io.Reader }{far}) // an echo
		_ = far.(interface{ CloseWrite() error }).CloseWrite()
	}()
	go func() {
		_, _ = near.Write(b)
		_ = near.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(near)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(b) {
		t.Errorf("%d bytes of %d came back, or others: %v", len(got), len(b), err)
	}
	if st, err := p.Status(); err != nil || st.Splices.Bytes != 2*uint64(len(b)) || st.Relay.Bytes != 2*uint64(len(b)) {
		t.Errorf("counted %+v and %+v, %v", st.Splices, st.Relay, err)
	}
	_, _ = near.Close(), far.Close()
	p.idle()
}

// Nobody joins but the owner of a leg, with its key, of an allocation that
// lives.
func TestSpliceIsRefused(t *testing.T) {
	p := newSplicePair(t)
	third := tlsGuest(t, p.coordinator, "third")
	other, err := relay.NewLeg(nil, netip.AddrPort{}, &proto.Allocation{Id: make([]byte, 8), Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	id := p.legs[0].Allocation()
	wrong, err := relay.NewLeg(nil, netip.AddrPort{}, &proto.Allocation{Id: id[:], Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		who *guest
		leg *relay.Leg
	}{
		"a stranger":            {newGuest(t, "nobody"), p.legs[0]},
		"another member":        {third, p.legs[0]},
		"the peer's leg":        {p.guests[0], p.legs[1]},
		"a wrong key":           {p.guests[0], wrong},
		"an unknown allocation": {p.guests[0], other},
	} {
		before, began := p.front.drops.splices.Load(), time.Now()
		if _, err := p.join(c.who, c.leg, 1, 5*time.Second); err == nil || time.Since(began) > 4*time.Second {
			t.Errorf("%s joined, or was kept waiting: %v", name, err)
		}
		waitFor(t, func() bool { return p.front.drops.splices.Load() > before })
	}
	p.idle()
}

// A leg that waits alone gives up, and so does the coordinator; another of the
// same leg does not take its place.
func TestSpliceWaitsForBothLegs(t *testing.T) {
	p := newSplicePair(t)
	ended := make(chan error, 1)
	go func() {
		_, err := p.join(p.guests[0], p.legs[0], 1, 3*time.Second)
		ended <- err
	}()
	waitFor(t, func() bool {
		p.front.splices.mu.Lock()
		defer p.front.splices.mu.Unlock()
		return len(p.front.splices.waiting) == 1
	})
	if _, err := p.join(p.guests[0], p.legs[0], 1, 2*time.Second); err == nil {
		t.Error("a leg was joined with itself")
	}
	if err := <-ended; err == nil {
		t.Error("a leg was joined with none")
	}
	p.idle()
}

// The other side's end, and that of the allocation, end a splice at once.
func TestSpliceEnds(t *testing.T) {
	p := newSplicePair(t)
	near, far := p.both(1)
	_ = far.Close()
	_ = near.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the other side's end came %d bytes, %v", n, err)
	}
	_ = near.Close()
	p.idle()

	near, far = p.both(2)
	p.relay.Remove(time.Now(), "home")
	for _, c := range []net.Conn{near, far} {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after the allocation's end came %d bytes, %v", n, err)
		}
	}
	p.idle()
	if _, err := p.join(p.guests[0], p.legs[0], 3, 5*time.Second); err == nil {
		t.Error("joined in an allocation that has ended")
	}
}

// Who does not read holds the sender up; the coordinator keeps no more than the
// windows. Nothing is lost when he reads.
func TestSpliceHoldsBack(t *testing.T) {
	p := newSplicePair(t)
	near, far := p.both(1)
	b := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(b)
	_ = near.SetWriteDeadline(time.Now().Add(2 * time.Second))
	n, err := near.Write(b)
	if err == nil || n > 8<<20 {
		t.Errorf("%d bytes were taken: %v", n, err)
	}
	t.Logf("%d KiB were taken", n>>10)
	// Other splices go on meanwhile.
	a, z := p.both(2)
	if _, err := a.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(z, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	got := make([]byte, n)
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, b[:n]) {
		t.Errorf("what was written did not come: %v", err)
	}
}

// An allocation has so many streams at most.
func TestSplicesAreLimited(t *testing.T) {
	p := newSplicePair(t)
	for i := range uint64(spliceEach) {
		p.both(i)
	}
	if _, err := p.join(p.guests[0], p.legs[0], 1000, 5*time.Second); err == nil {
		t.Error("one more was joined")
	}
	if n := p.front.splices.open.Load(); n != spliceEach {
		t.Errorf("%d are open", n)
	}
}

// The limit of all is divided: a member has its share of splices, waiting ones
// too, and others have theirs. What is over can be had again.
func TestSplicesAreDivided(t *testing.T) {
	p := newSplicePair(t)
	s := &p.front.splices
	s.limits = spliceLimits{all: 4, member: 3, allocation: spliceEach}
	var near, far net.Conn
	for i := range uint64(3) {
		near, far = p.both(i)
	}
	if _, err := p.join(p.guests[0], p.legs[0], 10, 5*time.Second); err == nil {
		t.Error("a member had more than its share")
	}
	third, fourth := tlsGuest(t, p.coordinator, "third"), tlsGuest(t, p.coordinator, "fourth")
	others := &splicePair{coordinator: p.coordinator, t: t, guests: [2]*guest{third, fourth}, dialer: p.dialer, at: p.at}
	others.meet()
	others.both(20)
	if _, err := others.join(third, others.legs[0], 21, 5*time.Second); err == nil {
		t.Error("there were more than at all")
	}
	_, _ = near.Close(), far.Close()
	waitFor(t, func() bool { return s.open.Load() == 3 })
	p.both(30)
}

// An idle splice has lost an end, and is cut; one that carries a byte now and
// then stays.
func TestIdleSpliceIsCut(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c, _, host := virtualDoors(t, func(c *Config) { // no leg is ever bound here
			c.Limits.Relay.Unbound, c.Limits.Relay.Idle = time.Hour, time.Hour
		})
		p := joinSplicePair(t, c, func(name string) *guest {
			g := newGuest(t, name)
			if err := g.connectTLS(in(host), c.Addrs()[0].String(), c.pin); err != nil {
				t.Fatal(err)
			}
			g.join(c.invite(t))
			return g
		})
		p.dialer, p.at = in(host), c.Addrs()[0].String()
		near, far := p.both(1)
		for range 4 {
			time.Sleep(spliceIdle * 2 / 3)
			if _, err := near.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
				t.Fatalf("a splice that is used was cut: %v", err)
			}
		}
		idle := time.Now()
		_ = far.SetReadDeadline(time.Now().Add(10 * time.Minute))
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the idle splice ended with %v", err)
		}
		if took := time.Since(idle); took < spliceIdle || took > 2*spliceIdle+time.Second {
			t.Errorf("it was cut after %v", took)
		}
		time.Sleep(time.Second)
		if s := &p.front.splices; s.all != 0 || s.open.Load() != 0 {
			t.Errorf("%d ends are left", s.all)
		}
	})
}
