package agent

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/proto"
)

// raced are the coordinator's ports that its main sockets were sent from lately,
// while they were tried side by side. Where the coordinator's host leads several
// of them to one (striping), its connection tracking shows all flows but the
// first at other source ports than they have: what STUN, and the coordinator,
// see of those is not our NAT's mapping.
type raced struct {
	mu   sync.Mutex
	when map[netip.AddrPort]time.Time
}

// racedFor is how long a flow may be in that connection tracking after its last
// datagram (nf_conntrack_udp_timeout_stream), with the time of an attempt.
const racedFor = 2*time.Minute + dialWithin

// try notes that a main socket sends there from now on.
func (r *raced) try(now time.Time, to netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.when == nil {
		r.when = make(map[netip.AddrPort]time.Time)
	}
	for at, t := range r.when {
		if now.Sub(t) > racedFor {
			delete(r.when, at)
		}
	}
	r.when[netip.AddrPortFrom(to.Addr().Unmap(), to.Port())] = now
}

// doubtful are the servers that may see another port than our NAT's: where the
// connection's address has doors, and we sent to one that it translates besides
// another that leads to the same. main is the port that it leads them to.
func (r *raced) doubtful(now time.Time, at netip.Addr, doors []Door, main uint16) (out []netip.AddrPort) {
	listens := portsOf(doors, proto.Transport_TRANSPORT_UDP)
	if len(listens) == 0 {
		return nil // who tells no doors stripes nothing
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	translated := false
	for to, t := range r.when {
		own := slices.Contains(listens, to.Port())
		if to.Addr() == at && now.Sub(t) <= racedFor && (!own || to.Port() == main) {
			out = append(out, to)
			translated = translated || !own
		}
	}
	if len(out) < 2 || !translated {
		return nil
	}
	return out
}
