package stripe

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// When a Keeper looks.
const (
	// Look is the time between two looks at the table and at who listens: as long
	// a flushed table stays away, and a new program's port stays ours.
	Look = 5 * time.Second
	// linger is how long a port stays left out after whoever held it is gone: a
	// program that is being updated comes back to its port.
	linger = 5 * time.Minute
)

// System is what a Keeper works on: this host's, or a test's.
type System struct {
	Listening func(addrs []netip.Addr) (Held, error)
	Read      func() (Rules, bool, error)
	Apply     func(Rules) error
	Remove    func() error
}

// Keeper keeps the rules in the table while it runs: it puts them back when
// somebody has flushed the ruleset, and follows those who come to listen.
type Keeper struct {
	// Config is asked at each look, since a host's addresses change.
	Config func() (Config, error)
	System System
	Log    zerolog.Logger

	tenants map[tenant]tenure

	mu     sync.Mutex
	status Status
}

// Status is what became of it.
type Status struct {
	Rules    Rules
	Applied  bool
	Problem  string    // why it is not
	Since    time.Time // the last change of the table
	Restored int       // times that somebody else had changed it
}

// tenant is who holds a port.
type tenant struct {
	tcp  bool
	port uint16
}

// tenure is when a tenant was first and last seen.
type tenure struct{ first, last time.Time }

// Status may be asked while Run runs.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// Run keeps the rules until ctx ends, then takes them out. What goes wrong is
// logged once, shown in Status and tried again: that some ports don't lead here
// is no reason to stop serving.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(Look)
	defer tick.Stop()
	for {
		k.look(time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return k.System.Remove()
		}
	}
}

func (k *Keeper) look(now time.Time) {
	done, err := k.step(now)
	k.mu.Lock()
	before := k.status
	if err != nil {
		k.status.Applied, k.status.Problem = false, err.Error()
	} else {
		k.status.Applied, k.status.Problem, k.status.Rules = true, "", done.rules
	}
	if done.changed {
		k.status.Since = now
	}
	if done.restored {
		k.status.Restored++
	}
	k.mu.Unlock()
	switch {
	case err != nil && before.Problem != err.Error():
		k.Log.Warn().Err(err).Msg("ports are not striped; going on without")
	case done.restored:
		k.Log.Warn().Msg("somebody has changed the table inet " + Table + " of nftables; it is put back")
	case done.changed && !before.Applied:
		k.Log.Info().Msg("striped: " + done.rules.Summary())
	case done.changed:
		k.Log.Debug().Msg("striped anew: " + done.rules.Summary())
	}
}

// outcome is what a look has done.
type outcome struct {
	rules             Rules
	changed, restored bool
}

func (k *Keeper) step(now time.Time) (out outcome, err error) {
	config, err := k.Config()
	if err != nil {
		return out, err
	}
	held, err := k.System.Listening(config.Addrs)
	if err != nil {
		return out, err
	}
	if out.rules, err = Plan(config, k.settled(now, held)); err != nil {
		return out, err
	}
	have, sound, err := k.System.Read()
	if err != nil {
		return out, err
	}
	if sound && have.Equal(out.rules) {
		return out, nil
	}
	last := k.Status()
	out.restored = last.Applied && !(sound && have.Equal(last.Rules))
	out.changed = true
	return out, k.System.Apply(out.rules)
}

// settled are the ports that were held at the first look, all listeners of TCP,
// and of UDP those that were there at two looks: a resolver's sockets come and
// go by the hundred, their answers are known to connection tracking, and the
// table need not follow each. A port that was held stays so for a while.
func (k *Keeper) settled(now time.Time, held Held) Held {
	begin := k.tenants == nil
	if begin {
		k.tenants = map[tenant]tenure{}
	}
	note := func(p Ports, tcp bool) {
		for _, r := range p {
			for port := int(r.First); port <= int(r.Last); port++ {
				who := tenant{tcp, uint16(port)}
				t, known := k.tenants[who]
				switch {
				case known:
				case begin || tcp:
					t.first = now.Add(-Look)
				default:
					t.first = now
				}
				t.last = now
				k.tenants[who] = t
			}
		}
	}
	note(held.UDP, false)
	note(held.TCP, true)
	var udp, tcp []uint16
	for who, t := range k.tenants {
		brief := t.last.Equal(t.first)
		switch {
		case now.Sub(t.last) > linger || brief && t.last.Before(now):
			delete(k.tenants, who)
		case brief:
		case who.tcp:
			tcp = append(tcp, who.port)
		default:
			udp = append(udp, who.port)
		}
	}
	return Held{Single(udp...), Single(tcp...)}
}

// Once applies the rules one time.
func (k *Keeper) Once() (Rules, error) {
	config, err := k.Config()
	if err != nil {
		return Rules{}, err
	}
	held, err := k.System.Listening(config.Addrs)
	if err != nil {
		return Rules{}, err
	}
	rules, err := Plan(config, held)
	if err != nil {
		return Rules{}, err
	}
	return rules, k.System.Apply(rules)
}
