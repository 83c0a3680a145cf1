package agent

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// own is the host's addresses as they were when last looked at. Asking the kernel
// takes a dozen system calls, and much depends on the answer.
type own struct {
	mu      sync.Mutex
	at      time.Time // zero: to be looked at
	told    bool      // the kernel tells of changes
	addrs   []dgram.HostAddr
	err     error
	network string
}

// addrs are the host's addresses. The caller does not change them.
func (a *Agent) addrs() ([]dgram.HostAddr, error) {
	o := &a.nature.own
	o.mu.Lock()
	defer o.mu.Unlock()
	a.lookedUp()
	return o.addrs, o.err
}

// fingerprint tells this network from others, as far as the host's own
// prefixes do: those of its interfaces that lead anywhere. Two networks with
// one fingerprint cost each other a moment, no more.
func (a *Agent) fingerprint() string {
	o := &a.nature.own
	o.mu.Lock()
	defer o.mu.Unlock()
	a.lookedUp()
	return o.network
}

// lookedUp looks the addresses up where that was too long ago. Caller holds the
// mutex.
func (a *Agent) lookedUp() {
	o := &a.nature.own
	holds := watchEvery
	if o.told {
		holds = 2 * watchSeldom // watchNetwork looks sooner
	}
	now := time.Now()
	if !o.at.IsZero() && now.Sub(o.at) < holds {
		return
	}
	o.addrs, o.err = a.cfg.Host.Net.Addrs()
	if o.at, o.network = now, ""; o.err == nil {
		o.network = Fingerprint(o.addrs, a.cfg.Ignore)
	}
}

// stale has the addresses looked up again by who needs them next. told is whether
// the kernel will tell of the next change.
func (o *own) stale(told bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.at, o.told = time.Time{}, told
}

// hasAddr says whether an address is the host's own, or may be.
func (a *Agent) hasAddr(at netip.Addr) bool {
	addrs, err := a.addrs()
	return err != nil || slices.ContainsFunc(addrs, func(h dgram.HostAddr) bool { return h.Addr.Addr().Unmap() == at })
}
