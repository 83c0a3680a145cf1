package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// ControlConn is the agent's end of a control connection.
type ControlConn interface {
	// Call asks and waits for the answer.
	Call(ctx context.Context, m *proto.ToCoordinator) (*proto.ToAgent, error)
	// Send asks for no answer.
	Send(m *proto.ToCoordinator) error
	// Events are what nobody asked for; closed when the connection is lost.
	Events() <-chan *proto.ToAgent
	Close() error
}

// Connection is a control connection and what is known of it.
type Connection struct {
	ControlConn
	Addr      netip.AddrPort
	Transport string // quic or tls
	Via       string // the proxy that it goes through; empty: none
	RTT       func() time.Duration
	Why       func() error // it was lost
}

// ErrReplaced and ErrRevoked are reasons for a connection's end (Why) after
// which another one at once would do harm or no good.
var (
	ErrReplaced = errors.New("another agent registered with this agent's key")
	ErrRevoked  = errors.New("this agent was revoked")
)

// ErrWrongKey is the reason where whoever answers is not the coordinator.
var ErrWrongKey = errors.New("whoever answers there has another key than the coordinator")

// Connect dials a coordinator over pc and checks its pinned key.
type Connect func(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*Connection, error)

// ConnectTLS dials a coordinator over TLS, by HOST:PORT, where a proxy may
// know the name, and checks its pinned key.
type ConnectTLS func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*Connection, error)

// RelayTLS opens a way for one relay leg through TLS to the coordinator. far is
// the one address on the conn.
type RelayTLS func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (conn dgram.Conn, far netip.AddrPort, err error)

// link is the agent's connection to its coordinator: made again whenever it is
// lost, for ever, and never in the way of data.
type link struct {
	a       *Agent
	answers answerBook
	urgent  chan struct{} // look whether the connection still works
	again   chan struct{} // look for a better one

	resolve func(ctx context.Context, c Coordinator) ([]netip.AddrPort, error)

	// Those of the goroutine that dials.
	sweeps   sweeps
	troubles troubles
	dialedIn string // the network

	mu         sync.Mutex
	client     *Connection
	how        attempt        // how it was made, or the last one was
	addr       netip.AddrPort // where the coordinator has proven its key
	err        error
	registered chan struct{} // closed once registered, replaced when lost
	network    string        // fingerprint of the one here
	reach      learned
}

func newLink(a *Agent) *link {
	return &link{a: a, urgent: make(chan struct{}, 1), again: make(chan struct{}, 1), troubles: make(troubles), resolve: func(ctx context.Context, c Coordinator) ([]netip.AddrPort, error) { return c.Addrs(ctx) },
		registered: make(chan struct{}), err: errors.New("it is being tried for the first time"), reach: learned{doors: a.cfg.State.Coordinator().Doors}}
}

const (
	redialFirst = 200 * time.Millisecond
	redialMost  = 3 * time.Second
	// redialRefused follows a refusal that only a person can end.
	redialRefused = 30 * time.Second
	callWithin    = 5 * time.Second
	pingActive    = 2 * time.Second
	refreshEvery  = 30 * time.Second
)

