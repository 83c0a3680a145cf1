package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/ladder"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// Status tells how the agent is (Watcher).
func (a *Agent) Status() Status {
	st := Status{Name: a.cfg.State.Name(), PID: os.Getpid(), Version: a.cfg.Version, Coordinator: a.link.status(), Counters: a.counters()}
	st.Fingerprint = seal.Fingerprint(a.id.Key())
	st.Routers, st.Punch = a.mapper.routers(), a.punchStatus()
	st.FastPath = a.shortcuts.status(a.cfg.Host.FastPath)
	if _, ok := a.cfg.State.Secret(); !ok {
		st.Waiting = errWaiting.Error()
	}
	for _, s := range a.services.List() {
		st.Services = append(st.Services, ServiceStatus{Name: s.Name, URL: s.URL, Paths: s.Only.Names(), Flows: s.Flows, Public: a.public.status(s)})
	}
	for d, err := range a.late.all() {
		st.Dials = append(st.Dials, DialStatus{Peer: d.Peer, Service: d.Service, Listen: d.URL(), Paths: d.Only.Names(), Error: err.Error()})
	}
	for _, p := range a.peers.all() {
		for _, d := range p.flows.Dials() {
			st.Dials = append(st.Dials, DialStatus{Peer: p.name, Service: d.Service, Listen: urlOf(d),
				Paths: d.Rule.Names(), Flows: d.Flows, Error: d.Error})
		}
		st.Dials = append(st.Dials, p.tcp.status()...)
		if s, ok := p.status(); ok {
			st.Peers = append(st.Peers, s)
		}
	}
	return st
}

func (a *Agent) punchStatus() *PunchStatus {
	b, r := a.ration.Budget, a.ration
	return &PunchStatus{PerSecond: b.PerSecond, PerTarget: b.PerTarget, PerAttempt: b.PerAttempt, Spray: a.cfg.Punch.Spray,
		Spraying: r.Spraying(), Sent: r.Sent.Load(), Cut: r.Cut.Load(), Refused: r.Refused.Load()}
}

// urlOf is where a dial listens, as users write it.
func urlOf(d forward.DialStatus) string {
	return Dial{Host: d.Listen.Addr().String(), Port: d.Listen.Port(), Only: d.Only}.URL()
}

func (l *link) status() CoordinatorStatus {
	at, chosen := l.relayDoor()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := CoordinatorStatus{Addr: l.a.cfg.State.Coordinator().Addr}
	if l.client != nil {
		c.Connected, c.Transport, c.Addr, c.RTT = true, "quic", l.client.Addr.String(), Millis(l.client.RTT())
		c.Over, c.Via = overWord(l.how.over), l.client.Via
		if l.how.over == proto.Transport_TRANSPORT_TLS {
			c.Transport = "tls"
		}
		if !l.client.Addr.IsValid() {
			c.Addr = l.how.at // a proxy hides the address
		}
		if chosen {
			c.RelayPort = int(at.Port())
		}
		for _, t := range l.reach.trials {
			c.Ports = append(c.Ports, PortStatus{Port: int(t.port), Sent: t.sent, Answered: t.got, RTT: Millis(t.median)})
		}
	} else if l.err != nil {
		c.Error = l.err.Error()
	}
	return c
}

// counters is what was dropped or refused, by reason.
func (a *Agent) counters() map[string]uint64 {
	out := map[string]uint64{
		"stranger": a.board.dropped.stranger.Load(), "stale-session": a.board.dropped.stale.Load(),
		"malformed": a.board.dropped.malformed.Load(), "forged": a.refusals.forgeries.Load(),
		"candidate-refused": a.refusals.candidates.Load(), path.RefusalsFlood: a.refusals.floods.Load(),
	}
	for _, p := range a.peers.all() {
		p.mu.Lock()
		out["held-too-long"] += p.queue.lost() + p.ruled.lost()
		current := p.current
		p.mu.Unlock()
		for reason, n := range p.flows.Drops() {
			out[reason] += n
		}
		p.tcp.drops(out)
		if current != nil {
			for reason, n := range current.Counts().Dropped {
				out[reason] += n
			}
		}
	}
	maps.Copy(out, a.public.counts())
	if all, ok := a.cfg.Host.Net.(dgram.Totals); ok {
		maps.Copy(out, all.Totals().Reasons())
	}
	for reason, n := range out {
		if n == 0 {
			delete(out, reason)
		}
	}
	return out
}

