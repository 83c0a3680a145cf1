package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/internal/seal"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// publicLeg is our leg of an allocation whose other leg is a client without an
// agent, or will be. It has a conn of its own to the coordinator, and, from its
// client's first datagram on, one before the service: two sockets, whose readers
// run every burst to completion. Over UDP the legs share a few readers
// (dgram.Crowd), so nothing there may block. Timers do the rest.
type publicLeg struct {
	p     *publisher
	port  *publicPort
	id    proto.Token
	alloc *proto.Allocation
	seal  *seal.Leg     // nil: the service is raw
	known chan struct{} // closed once client is set
	done  chan struct{} // closed by close

	far   atomic.Pointer[publicFar] // nil before the first datagram, and while the service can't be reached
	first publicFirsts              // of its datagrams, until far is there
	publicUse

	// guarded by publisher.mu
	client netip.AddrPort
	bound  bool
	wire   *publicWire
	pulse  *time.Timer
	ended  bool
}

// publicUse is what client and service have had of a leg.
type publicUse struct {
	used     atomic.Int64 // when the client sent last; 0: it never did. Unix nanoseconds
	answered atomic.Int64 // when the service did, or when it was last looked for
	served   atomic.Bool  // the service has answered the client
}

// publicWire is what a leg is carried over. Its functions are made once, for
// they would be allocated with each burst.
type publicWire struct {
	conn    dgram.Conn
	kind    path.Kind
	leg     *relay.Leg
	pulse   *relay.Pulse
	deliver func(dgram.Burst) error // what the client sent, opened
	write   func(dgram.Burst) error // to the coordinator, sealed
}

// publicFar is the client's socket before the service.
type publicFar struct {
	*forward.Far
	service netip.AddrPort
}

func newPublicLeg(p *publisher, port *publicPort, id proto.Token, alloc *proto.Allocation) *publicLeg {
	l := &publicLeg{p: p, port: port, id: id, alloc: alloc, known: make(chan struct{}), done: make(chan struct{})}
	if !port.target.Raw {
		l.seal = seal.NewLeg([seal.KeySize]byte(alloc.GetKey()), false)
	}
	return l
}

// coarsely is how exactly the last use of a leg is known.
const coarsely = 250 * time.Millisecond

// stamp notes in at that it is now.
func stamp(at *atomic.Int64) {
	if now := time.Now().UnixNano(); now-at.Load() >= int64(coarsely) || now < at.Load() {
		at.Store(now)
	}
}

// begun says whether a client has the leg.
func (u *publicUse) begun() bool { return u.used.Load() != 0 }

func (u *publicUse) lastUse() time.Time { return time.Unix(0, u.used.Load()) }

// keep makes w the leg's wire; false where the leg has ended meanwhile.
func (l *publicLeg) keep(w *publicWire) bool {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.ended {
		return false
	}
	l.wire, l.bound = w, true
	l.p.prefer = w.kind
	l.pulse = time.AfterFunc(w.pulse.First(), l.beat)
	return true
}

