package portmap

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// keeper keeps our mappings on one gateway. One goroutine runs it; what others
// ask for is under mu.
type keeper struct {
	m      *Mapper
	road   road
	nudges chan struct{}
	left   chan struct{} // closed when the gateway is none of ours any more

	mu      sync.Mutex
	clients []client // of the protocols that answered, best first
	asking  int      // surveys that are under way
	asked   time.Time
	look    bool // mappings are to be renewed now
	leases  map[Port]*lease
	refused map[Port]refusal
	tried   bool // everything wanted was asked for once
	silent  int  // surveys in a row that found nothing
	swept   bool // what an earlier run left was looked for since UPnP was found
}

func newKeeper(m *Mapper, r road) *keeper {
	return &keeper{m: m, road: r, nudges: make(chan struct{}, 1), left: make(chan struct{}),
		leases: make(map[Port]*lease), refused: make(map[Port]refusal)}
}

// wake has run look at what is wanted; look has it ask the gateway again, too.
func (k *keeper) wake(look bool) {
	k.mu.Lock()
	k.look = k.look || look && time.Since(k.asked) >= lookAgain
	k.mu.Unlock()
	select {
	case k.nudges <- struct{}{}:
	default:
	}
}

// leave ends run.
func (k *keeper) leave() { close(k.left) }

// run asks the gateway, and keeps what it grants, until ctx ends or leave is
// called. Then it takes all back.
func (k *keeper) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var surveys sync.WaitGroup
	defer surveys.Wait()
	defer k.releaseAll(ctx)
	surveys.Go(func() {
		select {
		case <-k.left:
			cancel()
		case <-ctx.Done():
		}
	})
	defer cancel() // before anything is waited for
	for ctx.Err() == nil {
		if k.wantsSurvey(time.Now()) {
			k.survey(ctx, &surveys)
		}
		k.tend(ctx)
		k.m.settle()
		timer := time.NewTimer(time.Until(k.next()))
		select {
		case <-ctx.Done():
		case <-k.nudges:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// state is what is known.
func (k *keeper) state() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := State{Gateway: k.road.gateway, Internal: k.road.source}
	for _, c := range k.clients {
		s.Answered = append(s.Answered, c.protocol())
		if !s.External.IsValid() {
			s.External = c.address()
		}
	}
	for _, l := range k.leases {
		s.Mappings = append(s.Mappings, l.Mapping)
		s.External = l.External.Addr()
	}
	slices.SortFunc(s.Mappings, func(a, b Mapping) int { return int(a.Port.Number) - int(b.Port.Number) })
	return s
}

// answer is the mapping of a port, or whether there may be one soon.
func (k *keeper) answer(p Port) (held *Mapping, open bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.leases[p]; l != nil {
		m := l.Mapping
		return &m, true
	}
	return nil, p.Six == k.road.source.Is6() && k.refused[p].times == 0 && (k.asked.IsZero() || len(k.clients) > 0 || k.asking > 0)
}

func (k *keeper) settled() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tried && k.asking == 0
}

// wantsSurvey says whether it is time to find out what the gateway speaks.
func (k *keeper) wantsSurvey(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.clients) > 0 || k.asking > 0 {
		return false
	}
	return k.look || !now.Before(k.surveyAt())
}

// surveyAt is when a gateway that speaks nothing is asked again. Call it with mu
// held.
func (k *keeper) surveyAt() time.Time {
	if k.asked.IsZero() {
		return time.Time{}
	}
	return k.asked.Add(backOff(k.silent))
}

// backOff is the wait after so many failures in a row.
func backOff(times int) time.Duration {
	if times <= 0 {
		return 0
	}
	return min(retryMost, retryFirst<<min(times-1, 10))
}

// survey asks by all protocols side by side. It returns when one has answered
// and the better ones have had a moment more, or all have ended; those still
// under way add themselves later.
func (k *keeper) survey(ctx context.Context, surveys *sync.WaitGroup) {
	finders := []func(context.Context) (client, error){
		func(ctx context.Context) (client, error) { return findPCP(ctx, k.m.cfg.Net, k.road) },
	}
	if k.road.gateway.Is4() {
		finders = append(finders, func(ctx context.Context) (client, error) { return findPMP(ctx, k.m.cfg.Net, k.road) })
		if k.m.cfg.TCP != nil {
			finders = append(finders, func(ctx context.Context) (client, error) { return findUPnP(ctx, k.m.cfg.Net, k.m.cfg.TCP, k.road) })
		}
	}
	k.mu.Lock()
	k.asking, k.asked, k.look = len(finders), time.Now(), false
	k.silent++
	k.mu.Unlock()
	ready := make(chan Protocol, len(finders))
	over := make(chan struct{})
	var all sync.WaitGroup
	for i, find := range finders {
		all.Add(1)
		surveys.Go(func() {
			defer all.Done()
			c, err := find(ctx)
			k.found(Protocol(i), c, err)
			if err == nil {
				ready <- Protocol(i)
			}
		})
	}
	surveys.Go(func() {
		all.Wait()
		close(over)
	})
	select {
	case p := <-ready:
		if p != PCP {
			wait(ctx, better, over)
		}
	case <-over:
	}
}

