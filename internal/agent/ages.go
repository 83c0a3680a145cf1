package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/ladder"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// How it is found out that a NAT ends mappings at an age: in a network that is
// new, a spare socket asks a server again and again where it is seen. That
// itself keeps its mapping in steady use.
const (
	// ShortestLifetime is in seconds the youngest age of mappings, as a watch finds
	// it, at which direct paths get successors in time.
	ShortestLifetime = 8

	agePace = 5 * time.Second
	// ageQuick is the pace while a mapping is younger than ageInfant: the shortest
	// lifetimes leave no room for a guess.
	ageQuick  = 2 * time.Second
	ageInfant = 20 * time.Second
	// ageSlow is the pace once a mapping is older than ageYoung: what lives that
	// long may be renewed with more in hand.
	ageSlow  = 10 * time.Second
	ageYoung = 90 * time.Second
	// ageMost is the longest lifetime that is looked for.
	ageMost = 5 * time.Minute
	// ageLeast is the shortest age, as it is found, that can be kept up with: that
	// of mappings which end after 10 s. A successor takes some round trips.
	ageLeast = ShortestLifetime * time.Second
	// ageHolds is how long what was found is believed in.
	ageHolds = 24 * time.Hour
	// watchAgain is how long after a watch another begins, where the main socket's
	// mapping changes without a reason though none was found.
	watchAgain = 30 * time.Minute
	// headStart is how much older the watched mapping should be than one that
	// carries data: then the first end that is seen is in time for the data.
	headStart = 15 * time.Second
)

// ages is what is known of how long the NAT here keeps mappings.
type ages struct {
	mu sync.Mutex
	habits
}

// habits are those of the network that the host is in.
type habits struct {
	network string
	known   time.Duration // 0: not known, or none where at is not zero; may be too short to keep up with
	at      time.Time     // when a watch last came to an end
	hint    time.Duration // one mapping has ended at that age, though in use
	hinted  time.Time
	watched time.Time // since when a mapping is watched; zero while none is
	main    netip.AddrPort
	idle    idleness
}

// enter takes up what is known of another network than the last one. Caller
// holds g.mu.
func (g *ages) enter(a *Agent) (network string) {
	if network = a.fingerprint(); network == g.network {
		return network
	}
	l := a.cfg.State.Lifetimes(network)
	g.habits = habits{network: network, known: seconds(l.Absolute), at: l.AbsoluteAt, idle: idleness{lifetime: seconds(l.Idle), at: l.IdleAt}}
	return network
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// keep remembers what is known of this network. Caller holds g.mu.
func (g *ages) keep(a *Agent) {
	l := Lifetimes{Network: g.network, Idle: int(g.idle.lifetime / time.Second), IdleAt: g.idle.at, Absolute: int(g.known / time.Second), AbsoluteAt: g.at}
	if err := a.cfg.State.SawLifetimes(l); err != nil {
		a.refusals.note(a, "state", err)
	}
}

// lifetime is how long mappings last here whatever is sent, in this network; 0
// where that is not known. One end alone counts until the next is due.
func (g *ages) lifetime(a *Agent) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.enter(a)
	switch {
	case g.known >= ageLeast && time.Since(g.at) < ageHolds:
		return g.known
	case g.hint > 0 && time.Since(g.hinted) < g.hint+4*agePace:
		return g.hint
	}
	return 0
}

// ageKnown adds to a behaviour (may be nil) the age at which mappings end here,
// for peers.
func (a *Agent) ageKnown(b *proto.Behaviour) *proto.Behaviour {
	lifetime := a.nature.ages.lifetime(a)
	if lifetime == 0 {
		return b
	}
	told := &proto.Behaviour{}
	if b != nil {
		told = proto.Clone(b)
	}
	told.LifetimeS = uint32(lifetime / time.Second)
	return told
}

// ended takes in that a mapping in use has ended at an age, and says whether two
// agree on it.
func (g *ages) ended(a *Agent, age time.Duration) (agreed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.enter(a)
	if age < ageLeast || age > ageMost || g.known > 0 {
		return false
	}
	if g.hint > 0 && agree(age, g.hint) {
		g.known, g.at, agreed = min(age, g.hint), time.Now(), true
		g.keep(a)
	}
	g.hint, g.hinted = age, time.Now()
	return agreed
}

// agree says whether two ages may be one lifetime's, seen at the paces of a watch.
func agree(a, b time.Duration) bool { return (a - b).Abs() <= min(2*agePace, min(a, b)/2) }

// headStarted says whether a mapping made at that time may end before this NAT's
// habits are known, and a new one made now would not.
func (g *ages) headStarted(made time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	from := g.watched.Add(headStart)
	return !g.watched.IsZero() && g.at.IsZero() && g.hint == 0 && made.Before(from) && time.Now().After(from)
}

// tooShort is what becomes of direct paths here where mappings end too soon for
// successors; short is false where they do not, or that is not known.
func (g *ages) tooShort(a *Agent) (t ladder.Attempt, short bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.enter(a); g.known <= 0 || g.known >= ageLeast || time.Since(g.at) >= ageHolds {
		return t, false
	}
	return ladder.Attempt{
		Kind: path.DirectUDP, Result: ladder.Failed, Reason: "short-lived", Started: g.at,
		Evidence: fmt.Sprintf("the NAT here ends mappings at an age of about %v, whatever crosses them: too soon for paths to get successors, so there are gaps", g.known),
		Advice:   "leave direct-udp out of `paths:` on this side, or have the router map a port (`agent netcheck` says whether it does)",
	}, true
}

