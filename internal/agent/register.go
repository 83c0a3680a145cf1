package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// register says that we are here, and takes in what the coordinator tells.
func (l *link) register(ctx context.Context, client *reached) (*proto.Registered, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	record, err := l.a.record()
	if err != nil {
		return nil, err
	}
	answer, err := client.Call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Register{Register: &proto.Register{
		Instance: l.a.instance, Version: l.a.cfg.Version, Record: record,
	}}})
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	reg := answer.GetRegistered()
	servers := l.a.askable(reg.GetStun(), client.Addr.Addr())
	doubtful := l.doubtful(servers, doorsTold(reg.GetDoors()), client)
	servers = throughDoor(servers, client.how)
	l.a.board.setSTUN(servers, doubtful)
	if err := l.a.cfg.State.SawCoordinator(client.Addr, servers); err != nil {
		l.a.refusals.note(l.a, "state", err)
	}
	for _, r := range reg.GetRevocations() {
		if err := l.a.applyRevocation(r); err != nil && !errors.Is(err, errWaiting) {
			l.a.refusals.note(l.a, "revocation", err)
		}
	}
	return reg, nil
}

// doubtful are the servers, among all that a main socket has sent to, that may
// see another port of it than its NAT's.
func (l *link) doubtful(told []netip.AddrPort, doors []Door, client *reached) []netip.AddrPort {
	at := client.Addr.Addr().Unmap()
	main := portOf(l.a.cfg.State.Coordinator().Addr)
	if len(told) > 0 && told[0].Addr() == at && !slices.Contains(portsOf(doors, proto.Transport_TRANSPORT_UDP), client.how.addr.Port()) {
		main = told[0].Port() // what the coordinator takes the translated port for
	}
	return l.raced.doubtful(time.Now(), at, doors, main)
}

// observed publishes what the coordinator saw of the very socket that punches,
// so that an introduction need not wait for STUN to tell the same.
func (l *link) observed(client *Connection, reg *proto.Registered) {
	at, ok := (&proto.Endpoint{Addr: reg.GetObservedAddr(), Port: reg.GetObservedPort()}).AddrPort()
	e := l.a.mainFor(client.Addr)
	l.mu.Lock()
	l.reach.observed = sighting{}
	l.mu.Unlock()
	if !ok || e == nil || l.a.board.doubts(client.Addr) {
		return
	}
	seen := sighting{server: client.Addr, mapped: at}
	l.mu.Lock()
	l.reach.observed = seen
	l.mu.Unlock()
	if l.a.here.Load() != nil {
		return
	}
	g := l.a.hosts(l.a.mains)
	g.add(e, []sighting{seen})
	l.a.addMapped(&g, l.a.mains)
	l.a.here.Store(&g)
	_ = l.stand(client, g)
}

// pinned says whether the coordinator itself, at the address where it has proven
// its key, is one of those who saw a socket.
func (l *link) pinned(seen []sighting) bool {
	l.mu.Lock()
	at := l.reach.observed.server.Addr().Unmap()
	l.mu.Unlock()
	return slices.ContainsFunc(seen, func(s sighting) bool { return s.server.Addr().Unmap() == at })
}

// vouch adds where the pinned coordinator saw a main socket to what others saw,
// where it has not answered over STUN: anybody may run the others.
func (l *link) vouch(g *gathered) {
	l.mu.Lock()
	own := l.reach.observed
	l.mu.Unlock()
	if !g.pinned && own.mapped.IsValid() {
		g.see([]sighting{own}, proto.Transport_TRANSPORT_UDP)
	}
}

// believed puts the candidates first that are at the address where the pinned
// coordinator saw us: the first is what peers foresee ports of. Where none is,
// what servers saw is no ground for that, and says nothing of our NAT.
func (l *link) believed(g *gathered) {
	l.mu.Lock()
	at := l.reach.observed.mapped.Addr().Unmap()
	l.mu.Unlock()
	doubted := func(c candidate) bool {
		return c.translated4() && c.addr.Addr() != at
	}
	seen := func(c candidate) bool {
		return c.kind == proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE && c.addr.Addr() == at
	}
	if !at.Is4() || !slices.ContainsFunc(g.candidates, doubted) {
		return
	}
	if !slices.ContainsFunc(g.candidates, seen) {
		g.behaviour = nil
	}
	slices.SortStableFunc(g.candidates, func(a, b candidate) int {
		switch x, y := doubted(a), doubted(b); {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	})
}

// record is our membership record, signed and, once there is a secret,
// authenticated under it.
func (a *Agent) record() (*proto.Signed, error) {
	body, err := proto.Marshal(&proto.Record{Name: a.cfg.State.Name(), Key: a.id.Key(), StaticKey: a.id.StaticKey(), MadeUnix: time.Now().Unix()})
	if err != nil {
		return nil, err
	}
	if secret, ok := a.cfg.State.Secret(); ok {
		return seal.Sign(a.id, &secret, seal.ContextMember, body), nil
	}
	return seal.Sign(a.id, nil, seal.ContextMember, body), nil
}

// publish keeps the candidates of the main sockets fresh, here and at the
// coordinator, where introductions find them without asking us first.
func (l *link) publish(ctx context.Context, client *Connection) {
	known := l.study(ctx)
	var surveyed chan struct{}
	if !l.ways().udp {
		surveyed = make(chan struct{})
		l.a.nature.surveys(surveyed)
		l.a.tasks.start(func(context.Context) {
			defer close(surveyed)
			l.a.survey(ctx)
		})
	}
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	var last string
	var stood time.Time
	for {
		g := l.a.gather(ctx, l.a.mains)
		if ctx.Err() != nil {
			return
		}
		l.a.sawMain(g)
		l.vouch(&g)
		g.behaviour = knowing(g.behaviour, l.a.natureWithin(ctx, 0))
		l.a.here.Store(&g)
		if text := fmt.Sprint(g.candidates, g.behaviour, g.passing); text != last || time.Since(stood) > standingFor/4 {
			if err := l.stand(client, g); err == nil {
				last, stood = text, time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-known:
			known = nil
		case <-surveyed:
			surveyed = nil
		case <-tick.C:
		case <-l.a.mapper.changed:
		case <-l.a.nature.stale:
			known = l.study(ctx)
		}
	}
}

// study has the NAT studied beside what else goes on; it is over when the
// channel is closed.
func (l *link) study(ctx context.Context) (known chan struct{}) {
	known = make(chan struct{})
	l.a.tasks.start(func(context.Context) {
		defer close(known)
		l.a.study(ctx)
	})
	return known
}

func (l *link) stand(client *Connection, g gathered) error {
	secret, ok := l.a.cfg.State.Secret()
	if !ok {
		return errWaiting
	}
	signed, err := l.a.signCandidates(g)
	if err != nil {
		return err
	}
	plain, err := proto.Marshal(signed)
	if err != nil {
		return err
	}
	return client.Send(&proto.ToCoordinator{Body: &proto.ToCoordinator_Standing{Standing: &proto.Standing{Sealed: seal.SealStanding(secret, plain)}}})
}

// standing is what we know of our main sockets, gathered now if never before.
func (a *Agent) standing(ctx context.Context) gathered {
	if g := a.here.Load(); g != nil {
		return *g
	}
	g := a.gatherSoon(ctx)
	a.here.CompareAndSwap(nil, &g) // what publish has found meanwhile is more
	return g
}