// status is one peer's, absent while nobody ever wanted it.
func (p *peer) status() (PeerStatus, bool) {
	as := p.association()
	s := PeerStatus{Name: p.name}
	if as == nil {
		return s, p.inDemand() || p.dialed()
	}
	counts := as.Counts()
	s.TxBytes, s.RxBytes = counts.TxBytes+p.rawBytes(true), counts.RxBytes+p.rawBytes(false)
	for _, r := range as.Paths() {
		if r.State == PathBest {
			s.Path, s.Remote, s.RTT, s.Loss, s.ServiceMTU = r.Kind.String(), r.Path.Addr.String(), Millis(r.RTT), r.Loss, r.MTU
			s.Since = r.Since
			s.Local = p.a.localOf(r.Path.Conn)
		}
		s.Paths = append(s.Paths, PathStatus{Path: r.Kind.String(), State: r.State, Remote: r.Path.Addr.String(), RTT: Millis(r.RTT)})
	}
	return s, true
}

// rawBytes is what the raw flows of the peer have sent, or received.
func (p *peer) rawBytes(sent bool) (n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, st := range p.raws {
		if st.child == nil {
			continue
		}
		c := st.child.Counts()
		if sent {
			n += c.TxBytes
		} else {
			n += c.RxBytes
		}
	}
	return n
}

// localOf is the address that a path leaves from. A wildcard socket has none;
// then it is the host's first of that family.
func (a *Agent) localOf(conn dgram.Conn) string {
	local := conn.LocalAddr()
	if !local.Addr().IsUnspecified() {
		return local.String()
	}
	addrs, err := a.addrs()
	if err != nil {
		return local.String()
	}
	if own := hostCandidates(addrs, a.cfg.Ignore, []dgram.Conn{conn}); len(own) > 0 {
		return own[0].addr.String()
	}
	return local.String()
}

// sessionWithin is how long ping waits for a session to be made.
const sessionWithin = 10 * time.Second

// Ping sends one probe on the best path (Watcher).
func (a *Agent) Ping(ctx context.Context, name string) (PingLine, error) {
	line := PingLine{Peer: name}
	p, err := a.findPeer(ctx, name)
	if err != nil {
		return line, err
	}
	as, err := p.session(ctx, "ping")
	if err != nil {
		return line, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	at, kind, rtt, err := as.Ping(ctx)
	line.Path, line.Remote, line.RTT = kind.String(), at.Addr.String(), Millis(rtt)
	if err != nil {
		return line, fmt.Errorf("probe %q on %v: no answer in 3s: %w", name, kind, err)
	}
	return line, nil
}

// session waits for a session with the peer, and has one made.
func (p *peer) session(ctx context.Context, reason string) (*association, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for {
		if as := p.association(); as != nil && as.Ready() {
			return as, nil
		}
		if err := p.failedSince(began); err != nil {
			return nil, err
		}
		p.want(reason)
		select {
		case <-ctx.Done():
			return nil, p.whyNoSession()
		case <-tick.C:
		}
	}
}

// failedSince is why an introduction failed that ended after t. One that gave
// way to the peer's own has not: a session comes of that.
func (p *peer) failedSince(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tries.joining || p.tries.at.Before(t) || errors.Is(p.tries.err, errBothBegan) {
		return nil
	}
	return p.tries.err
}

func (p *peer) whyNoSession() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tries.err != nil {
		return p.tries.err
	}
	return fmt.Errorf("no session with %q in %v; `agent explain %s` says what was tried", p.name, sessionWithin, p.name)
}

