package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

const (
	// watchEvery is how often the host's addresses are looked at where nobody
	// tells that they change. A lost path is noticed by its probes sooner; this
	// finds new networks.
	watchEvery = 2 * time.Second
	// watchSeldom is the same where the kernel tells, in case it forgets to.
	watchSeldom = 30 * time.Second
	// settleFor is how long one change is given to bring the next: an address
	// goes, another comes, then its routes.
	settleFor = 30 * time.Millisecond
	// moveProof is how long the direct path has to show, beside its round trips,
	// that it goes on from where the host is now.
	moveProof = 200 * time.Millisecond
)

// watchNetwork notices a change of the host's addresses or default routes and
// makes everything that depends on them look again at once.
func (a *Agent) watchNetwork(ctx context.Context) {
	told := a.changes(ctx)
	a.nature.own.stale(told != nil)
	last := a.surroundings()
	tick := time.NewTicker(watchPace(told))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case _, ok := <-told:
			if !ok {
				told = nil
				tick.Reset(watchPace(told))
			} else if a.nature.own.stale(true); !path.Wait(ctx, settleFor) {
				return
			}
		}
		a.nature.own.stale(told != nil)
		now := a.surroundings()
		if now == last {
			continue
		}
		if last = now; now == "" {
			continue // unplugged
		}
		a.cfg.Log.Info().Str("addresses", now).Msg("the network here has changed")
		a.setKeepalives()
		a.link.check()
		a.mapper.look()
		notice(a.nature.stale)
		for _, p := range a.peers.all() {
			p.networkChanged()
		}
		a.public.refresh()
	}
}

// changes is where it is told that the network changes; nil where nobody does.
func (a *Agent) changes(ctx context.Context) <-chan struct{} {
	if a.cfg.Host.Changes == nil {
		return nil
	}
	told, err := a.cfg.Host.Changes(ctx)
	if err != nil {
		a.cfg.Log.Debug().Err(err).Dur("every", watchEvery).Msg("changes of the network are looked for")
		return nil
	}
	return told
}

func watchPace(told <-chan struct{}) time.Duration {
	if told == nil {
		return watchEvery
	}
	return watchSeldom
}

// surroundings are the host's addresses and its default gateways, "" where it
// has no address.
func (a *Agent) surroundings() string {
	addrs, err := a.addrs()
	if err != nil {
		return ""
	}
	var out []string
	for _, c := range hostCandidates(addrs, a.cfg.Ignore, []dgram.Conn{a.mains[0].conn}) {
		out = append(out, c.addr.Addr().String())
	}
	if a.cfg.Host.Changes == nil || a.cfg.Host.Gateways == nil || len(out) == 0 {
		return strings.Join(out, " ")
	}
	if gateways, err := a.cfg.Host.Gateways(); err == nil {
		for _, g := range gateways {
			out = append(out, fmt.Sprint("by ", g))
		}
	}
	return strings.Join(out, " ")
}

// networkChanged probes every path at once. Where the direct one does not go on
// from where the host is now, it is punched anew before it counts as dead.
func (p *peer) networkChanged() {
	p.mu.Lock()
	p.tries.retryAt, p.tries.failures = time.Time{}, 0
	p.mu.Unlock()
	for _, as := range p.associations() {
		as.Check()
		as.refreshLegs()
		p.a.tasks.start(func(context.Context) { as.moved() })
	}
}

// moved has a successor follow the direct path, after a change of the network,
// where that owes an answer. A path that goes on from the new address needs none.
func (as *association) moved() {
	paths := as.Paths()
	if len(paths) == 0 || paths[0].State != PathBest || paths[0].Kind != path.DirectUDP || !path.Wait(as.ctx, moveProof+2*paths[0].RTT) || !as.Doubtful() {
		return
	}
	if as.raw != nil {
		as.peer.rawAgain(as)
	} else if as.Ready() && as.renews(time.Now(), false) {
		as.succeed()
	}
}