// beat keeps the leg bound, on its timer's goroutine.
func (l *publicLeg) beat() {
	again, err := l.wire.pulse.Beat()
	if err != nil {
		l.over(err)
		return
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if !l.ended {
		l.pulse.Reset(again)
	}
}

// refresh binds the leg again within a moment that grows with the number of legs:
// 2,000 a second. publisher.mu is held.
func (l *publicLeg) refresh(legs int) {
	// A timer that could not be stopped is about to do it.
	if l.pulse != nil && l.pulse.Stop() {
		l.wire.pulse.Soon()
		l.pulse.Reset(rand.N(time.Duration(legs)*500*time.Microsecond + time.Millisecond))
	}
}

// over ends a leg that the coordinator does not know, or that reaches it no more.
func (l *publicLeg) over(why error) {
	l.p.a.cfg.Log.Debug().Str("service", l.port.service).Err(why).Msg("a leg of a public port has ended")
	if errors.Is(why, relay.ErrGone) || errors.Is(why, net.ErrClosed) {
		l.p.mu.Lock()
		l.p.forget(l)
		l.p.mu.Unlock()
		l.close()
		return
	}
	l.p.giveBack([]*publicLeg{l})
}

// close ends the leg and its sockets; it may come again.
func (l *publicLeg) close() {
	l.p.mu.Lock()
	again := l.ended
	l.ended = true
	if l.pulse != nil {
		l.pulse.Stop()
	}
	w := l.wire
	l.p.mu.Unlock()
	if again {
		return
	}
	close(l.done)
	if w != nil {
		_ = w.conn.Close()
	}
	l.disconnect(l.far.Load())
	if l.seal != nil {
		l.p.drops.unopened.Add(l.seal.Dropped())
		l.p.drops.incomplete.Add(l.seal.Incomplete(time.Now()))
	}
}

// receive takes what came from the coordinator, on the wire's reader.
func (l *publicLeg) receive(w *publicWire, b dgram.Burst) {
	rest, ok := w.leg.Strip(b)
	if !ok {
		return
	}
	if rest.Addr != w.leg.Addr() {
		l.p.drops.stranger.Add(uint64(rest.Len()))
		return
	}
	if l.seal != nil {
		_ = l.seal.Open(time.Now(), rest, w.deliver) // it counts what does not open
		return
	}
	if rest, ok = l.own(rest); ok {
		l.fromClient(w, rest)
	}
}

// own removes from a raw burst, in place, answers of the coordinator's STUN that
// came here astray: they would take a spare, and reach the service. A CG-NAT may
// use this leg's port for a socket that is asking, too, and the coordinator answers
// some questions from here. ok is false when nothing is left.
func (l *publicLeg) own(b dgram.Burst) (rest dgram.Burst, ok bool) {
	astray := func(d []byte) bool { return stun.IsAnswerOf(b.Addr.Addr(), d) }
	found := false
	for d := range b.All() {
		found = found || astray(d)
	}
	if !found {
		return b, true
	}
	rest, rest.Buf = b, b.Buf[:0]
	for d := range b.All() {
		if astray(d) {
			l.p.drops.astray.Add(1)
			continue
		}
		rest.Buf, ok = append(rest.Buf, d...), true
	}
	return rest, ok
}

// fromClient carries a client's datagrams to the service.
func (l *publicLeg) fromClient(w *publicWire, b dgram.Burst) {
	if !l.begun() {
		l.begin()
	}
	stamp(&l.used)
	far := l.far.Load()
	if far == nil || l.first.waiting.Load() {
		if far = l.hold(w, b); far == nil {
			return
		}
	}
	l.toService(far, b)
}

func (l *publicLeg) toService(far *publicFar, b dgram.Burst) {
	b.Addr = far.service
	l.p.drops.note(far.Conn.Write(b), b)
}

// begin notes that a client has taken the leg.
func (l *publicLeg) begin() {
	l.p.mu.Lock()
	l.port.total++
	l.p.mu.Unlock()
	l.p.a.tasks.wake()
	stamp(&l.answered)
}

// fromService takes what the service sent to the client's socket, on its reader.
func (l *publicLeg) fromService(w *publicWire, far *publicFar, b dgram.Burst) {
	if b.Addr != far.service {
		l.p.drops.notFromService.Add(uint64(b.Len()))
		return
	}
	stamp(&l.answered)
	if !l.served.Load() {
		l.served.Store(true)
	}
	b.Addr = w.leg.Addr()
	if l.seal != nil {
		l.p.drops.note(l.seal.Seal(b, w.write), b)
		return
	}
	l.p.drops.note(w.conn.Write(b), b)
}

// lookAfter is how long a service that has a name may leave a client without
// answer before the name is looked up again: it may have moved.
const lookAfter = 10 * time.Second

// unanswered says whether the service should be looked for again.
func (l *publicLeg) unanswered(now time.Time) bool {
	_, literal := l.port.target.Literal()
	far := l.far.Load()
	return !literal && far != nil && l.used.Load() > l.answered.Load() && now.Sub(time.Unix(0, l.answered.Load())) > lookAfter
}

// lookAgain gives the client a new socket if the service is elsewhere now.
func (l *publicLeg) lookAgain() {
	stamp(&l.answered) // not again before lookAfter
	l.p.a.tasks.start(func(ctx context.Context) {
		far := l.far.Load()
		if at, err := l.port.where.find(ctx); err == nil && far != nil && at != far.service {
			l.disconnect(far) // the next datagram connects
		}
	})
}

// publicDrops counts datagrams of public ports that were dropped, by reason.
type publicDrops struct {
	stranger, astray, noService, notFromService, tooLarge, absent, writeError, evicted atomic.Uint64
	unopened, incomplete                                                               atomic.Uint64 // of legs that have ended
}

// counts are the drops of all legs that there are and were.
func (p *publisher) counts() map[string]uint64 {
	d := &p.drops
	unopened, incomplete := d.unopened.Load(), d.incomplete.Load()
	p.mu.Lock()
	for _, l := range p.legs {
		if l.seal != nil {
			unopened += l.seal.Dropped()
			incomplete += l.seal.Incomplete(time.Now())
		}
	}
	p.mu.Unlock()
	return map[string]uint64{
		"public-stranger": d.stranger.Load(), "public-astray": d.astray.Load(), "public-no-service": d.noService.Load(), "public-not-from-service": d.notFromService.Load(),
		"public-too-large": d.tooLarge.Load(), "public-service-absent": d.absent.Load(), "public-write-error": d.writeError.Load(),
		"public-clients-evicted": d.evicted.Load(), "public-unopened": unopened, "public-incomplete": incomplete,
	}
}

// note counts what went wrong with a burst that was written.
func (d *publicDrops) note(err error, b dgram.Burst) {
	switch {
	case err == nil || errors.Is(err, net.ErrClosed): // it ended while this was on its way
	case dgram.IsTooLarge(err):
		d.tooLarge.Add(uint64(b.Len()))
	case errors.Is(err, syscall.ECONNREFUSED):
		d.absent.Add(uint64(b.Len()))
	default:
		d.writeError.Add(uint64(b.Len()))
	}
}