// watching says whether it is being found out at which age mappings end.
func (g *ages) watching() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.watched.IsZero()
}

// sawMain takes in where servers see the main sockets. It begins to watch in a
// network that is new, and where that mapping has changed though the network has
// not.
func (a *Agent) sawMain(seen gathered) {
	var now []netip.AddrPort
	for _, c := range seen.candidates {
		if c.translated4() {
			now = append(now, c.addr)
		}
	}
	g := &a.nature.ages
	g.mu.Lock()
	defer g.mu.Unlock()
	g.enter(a)
	if len(now) == 0 {
		return
	}
	g.measureIdle(a)
	if !g.watched.IsZero() || a.hasAddr(now[0].Addr()) {
		return
	}
	changed := g.main.IsValid() && !slices.Contains(now, g.main)
	g.main = now[0]
	past := time.Since(g.at)
	if !g.at.IsZero() && past < ageHolds && !(changed && g.known == 0 && past > watchAgain) {
		return
	}
	g.watched = time.Now()
	a.tasks.start(a.watchAge)
}

// watchAge watches the mapping of a spare socket and keeps what comes of it.
func (a *Agent) watchAge(ctx context.Context) {
	g := &a.nature.ages
	g.mu.Lock()
	network := g.enter(a)
	g.mu.Unlock()
	lifetime, done := a.watchSpare(ctx, network)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.network != network {
		return
	}
	if g.watched = (time.Time{}); !done {
		return
	}
	g.known, g.at = lifetime, time.Now()
	g.keep(a)
	switch {
	case lifetime >= ageLeast:
		a.cfg.Log.Info().Dur("lifetime", lifetime).Msg("the NAT here ends mappings at an age; direct paths get successors in time")
	case lifetime > 0:
		a.cfg.Log.Warn().Dur("lifetime", lifetime).Msg("the NAT here ends mappings too soon to keep up with; expect gaps on UDP, and see whether TCP does better (paths:)")
	}
}

// watchSpare asks one server again and again where it sees a socket, until two
// ages agree or it is clear that there is none. done is false where that could
// not be found out.
func (a *Agent) watchSpare(ctx context.Context, network string) (lifetime time.Duration, done bool) {
	servers := sameFamily(a.stunServers(), true)
	if len(servers) == 0 {
		return 0, false
	}
	e, err := a.listenOn(netip.IPv4Unspecified(), path.DirectUDP)
	if err != nil {
		return 0, false
	}
	defer e.close()
	a.tasks.start(func(context.Context) { e.read() })
	var r ageRecord
	// The wall's clock goes on while the host sleeps.
	for silent := 0; silent < maxSilent && network == a.fingerprint(); {
		asking, cancel := context.WithTimeout(ctx, agePace)
		seen, err := e.stun.Bind(asking, servers[0])
		cancel()
		silent++
		if err == nil {
			silent = 0
			if lifetime, done = r.saw(seen.Mapped, time.Now().Round(0)); done {
				return lifetime, true
			}
			if a.nature.ages.ended(a, r.latest()) {
				return a.nature.ages.lifetime(a), true
			}
		}
		if !path.Wait(ctx, r.pace()) {
			break
		}
	}
	return 0, false
}

// maxSilent is how many questions in a row may stay without an answer.
const maxSilent = 6

// ageRecord is what a watch has seen of a socket's mappings.
type ageRecord struct {
	at      netip.AddrPort // the mapping
	first   time.Time      // when it was first seen there
	last    time.Time
	born    bool // it was seen to begin
	samples []time.Duration
	told    int // of samples
}

// maxSamples is how many ages are waited for of which two in a row agree.
const maxSamples = 6

// saw takes in where the socket is now. A watch is done when two ages in a row
// agree, when a mapping gets older than what is looked for, or when too many
// disagree. The age is one that the mappings have reached: they may last up to
// two paces longer.
func (r *ageRecord) saw(at netip.AddrPort, now time.Time) (lifetime time.Duration, done bool) {
	gap := now.Sub(r.last)
	if at == r.at && gap <= 3*ageSlow {
		r.last = now
		return 0, now.Sub(r.first) > ageMost
	}
	if r.at.IsValid() && r.born && gap <= 3*ageSlow {
		age := r.last.Sub(r.first)
		if n := len(r.samples); n > 0 && agree(age, r.samples[n-1]) {
			return min(age, r.samples[n-1]), true
		}
		r.samples = append(r.samples, age)
	}
	// A new socket's mapping is new, and so is one that follows another at once.
	r.born = !r.at.IsValid() || gap <= 3*ageSlow
	r.at, r.first, r.last = at, now, now
	return 0, len(r.samples) >= maxSamples
}

// latest is the age that was found last, once; else 0.
func (r *ageRecord) latest() time.Duration {
	if r.told == len(r.samples) {
		return 0
	}
	r.told = len(r.samples)
	return r.samples[r.told-1]
}

// pace is the wait until the next question.
func (r *ageRecord) pace() time.Duration {
	switch age := r.last.Sub(r.first); {
	case age < ageInfant:
		return ageQuick
	case age <= ageYoung:
		return agePace
	}
	return ageSlow
}
