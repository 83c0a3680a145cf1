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
}

func newSplicePair(t *testing.T) *splicePair {
	t.Helper()
	c := newStreamCoordinator(t)
	p := &splicePair{coordinator: c, t: t, guests: [2]*guest{tlsGuest(t, c, "laptop"), tlsGuest(t, c, "home")}}
	forLaptop, forHome := allocations(t, p.guests[0], p.guests[1])
	for i, a := range []*proto.Allocation{forLaptop, forHome} {
		leg, err := relay.NewLeg(nil, netip.AddrPort{}, a)
		if err != nil {
			t.Fatal(err)
		}
		p.legs[i] = leg
	}
	return p
}

// join is a guest's end of a splice with a leg.
func (p *splicePair) join(g *guest, leg *relay.Leg, number uint64, within time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), within)
	defer cancel()
	conn, err := straight().Splice(ctx, p.tcp(p.t), p.pin, g.certificate(), leg, number)
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
