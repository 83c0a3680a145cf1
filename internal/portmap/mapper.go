package portmap

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Mapper keeps ports of this host mapped on the default gateways, as long as
// Run runs. Its methods may be called from everywhere.
type Mapper struct {
	cfg     Config
	endless unended

	mu      sync.Mutex
	wanted  []Port
	keepers map[road]*keeper
	told    map[string]bool
	looked  chan struct{} // wakes Run
	settles chan struct{} // gets a value when a keeper has done something
	news    chan struct{} // closed, and made anew, at the same instant
	began   bool          // the gateways were looked up once
}

// mostTold bounds how many faults are remembered as told.
const mostTold = 64

// New prepares a Mapper that asks nobody yet.
func New(cfg Config) *Mapper {
	if cfg.Gateways == nil {
		cfg.Gateways = SystemGateways
	}
	return &Mapper{cfg: cfg, endless: unended{list: slices.Clone(cfg.Left)}, keepers: make(map[road]*keeper), told: make(map[string]bool),
		looked: make(chan struct{}, 1), settles: make(chan struct{}, 1), news: make(chan struct{})}
}

// Map asks for a port, until Unmap or the end of Run. It does not wait:
// Config.Changed tells when Mappings has it.
func (m *Mapper) Map(p Port) {
	m.mu.Lock()
	if !slices.Contains(m.wanted, p) {
		m.wanted = append(m.wanted, p)
	}
	m.mu.Unlock()
	m.wakeAll(false)
}

// Unmap takes a port back.
func (m *Mapper) Unmap(p Port) {
	m.mu.Lock()
	m.wanted = slices.DeleteFunc(m.wanted, func(o Port) bool { return o == p })
	m.mu.Unlock()
	m.wakeAll(false)
}

// Await waits until a port that Map asked for is mapped, which it returns, or
// will not be for now: no gateway answers, or all have refused.
func (m *Mapper) Await(ctx context.Context, p Port) (Mapping, bool) {
	for {
		m.mu.Lock()
		news, began := m.news, m.began
		m.mu.Unlock()
		hopes := !began
		for _, k := range m.all() {
			held, open := k.answer(p)
			if held != nil {
				return *held, true
			}
			hopes = hopes || open
		}
		if !hopes {
			return Mapping{}, false
		}
		select {
		case <-news:
		case <-ctx.Done():
			return Mapping{}, false
		}
	}
}

// Look has everything looked at again, as the network or the gateway may have
// changed: gateways that did not answer are asked at once, and mappings are
// renewed.
func (m *Mapper) Look() {
	m.wakeAll(true)
	select {
	case m.looked <- struct{}{}:
	default:
	}
}

func (m *Mapper) wakeAll(look bool) {
	for _, k := range m.all() {
		k.wake(look)
	}
}

// all are the keepers of now. Their methods take locks of their own, and are
// not called under this one.
func (m *Mapper) all() []*keeper {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.keepers))
}

// ports are those that are wanted of one family.
func (m *Mapper) ports(six bool) (list []Port) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.wanted {
		if p.Six == six {
			list = append(list, p)
		}
	}
	return list
}

// Mappings are those that hold now.
func (m *Mapper) Mappings() (all []Mapping) {
	for _, s := range m.States() {
		all = append(all, s.Mappings...)
	}
	return all
}

// States are what is known of the gateways.
func (m *Mapper) States() (all []State) {
	for _, k := range m.all() {
		all = append(all, k.state())
	}
	slices.SortFunc(all, func(a, b State) int { return a.Internal.Compare(b.Internal) })
	return all
}

// Run asks the gateways and keeps what they grant until ctx ends. Then it takes
// all of it back, for which it waits a second at most.
func (m *Mapper) Run(ctx context.Context) {
	var wait sync.WaitGroup
	defer wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		m.meet(ctx, &wait)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-m.looked:
		}
	}
}

// meet begins to ask gateways that are new, and ends with those that are none
// any more.
func (m *Mapper) meet(ctx context.Context, wait *sync.WaitGroup) {
	gateways, err := m.cfg.Gateways()
	if err != nil {
		m.fault(Fault{Reason: unreachable, Err: err})
	}
	addrs, err := m.cfg.Net.Addrs()
	if err != nil {
		m.fault(Fault{Reason: unreachable, Err: err})
	}
	now := roads(gateways, addrs)
	m.mu.Lock()
	m.began = true
	gone := make([]*keeper, 0, len(m.keepers))
	for r, k := range m.keepers {
		if !slices.Contains(now, r) {
			gone = append(gone, k)
			delete(m.keepers, r)
		}
	}
	for _, r := range now {
		if m.keepers[r] != nil {
			continue
		}
		k := newKeeper(m, r)
		m.keepers[r] = k
		wait.Go(func() { k.run(ctx) })
	}
	m.mu.Unlock()
	for _, k := range gone {
		k.leave()
	}
	m.settle()
	if len(gone) > 0 {
		m.changed()
	}
}

// settle tells Check and Await that something has become clear.
func (m *Mapper) settle() {
	m.mu.Lock()
	close(m.news)
	m.news = make(chan struct{})
	m.mu.Unlock()
	select {
	case m.settles <- struct{}{}:
	default:
	}
}

func (m *Mapper) changed() {
	if m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}

// fault tells of a fault once for each gateway, protocol and reason.
func (m *Mapper) fault(f Fault) {
	key := f.Gateway.String() + " " + f.Protocol.String() + " " + f.Reason
	m.mu.Lock()
	known := m.told[key]
	if !known && len(m.told) < mostTold {
		m.told[key] = true
	}
	tell := !known && len(m.told) <= mostTold && m.told[key]
	m.mu.Unlock()
	if tell && m.cfg.Fault != nil {
		m.cfg.Fault(f)
	}
}

// failed sorts out what went wrong with a gateway and tells of it. That nobody
// answers, or that we are being stopped, is nothing to tell of.
func (m *Mapper) failed(gateway netip.Addr, by Protocol, err error) {
	var f *fault
	if !errors.As(err, &f) || f.reason == noAnswer {
		return
	}
	m.fault(Fault{Gateway: gateway, Protocol: by, Reason: f.reason, Err: err})
}

// Check asks the gateways which protocols they speak and for one mapping of
// each port, takes these back, and returns what it learned. ctx bounds it.
func Check(ctx context.Context, cfg Config, ports ...Port) []State {
	m := New(cfg)
	for _, p := range ports {
		m.Map(p)
	}
	run, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() { m.Run(run) })
	defer wait.Wait()
	defer stop()
	for !m.settled() {
		select {
		case <-ctx.Done():
			return m.States()
		case <-m.settles:
		}
	}
	return m.States()
}

// settled says whether all gateways have been asked everything once.
func (m *Mapper) settled() bool {
	m.mu.Lock()
	began := m.began
	m.mu.Unlock()
	return began && !slices.ContainsFunc(m.all(), func(k *keeper) bool { return !k.settled() })
}
