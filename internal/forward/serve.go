package forward

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// incoming is the part of a flow that only the exposing side has.
type incoming struct {
	service *service
	far     *Far // set before the route

	// guarded by Flows.mu
	gotPayload    bool          // of the Open, which is repeated
	held          []dgram.Burst // while the service's name is resolved
	heldDatagrams int
}

// holdDatagrams and holdBytes bound what waits for a service's name to be
// resolved.
const (
	holdDatagrams = 16
	holdBytes     = 24 << 10
)

// open handles the peer's Open, which comes again and again until our Opened
// has arrived.
func (t *Flows) open(m *proto.Open) {
	if m.GetFlow() == proto.ControlFlow || m.GetFlow() > proto.MaxFlow || m.GetInstance() == 0 {
		t.count.add(badFrame, 1)
		return
	}
	t.mu.Lock()
	var gone ended
	f, isNew, err := t.accept(m, &gone)
	deliver := err == nil && m.GetHasPayload() && !f.in.gotPayload
	if deliver {
		f.in.gotPayload = true
	}
	t.mu.Unlock()
	t.finish(gone.past, "")
	t.finish(gone.evicted, "evicted")
	switch {
	case errors.Is(err, errStale):
		t.count.add(badFrame, 1)
		return
	case err != nil:
		t.refuse(m, err)
		return
	case isNew:
		t.raise(f, m)
	case f.route.Load() != nil:
		t.cfg.Carrier.SendFrame(0, openedFrame(f))
	}
	if deliver {
		t.Deliver(f.number, dgram.One(netip.AddrPort{}, m.GetPayload()))
	}
}

// errStale is for an Open that needs no answer: who sent it is gone.
var errStale = errors.New("of an earlier run of the peer, or after the end of this one")

// ended are the flows that an Open ended: those that the peer has forgotten, and
// those that made room.
type ended struct{ past, evicted []*flow }

// accept finds or makes the flow of an Open. t.mu is held, or two readers would
// both make it.
func (t *Flows) accept(m *proto.Open, gone *ended) (f *flow, isNew bool, err error) {
	if !t.meet(m.GetInstance(), gone) || t.ctx.Err() != nil {
		return nil, false, errStale
	}
	now := t.now()
	s := t.cfg.Services.get(m.GetService())
	var only path.Kinds
	if s != nil {
		if only, err = s.allow(m.GetPaths()); err != nil {
			return nil, false, err
		}
	}
	f = t.byNumber[uint16(m.GetFlow())]
	switch {
	case f != nil && f.out != nil:
		return nil, false, errNumberTaken
	case f != nil && f.in.service.name == m.GetService():
		return f, false, nil
	case f != nil: // its Close was lost, and the number is used again
		t.remove(f, now)
		gone.past = append(gone.past, f)
	}
	switch {
	case s == nil:
		return nil, false, fmt.Errorf("no service %q is exposed here", ops.Plain(m.GetService()))
	case s.target.Scheme != "udp":
		return nil, false, fmt.Errorf("service %q takes connections, not datagrams; dial it with a tcp:// URL", s.name)
	}
	gone.evicted = t.makeRoom(now)
	f = &flow{number: uint16(m.GetFlow()), instance: m.GetInstance(), in: &incoming{service: s}}
	f.obey(only)
	t.insert(f, now)
	return f, true, nil
}

// meet notes of which run of the peer an Open is. A new run knows nothing of
// the flows of the last, which end; what is still on its way from the last is
// not ok. t.mu is held.
func (t *Flows) meet(instance uint64, gone *ended) (ok bool) {
	switch instance {
	case t.peerInstance:
		return true
	case t.pastInstance:
		return false
	}
	t.pastInstance, t.peerInstance = t.peerInstance, instance
	gone.past = t.removeIf(func(f *flow) bool { return f.in != nil })
	return true
}

func (t *Flows) refuse(m *proto.Open, why error) {
	t.count.add(refusedOpen, 1)
	t.cfg.Carrier.SendFrame(0, &proto.Frame{Body: &proto.Frame_Opened{Opened: &proto.Opened{
		Flow: m.GetFlow(), Instance: m.GetInstance(), Refused: why.Error(),
	}}})
}