// Explain tells what was tried, on both sides (Watcher).
func (a *Agent) Explain(ctx context.Context, name string) (Explain, error) {
	p, err := a.findPeer(ctx, name)
	if err != nil {
		return Explain{}, err
	}
	out := Explain{Peer: name}
	log := p.attempts()
	p.mu.Lock()
	lastErr := p.tries.err
	p.mu.Unlock()
	for _, t := range log {
		out.Attempts = append(out.Attempts, attemptOf(t))
	}
	as := p.association()
	if as == nil {
		if lastErr != nil && len(log) == 0 {
			out.Attempts = append(out.Attempts, Attempt{Result: ResultFailed, Reason: "not-introduced", Evidence: lastErr.Error(), Side: SideLocal})
		}
		return out, nil
	}
	out.Path = as.Best().String()
	for _, t := range p.ask(ctx, as) {
		out.Attempts = append(out.Attempts, Attempt{
			Path: ops.Plain(t.GetPath()), Result: ops.Plain(t.GetResult()), Reason: ops.Plain(t.GetReason()), Evidence: ops.Plain(t.GetEvidence()), Advice: ops.Plain(t.GetAdvice()),
			Started: time.Unix(0, t.GetStartedUnixNs()), MS: int64(t.GetMs()), Side: SideRemote,
		})
	}
	return out, nil
}

// attempts is what was tried here, and last what makes direct paths end here.
func (p *peer) attempts() []ladder.Attempt {
	p.mu.Lock()
	log := slices.Clone(p.log)
	p.mu.Unlock()
	direct := slices.ContainsFunc(log, func(t ladder.Attempt) bool { return t.Kind == path.DirectUDP && t.Result == ladder.OK })
	if t, short := p.a.nature.ages.tooShort(p.a); direct && short {
		log = append(log, t)
	}
	return log
}

func attemptOf(t ladder.Attempt) Attempt {
	return Attempt{Path: t.Kind.String(), Result: t.Result, Reason: t.Reason, Evidence: t.Evidence, Advice: t.Advice,
		Started: t.Started, MS: t.Took.Milliseconds(), Side: SideLocal}
}

// told is our attempts, for a peer that asks.
func (p *peer) told(id uint64) *proto.Told {
	out := &proto.Told{Id: id}
	log := p.attempts()
	for _, t := range log[max(0, len(log)-16):] {
		out.Attempts = append(out.Attempts, &proto.Attempt{Path: t.Kind.String(), Result: t.Result, Reason: t.Reason,
			Evidence: t.Evidence, Advice: t.Advice, StartedUnixNs: t.Started.UnixNano(), Ms: uint32(t.Took.Milliseconds())})
	}
	return out
}

func (p *peer) heardTold(m *proto.Told) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.asks[m.GetId()]; c != nil {
		select {
		case c <- m:
		default:
		}
	}
}

// ask gets the peer's attempts, asking thrice.
func (p *peer) ask(ctx context.Context, as *association) []*proto.Attempt {
	id := uint64(time.Now().UnixNano())
	c := make(chan *proto.Told, 1)
	p.mu.Lock()
	p.asks[id] = c
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.asks, id)
		p.mu.Unlock()
	}()
	for range 3 {
		as.SendFrame(&proto.Frame{Body: &proto.Frame_Ask{Ask: &proto.Ask{Id: id}}})
		timer := time.NewTimer(time.Second)
		select {
		case m := <-c:
			timer.Stop()
			return m.GetAttempts()
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
	return nil
}

// forgedAttempt is how explain shows a coordinator that lies.
func forgedAttempt(err error) ladder.Attempt {
	return ladder.Attempt{Kind: path.DirectUDP, Result: ladder.Failed, Reason: "forged", Evidence: err.Error(),
		Advice: "the coordinator, or somebody in its place, changed what the peer sent; look after the VPS", Started: time.Now()}
}

var errNoSecret = errors.New("this agent has no secret of the network to pass on; it waits to be admitted itself")

var _ forward.Carrier = (*peer)(nil)
