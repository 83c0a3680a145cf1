// Package agent composes an agent: sockets, the coordinator, sessions with
// peers and the services that cross them. It is the only package that knows
// every rung.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/forward"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/seal"
)

// errWaiting is why nothing can be done yet.
var errWaiting = errors.New("this agent waits to be admitted; run `agent approve NAME` on a member")

// Agent is a running agent.
type Agent struct {
	cfg      Config
	id       seal.Identity
	instance uint64
	board    *switchboard
	mains    []*endpoint
	link     *link
	peers    roster
	services *forward.Services
	aliases  *forward.Aliases
	// connector reaches the tcp:// ones of services.
	connector *forward.Connector
	public    *publisher
	here      atomic.Pointer[gathered] // of the main sockets
	nature    studied
	ration    *punch.Ration // what punches send beyond the candidates' probes
	tasks     tasks
	began     time.Time
	refusals  refusals
	late      lateDials
	mapper    mapper
	shortcuts shortcuts
}

// tasks are the goroutines that the agent has started; none outlives Run.
type tasks struct {
	ctx  context.Context
	wait sync.WaitGroup
	due  chan struct{} // has room for one: something begins that is to be tended
}

// notice leaves a token for who waits for one. It never blocks: one that was not
// taken yet says as much.
func notice(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (t *tasks) start(f func(ctx context.Context)) {
	if t.ctx.Err() != nil {
		return
	}
	t.wait.Go(func() { f(t.ctx) })
}

// New prepares an agent; it opens no socket yet.
func New(cfg Config) (*Agent, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, id: cfg.State.Identity(), instance: binary.BigEndian.Uint64(seed[:]),
		board: newSwitchboard(), services: forward.NewServices(), aliases: forward.NewAliases(),
	}
	a.connector = &forward.Connector{Services: a.services, TCP: cfg.Host.Local, Aliases: a.aliases, Resolve: cfg.Host.Resolve}
	a.link = newLink(a)
	a.public = newPublisher(a)
	a.mapper = newMapper(a)
	a.nature.stale = make(chan struct{}, 1)
	a.tasks.due = make(chan struct{}, 1)
	a.ration = punch.NewRation(cfg.Punch.Budget)
	a.peers.byName = make(map[string]*peer)
	return a, nil
}

// Run opens the sockets and serves until ctx ends. It returns an error only
// where it could not begin.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	a.began = time.Now()
	a.tasks.ctx = ctx
	defer a.tasks.wait.Wait()
	defer cancel()
	mains, err := a.listen(path.DirectUDP)
	if err != nil {
		return err
	}
	a.mains = mains
	defer func() {
		for _, e := range mains {
			e.close()
		}
	}()
	for _, e := range mains {
		a.tasks.start(func(context.Context) { e.read() })
	}
	if err := a.configure(); err != nil {
		a.closePeers("it could not begin")
		return err
	}
	a.tasks.start(func(ctx context.Context) { a.mapper.run(ctx, mains) })
	var link sync.WaitGroup
	link.Go(func() { a.link.run(ctx) })
	a.tasks.start(a.watchNetwork)
	a.tasks.start(a.tend)
	a.tasks.start(a.public.run)
	a.tasks.start(a.public.tcp.run)
	<-ctx.Done()
	a.closePeers("the agent was stopped")
	a.public.close()
	link.Wait() // it says goodbye over the sockets that are closed next
	return nil
}

// listen opens a socket of each family that the host has. One is enough.
func (a *Agent) listen(k path.Kind) ([]*endpoint, error) {
	var out []*endpoint
	var faults []error
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		e, err := a.listenOn(family, k)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("open a UDP socket: %w", errors.Join(faults...))
	}
	return out, nil
}

// listenOn opens a socket of one family.
func (a *Agent) listenOn(family netip.Addr, k path.Kind) (*endpoint, error) {
	conn, err := a.cfg.Host.Net.ListenUDP(netip.AddrPortFrom(family, 0))
	if err != nil {
		return nil, err
	}
	return newEndpoint(conn, k, a.board), nil
}

// configure exposes and dials what the config and the state name.
func (a *Agent) configure() error {
	services, err := a.cfg.State.Services()
	if err != nil {
		return err
	}
	for _, s := range append(services, a.cfg.Expose...) {
		if err := a.services.Expose(s.Name, s.URL()); err != nil {
			return err
		}
	}
	dials, err := a.cfg.State.Dials()
	if err != nil {
		return err
	}
	for _, d := range a.cfg.Dial {
		if err := a.dial(d); err != nil {
			return err
		}
	}
	for _, d := range dials {
		if err := a.dial(d); err != nil {
			// What was added on a running agent must not keep it from starting:
			// status shows it, and it is tried again.
			a.cfg.Log.Warn().Stringer("dial", d).Err(err).Msg("a dial that was added earlier does not listen")
			a.late.put(d, err)
		}
	}
	return nil
}

// lateDials are dials of the state that could not listen yet.
type lateDials struct {
	mu   sync.Mutex
	list map[Dial]error
}

func (l *lateDials) put(d Dial, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list == nil {
		l.list = make(map[Dial]error)
	}
	l.list[d] = err
}

// forget drops what was hung up, or listens now.
func (l *lateDials) forget(gone Dial) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for d := range l.list {
		if d.Target() == gone.Target() && d.at() == gone.at() {
			delete(l.list, d)
		}
	}
}

func (l *lateDials) all() map[Dial]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.list)
}

// retryDials listens where it could not before.
func (a *Agent) retryDials() {
	for d := range a.late.all() {
		if a.dial(d) == nil {
			a.late.forget(d)
		}
	}
}

// allows says whether the config lets data take a kind of path.
func (a *Agent) allows(k path.Kind) bool {
	if len(a.cfg.Paths) == 0 {
		return true
	}
	for _, allowed := range a.cfg.Paths {
		if allowed == k {
			return true
		}
	}
	return false
}

func (a *Agent) stunServers() []netip.AddrPort {
	return a.cfg.State.Coordinator().STUN
}