// wait waits for d, or the end of ctx or of over.
func wait(ctx context.Context, d time.Duration, over <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-over:
	case <-ctx.Done():
	}
}

// found takes in what one protocol's search came to.
func (k *keeper) found(by Protocol, c client, err error) {
	if err != nil {
		k.m.failed(k.road.gateway, by, err)
	}
	k.mu.Lock()
	k.asking--
	if err == nil {
		k.silent, k.tried = 0, false
		k.swept = k.swept && by != UPnP
		clear(k.refused) // this one has not been asked yet
		k.clients = append(k.clients, c)
		slices.SortFunc(k.clients, func(a, b client) int { return int(a.protocol()) - int(b.protocol()) })
	}
	k.mu.Unlock()
	k.wake(false)
	k.m.settle()
}

// next is when run has something to do again, as far as is known.
func (k *keeper) next() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.clients) == 0 {
		if k.asking > 0 {
			return time.Now().Add(retryMost) // found wakes run
		}
		return k.surveyAt()
	}
	next := time.Now().Add(retryMost)
	for _, l := range k.leases {
		next = sooner(next, l.renew)
	}
	for _, r := range k.refused {
		next = sooner(next, r.at)
	}
	return next
}

func sooner(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// tend asks for what is wanted and due, and takes back what is not wanted.
func (k *keeper) tend(ctx context.Context) {
	wanted := k.m.ports(k.road.source.Is6())
	k.mu.Lock()
	clients, look := slices.Clone(k.clients), k.look && len(k.clients) > 0
	if look {
		k.look, k.asked = false, time.Now()
	}
	unwanted := make([]*lease, 0, len(k.leases))
	for p, l := range k.leases {
		if !slices.Contains(wanted, p) {
			unwanted = append(unwanted, l)
		}
	}
	maps.DeleteFunc(k.refused, func(p Port, _ refusal) bool { return !slices.Contains(wanted, p) }) // or next would be in the past for ever
	k.mu.Unlock()
	for _, l := range unwanted {
		k.release(ctx, l)
	}
	k.sweep(ctx, wanted)
	if len(clients) == 0 {
		wanted = nil
	}
	lost := false
	for _, p := range wanted {
		lost = k.tendOne(ctx, clients, p, look) || lost
	}
	if lost { // what was renewed before the loss showed is gone as well
		for _, p := range wanted {
			k.tendOne(ctx, clients, p, true)
		}
	}
	k.setTried(len(clients))
}

// setTried notes that so many clients were asked for everything.
func (k *keeper) setTried(clients int) {
	k.mu.Lock()
	k.tried = clients == len(k.clients)
	k.mu.Unlock()
}

// tendOne asks for one port if that is due, or in any case. It says whether
// the gateway has lost its state.
func (k *keeper) tendOne(ctx context.Context, clients []client, p Port, anyway bool) (lost bool) {
	now := time.Now()
	k.mu.Lock()
	l, r := k.leases[p], k.refused[p]
	k.mu.Unlock()
	switch {
	case anyway:
	case l != nil && now.Before(l.renew), l == nil && now.Before(r.at):
		return false
	}
	external := netip.AddrPortFrom(netip.Addr{}, p.outside())
	if l != nil {
		external = l.External
		clients = append([]client{l.by}, slices.DeleteFunc(slices.Clone(clients), func(c client) bool { return c == l.by })...)
	}
	var longest time.Duration
	gone := true
	for _, c := range clients {
		g, err := k.hold(ctx, c, p, external)
		if err == nil {
			k.granted(p, c, g)
			return g.lost
		}
		if ctx.Err() != nil {
			return false
		}
		k.m.failed(k.road.gateway, c.protocol(), err)
		longest = max(longest, waitOf(err))
		gone = gone && isSilence(err)
	}
	k.denied(p, longest, gone)
	return false
}

// hold is the client's, which has a moment more when ctx ends: a mapping whose
// answer was not read could not be taken back.
func (k *keeper) hold(ctx context.Context, c client, p Port, external netip.AddrPort) (grant, error) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(leaveWithin/2, cancel) })
	defer stop()
	g, err := c.hold(longer, p, external)
	if err == nil && p.External != 0 && g.external.Port() != p.External {
		_ = c.release(longer, p, g.external) // what stays of it ends with its lease
		return grant{}, faultf(otherPort, "%v: the gateway gives port %d outside where %d is wanted", c.protocol(), g.external.Port(), p.External)
	}
	return g, err
}