// run keeps the link up until ctx ends.
func (l *link) run(ctx context.Context) {
	wait := redialFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := l.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*redialMost {
			wait = redialFirst
		}
		l.lost(err)
		// Jitter, so that all agents of a coordinator that restarts don't come at once.
		pause := wait/2 + rand.N(wait/2+1)
		wait = min(2*wait, redialMost)
		if errors.Is(err, ErrReplaced) || errors.Is(err, ErrRevoked) {
			pause = redialRefused
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.urgent:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// lost notes why there is no link, and logs it once for each reason.
func (l *link) lost(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil || err != nil && l.err.Error() != err.Error() {
		l.a.cfg.Log.Warn().Err(err).Msg("no connection to the coordinator; trying again")
	}
	if l.client != nil {
		l.registered = make(chan struct{})
	}
	l.client, l.err = nil, err
	if l.err == nil {
		l.err = errors.New("the connection was closed")
	}
}

// once dials, registers and serves one connection, and those that replace it,
// until none is left.
func (l *link) once(ctx context.Context) error {
	d, err := l.dial(ctx)
	if err != nil {
		return err
	}
	reg, err := l.register(ctx, d.Connection)
	if err != nil {
		_ = d.Close()
		return err
	}
	l.adopt(d, reg)
	for _, p := range l.a.peers.all() {
		p.linkIsBack(ctx)
	}
	for d != nil {
		d, err = l.hold(ctx, d)
	}
	return err
}

// adopt makes d the agent's connection.
func (l *link) adopt(d *reached, reg *proto.Registered) {
	if d.how.over == proto.Transport_TRANSPORT_UDP {
		l.observed(d.Connection, reg)
	}
	doors := doorsTold(reg.GetDoors())
	l.mu.Lock()
	l.client, l.how, l.err = d.Connection, d.how, nil
	if d.Addr.IsValid() {
		l.addr = d.Addr
	}
	l.reach.doors = doors
	l.reach.took(d.how)
	select {
	case <-l.registered:
	default:
		close(l.registered)
	}
	network := Network{ID: l.network, Over: d.how.over, Port: d.how.port()}
	l.mu.Unlock()
	told := l.a.cfg.Log.Info().Str("coordinator", d.where()).Str("over", overName(d.how.over))
	if d.Via != "" {
		told = told.Str("via", d.Via)
	}
	told.Dur("rtt", d.RTT()).Msg("registered")
	if err := errors.Join(l.a.cfg.State.SawWorking(network), l.a.cfg.State.SawDoors(doors)); err != nil {
		l.a.refusals.note(l.a, "state", err)
	}
}

// hold serves a connection until it is lost, or another has replaced it, which
// it returns.
func (l *link) hold(ctx context.Context, d *reached) (next *reached, err error) {
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	moved := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() { l.ping(ctx, d.Connection) })
	tasks.Go(func() { l.publish(ctx, d.Connection) })
	if d.how.over != proto.Transport_TRANSPORT_UDP {
		tasks.Go(func() {
			if next = l.better(ctx, parent, d); next != nil {
				close(moved)
			}
		})
	}
	stop := context.AfterFunc(parent, func() { _ = d.Close() })
	defer stop()
	l.serve(parent, d, moved)
	cancel()
	tasks.Wait()
	if next == nil {
		_ = d.Close()
		return nil, d.Why()
	}
	l.a.tasks.start(func(ctx context.Context) { l.leave(ctx, d) })
	return next, nil
}

// serve takes in events until the connection ends, or another is there.
func (l *link) serve(ctx context.Context, d *reached, moved <-chan struct{}) {
	for {
		select {
		case m, ok := <-d.Events():
			if !ok {
				return
			}
			l.event(ctx, m)
		case <-moved:
			return
		}
	}
}

// register says that we are here, and takes in what the coordinator tells.
func (l *link) register(ctx context.Context, client *Connection) (*proto.Registered, error) {
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
	l.a.board.setSTUN(servers)
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

// observed publishes what the coordinator saw of the very socket that punches,
// so that an introduction need not wait for STUN to tell the same.
func (l *link) observed(client *Connection, reg *proto.Registered) {
	at, ok := (&proto.Endpoint{Addr: reg.GetObservedAddr(), Port: reg.GetObservedPort()}).AddrPort()
	e := l.a.mainFor(client.Addr)
	if !ok || e == nil || l.a.here.Load() != nil {
		return
	}
	g := l.a.hosts(l.a.mains)
	g.add(e, []sighting{{server: client.Addr, mapped: at}})
	l.a.here.Store(&g)
	_ = l.stand(client, g)
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

// ping asks the coordinator for a sign of life more often than the client's
// own heartbeat does: while a session is in use, and when told to check.
func (l *link) ping(ctx context.Context, client *Connection) {
	tick := time.NewTicker(pingActive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !l.a.inUse() {
				continue
			}
		case <-l.urgent:
		}
		pctx, cancel := context.WithTimeout(ctx, pingActive+3*client.RTT())
		_, err := client.Call(pctx, &proto.ToCoordinator{})
		cancel()
		if err != nil && ctx.Err() == nil {
			_ = client.Close()
			return
		}
	}
}

// inUse says whether data has crossed lately.
func (a *Agent) inUse() bool {
	for _, p := range a.peers.all() {
		if as := p.association(); as != nil && time.Since(as.LastData()) < 3*pingActive {
			return true
		}
	}
	return false
}

// check makes the link look at once whether it still works, and for a better
// way.
func (l *link) check() {
	l.look()
	for _, c := range []chan struct{}{l.urgent, l.again} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// publish keeps the candidates of the main sockets fresh, here and at the
// coordinator, where introductions find them without asking us first.
func (l *link) publish(ctx context.Context, client *Connection) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	var last string
	var stood time.Time
	for {
		g := l.a.gather(ctx, l.a.mains)
		if ctx.Err() != nil {
			return
		}
		l.a.here.Store(&g)
		if text := fmt.Sprint(g.candidates, g.behaviour); text != last || time.Since(stood) > standingFor/4 {
			if err := l.stand(client, g); err == nil {
				last, stood = text, time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
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