func openedFrame(f *flow) *proto.Frame {
	return &proto.Frame{Body: &proto.Frame_Opened{Opened: &proto.Opened{
		Flow: uint32(f.number), Instance: f.instance, Raw: f.in.service.target.Raw, Paths: f.in.service.target.Only.Names(),
	}}}
}

// raise gives a new flow its socket, at once or when the service's name is
// resolved.
func (t *Flows) raise(f *flow, m *proto.Open) {
	if _, ok := f.in.service.target.Literal(); ok {
		t.findAndStart(f, m)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() == nil {
		t.readers.Go(func() { t.findAndStart(f, m) })
	}
}

func (t *Flows) findAndStart(f *flow, m *proto.Open) {
	to, err := f.in.service.target.Find(t.ctx, t.cfg.Resolve)
	if err != nil {
		t.reject(f, m, fmt.Errorf("service %q: %w", f.in.service.name, err))
		return
	}
	t.start(f, m, to)
}

// reject ends a flow that could not be started.
func (t *Flows) reject(f *flow, m *proto.Open, why error) {
	t.mu.Lock()
	t.remove(f, t.now())
	t.mu.Unlock()
	t.refuse(m, why)
}

// start opens the flow's socket before its service and lets through what was
// held.
func (t *Flows) start(f *flow, m *proto.Open, to netip.AddrPort) {
	far, err := Before(t.cfg.Network, to, t.aliasesOf(f.in.service), Client{Peer: t.cfg.Peer})
	if err != nil {
		t.reject(f, m, fmt.Errorf("no socket for service %q: %w", f.in.service.name, err))
		return
	}
	t.mu.Lock()
	if f.recent == nil || t.ctx.Err() != nil {
		t.mu.Unlock()
		far.Close()
		return
	}
	conn := far.Conn
	f.in.far = far
	f.route.Store(&route{conn, to})
	held := f.in.held
	f.in.held = nil
	t.readers.Go(func() { t.read(conn, func(b dgram.Burst) { t.fromService(f, to, b) }) })
	t.mu.Unlock()
	t.cfg.Carrier.SendFrame(0, openedFrame(f))
	for _, b := range held {
		b.Addr = to
		t.count.write(conn, b)
	}
}

// aliasesOf is where the source of a service's flows comes from; nil where the
// service did not ask for it.
func (t *Flows) aliasesOf(s *service) *Aliases {
	if !s.target.Alias {
		return nil
	}
	return t.cfg.Aliases
}

// hold keeps a few datagrams until the service's name is resolved.
func (t *Flows) hold(f *flow, b dgram.Burst) {
	t.mu.Lock()
	if r := f.route.Load(); r != nil { // it was started just now
		t.mu.Unlock()
		b.Addr = r.to
		t.count.write(r.conn, b)
		return
	}
	defer t.mu.Unlock()
	size := len(b.Buf)
	for _, have := range f.in.held {
		size += len(have.Buf)
	}
	if f.recent == nil || f.in.heldDatagrams+b.Len() > holdDatagrams || size > holdBytes {
		t.count.add(heldOver, b.Len())
		return
	}
	b.Buf = bytes.Clone(b.Buf)
	f.in.held = append(f.in.held, b)
	f.in.heldDatagrams += b.Len()
}

// fromService takes what the service sent to a flow's socket, on the reader's
// goroutine. Whoever else finds the socket is not heard.
func (t *Flows) fromService(f *flow, service netip.AddrPort, b dgram.Burst) {
	if b.Addr != service {
		t.count.add(notFromTarget, b.Len())
		return
	}
	t.touch(f)
	f.answered.Store(true)
	t.send(f, b)
}

// Withdraw ends, at once, the flows to a service that is exposed no more, or
// elsewhere.
func (t *Flows) Withdraw(name string) {
	t.mu.Lock()
	ended := t.removeIf(func(f *flow) bool {
		return f.in != nil && f.in.service.name == name && t.cfg.Services.get(name) != f.in.service
	})
	t.mu.Unlock()
	t.finish(ended, "service withdrawn")
}

// withdrawn are the flows to services that were withdrawn or replaced since it
// was called last. t.mu is held.
func (t *Flows) withdrawn() []*flow {
	version := t.cfg.Services.version.Load()
	if version == t.exposed {
		return nil
	}
	t.exposed = version
	return t.removeIf(func(f *flow) bool { return f.in != nil && t.cfg.Services.get(f.in.service.name) != f.in.service })
}
