package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/internal/session"
	"rendezvous/proto"
)

// association is a session with a peer, or a raw flow's child of one, and the
// sockets that were opened for it.
type association struct {
	*session.Session
	a         *Agent
	peer      *peer
	initiator bool
	raw       *proto.RawFlow // of a child
	ctx       context.Context
	cancel    context.CancelFunc
	began     time.Time

	mu      sync.Mutex // for what follows, but the signals of search
	sockets sockets
	search  search
	heard   heard
	best    bestState
	spare   spareState
}

// sockets are those that were opened for a session alone.
type sockets struct {
	all    []*endpoint
	legs   []*endpoint // those with a leg of an allocation
	closed bool        // none is opened any more
}

// search is how it stands with the search for other paths.
type search struct {
	anew  chan struct{} // cuts short the wait between punches
	tried *signal       // the punches that follow each other at once have been

	punching bool
	attempt  uint32 // of punching; 1 is the first, on the main sockets
	seeking  bool
	sought   time.Time // when an Again of the peer's was last answered
	renewal  renewal
}

// heard is what the peer has told of where it is.
type heard struct {
	last offered
	made []time.Time // when the candidates of each Again were made, against replays
}

// bestState is what is told of the best path.
type bestState struct {
	direct chan struct{} // closed while it is a direct one
	lostAt time.Time     // zero while there is one
}

// spareState is how it stands with the relay leg that a session should have
// beside its direct path.
type spareState struct {
	busy bool
	at   time.Time // of the last attempt, or when the session began
	wait time.Duration
}

// newAssociation makes a session that probes under keys from seed.
func (p *peer) newAssociation(keys seal.ProbeKeys, initiator bool, raw *proto.RawFlow) *association {
	as := &association{
		a: p.a, peer: p, initiator: initiator, raw: raw, began: time.Now(),
		search: search{anew: make(chan struct{}, 1), tried: newSignal(), attempt: 1},
		best:   bestState{direct: make(chan struct{})},
		spare:  spareState{at: time.Now(), wait: spareFirst},
	}
	as.ctx, as.cancel = context.WithCancel(p.a.tasks.ctx)
	timers := session.DefaultTimers()
	timers.Keepalive = p.a.cfg.Keepalive
	cfg := session.Config{Probe: keys, Initiator: initiator, Raw: raw != nil, Timers: timers, Handler: (*events)(as)}
	switch {
	case raw == nil:
		cfg.Rekey = rekeyer{p}
	case p.a.cfg.Host.FastPath.Kernel != nil:
		cfg.Detour = &shortcut{child: as}
	}
	as.Session = session.New(cfg)
	as.Keep(p.a.keepalive())
	p.a.board.add(as.Session)
	p.a.tasks.start(func(context.Context) { as.Run(as.ctx) })
	return as
}

// close ends the session and its sockets. It may be called from a reader.
func (as *association) close() {
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.sockets.closed {
		return
	}
	as.sockets.closed = true
	as.Close()
	as.cancel()
	as.a.board.remove(as.Session)
	for _, e := range as.a.mains {
		e.forget(as.Session)
	}
	for _, e := range as.sockets.all {
		e.close()
	}
}

// ended says whether the session was closed.
func (as *association) ended() bool {
	select {
	case <-as.Done():
		return true
	default:
		return false
	}
}

// open opens sockets for this association alone: fresh ports to punch from.
func (as *association) open() ([]*endpoint, error) {
	out, err := as.a.listen(path.DirectUDP)
	if err != nil {
		return nil, err
	}
	for _, e := range out {
		as.own(e)
	}
	return out, nil
}

// own keeps a new socket for direct paths; all that arrives at a raw flow's is
// its own.
func (as *association) own(e *endpoint) {
	if as.raw != nil {
		e.owner = as.Session
	}
	as.keep(e)
}

// keep reads e until the association or the agent ends.
func (as *association) keep(e *endpoint) {
	as.mu.Lock()
	if as.sockets.closed {
		e.close()
	}
	as.sockets.all = append(as.sockets.all, e)
	as.mu.Unlock()
	as.a.tasks.start(func(ctx context.Context) {
		stop := context.AfterFunc(ctx, e.close)
		defer stop()
		e.read()
		as.broke(e)
	})
}

// broke takes the paths away from a conn that was closed: a stream that ended.
func (as *association) broke(e *endpoint) {
	for _, r := range as.Paths() {
		if r.Path.Conn == e.conn {
			as.Drop(r.Path)
		}
	}
	as.discard([]*endpoint{e})
}

// discard closes sockets that led nowhere, but those a path is on.
func (as *association) discard(endpoints []*endpoint) {
	used := make(map[dgram.Conn]bool)
	for _, r := range as.Paths() {
		used[r.Path.Conn] = true
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	for _, e := range endpoints {
		if used[e.conn] {
			continue
		}
		e.close()
		for i, k := range as.sockets.all {
			if k == e {
				as.sockets.all = append(as.sockets.all[:i], as.sockets.all[i+1:]...)
				break
			}
		}
	}
}

// refreshLegs binds the relay legs again at once: our address may have
// changed, and the spare is about to be needed.
func (as *association) refreshLegs() {
	as.mu.Lock()
	legs := slices.Clone(as.sockets.legs)
	as.mu.Unlock()
	for _, e := range legs {
		_ = e.leg.Refresh()
	}
}

// found is closed when a direct path is best, for the punch to know.
func (as *association) found() <-chan struct{} {
	as.mu.Lock()
	defer as.mu.Unlock()
	return as.best.direct
}

// lostSince is since when no path works, zero while one does.
func (as *association) lostSince() time.Time {
	as.mu.Lock()
	defer as.mu.Unlock()
	return as.best.lostAt
}

const (
	youth     = 2 * time.Second
	longYouth = 15 * time.Second
)

// hopeful says whether the session carries data or is about to.
func (as *association) hopeful() bool {
	return as.Ready() || as.lostSince().IsZero() && time.Since(as.began) < as.youth()
}

// youth is how long the session has to become ready. Without a relay there is
// only what new ports bring.
func (as *association) youth() time.Duration {
	as.mu.Lock()
	relayed := as.heard.last.relayed()
	as.mu.Unlock()
	if as.beyondUDP() && !(as.a.relayAllowed() && relayed) {
		return longYouth
	}
	return youth
}

// bestChanged keeps the signal of found right; it reports whether the best
// path is direct.
func (as *association) bestChanged() bool {
	best := as.Best()
	direct := best == path.DirectUDP
	as.mu.Lock()
	defer as.mu.Unlock()
	switch {
	case best != path.None:
		as.best.lostAt = time.Time{}
	case as.best.lostAt.IsZero():
		as.best.lostAt = time.Now()
	}
	select {
	case <-as.best.direct:
		if !direct {
			as.best.direct = make(chan struct{})
		}
	default:
		if direct {
			close(as.best.direct)
		}
	}
	return direct
}

// events is the session's handler.
type events association

// Deliver hands datagrams to the peer's flows.
func (h *events) Deliver(flow uint16, b dgram.Burst) {
	if h.raw != nil {
		flow = uint16(h.raw.GetFlow())
	}
	switch flow {
	case proto.QUICFlow:
		h.peer.tcp.deliver(b)
		return
	case proto.StreamFlow:
		h.peer.tcp.lines.deliver(b)
		return
	}
	h.peer.flows.Deliver(flow, b)
}

// Frame handles control from the peer.
func (h *events) Frame(f *proto.Frame) {
	as := (*association)(h)
	switch m := f.Body.(type) {
	case *proto.Frame_Ask:
		as.SendFrame(&proto.Frame{Body: &proto.Frame_Told{Told: as.peer.told(m.Ask.GetId())}})
	case *proto.Frame_Told:
		as.peer.heardTold(m.Told)
	case *proto.Frame_Splice:
		as.peer.tcp.splices.asked(as, m.Splice)
	case *proto.Frame_Bye:
		as.a.tasks.start(func(context.Context) { as.peer.ended(as, "the peer said goodbye: "+m.Bye.GetReason()) })
	default:
		as.peer.flows.Frame(f)
	}
}

// Event reacts to what became of the paths. It runs on a reader's or the
// session's goroutine, so anything that waits is started apart.
func (h *events) Event(e session.Event) {
	as := (*association)(h)
	as.a.tasks.wake()
	switch e {
	case session.BestChanged:
		as.bestChanged()
		as.peer.moved(as)
	case session.Confirmed:
		as.peer.adopt(as)
		as.peer.serve(as)
	case session.InDoubt:
		as.refreshLegs()
		as.a.tasks.start(as.peer.tcp.doubt)
	case session.DirectLost:
		as.bestChanged()
		as.a.tasks.start(func(context.Context) { as.punchAgain("the direct path died") })
	case session.Degraded:
		as.a.tasks.start(func(context.Context) { as.seekOther() })
	case session.Outdone:
		as.outdone()
	case session.Starved:
		as.a.tasks.start(func(context.Context) { as.seekFor(as.missing) })
	case session.Served:
		as.peer.serve(as)
	case session.Resumed:
		as.a.link.resume()
	case session.Lost:
		as.bestChanged()
		as.a.tasks.start(func(context.Context) { as.peer.lost(as) })
	}
}

// rekeyer makes new keys with a peer.
type rekeyer struct{ p *peer }

// Initiate begins a handshake for new keys.
func (r rekeyer) Initiate() ([]byte, func([]byte) (seal.Keys, error), error) {
	secret, ok := r.p.a.cfg.State.Secret()
	if !ok {
		return nil, nil, errWaiting
	}
	i, message, err := seal.Initiate(r.p.a.id, r.p.member().Static, secret, nil)
	if err != nil {
		return nil, nil, err
	}
	return message, func(answer []byte) (seal.Keys, error) {
		k, _, err := i.Finish(answer)
		return k, err
	}, nil
}

// Respond answers one.
func (r rekeyer) Respond(message []byte) ([]byte, seal.Keys, error) {
	secret, ok := r.p.a.cfg.State.Secret()
	if !ok {
		return nil, seal.Keys{}, errWaiting
	}
	resp, err := seal.Respond(r.p.a.id, secret, message)
	if err != nil {
		return nil, seal.Keys{}, err
	}
	if string(resp.PeerStatic) != string(r.p.member().Static) {
		return nil, seal.Keys{}, seal.ErrPeer
	}
	return resp.Finish(nil)
}
