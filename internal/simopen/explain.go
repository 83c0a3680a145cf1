package simopen

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"rendezvous/internal/path"
)

// explain says why nothing was proven.
func (c *climb) explain(patience time.Duration) error {
	c.mu.Lock()
	n := c.count
	c.mu.Unlock()
	seen := fmt.Sprintf("%d SYNs to %s in %v from the instant that both sides fired: %d answered by RST, %d by nothing, %d by ICMP or no route; %d connections came in",
		n.tries, list(c.allowed), patience, n.refused, n.silent, n.unreachable, n.accepted)
	if n.strangers > 0 {
		seen += fmt.Sprintf(", and %d from addresses that aren't the peer's, turned away", n.strangers)
	}
	f := &path.Failure{Reason: "no-answer", Evidence: seen}
	switch {
	case n.connected+n.accepted > 0:
		f.Evidence = fmt.Sprintf("%d TCP connections were made with the peer's addresses, but the peer did not prove itself on any; %s", n.connected+n.accepted, seen)
		f.Advice = "a proxy, or another host behind the peer's address, answers there; the relay gets by without it"
	case n.held > 0:
		return path.FloodOfRefusals(seen)
	case n.refused > n.silent:
		f.Reason = "refused"
		f.Advice = "the peer's router or host answers SYNs by RST and none of the peer's SYNs passed ours: one of the two changes the port with the destination, or the peer did not fire"
	case n.unreachable > 0 && n.unreachable >= n.silent:
		f.Evidence += fmt.Sprintf(" (the last: %v)", n.last)
		f.Advice = "a firewall forbids TCP to the peer, or there is no route to it"
	case c.rung.Leaves:
		f.Reason = "syn-blocked"
		f.Evidence = "outgoing TCP works from the very port (STUN over TCP was answered), yet no SYN of the peer's came in, nor any RST; " + seen
		f.Advice = "a firewall drops incoming SYNs even from an address that is being called, on one of the two sides; where it is yours, allow TCP from the peer, or leave it to fake TCP and the relay"
	default:
		f.Advice = "if a firewall of yours forbids outgoing TCP to any port, allow it; otherwise the relay has to do"
	}
	return f
}

func list(addrs []netip.AddrPort) string {
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return strings.Join(all, ", ")
}

func noCandidates(refused []string) error {
	f := &path.Failure{Reason: "no-candidates", Skipped: true,
		Evidence: "the peer offered no address for TCP",
		Advice:   "check with `agent netcheck` on the peer that TCP passes there"}
	if len(refused) > 0 {
		f.Evidence = "none of the peer's addresses may be connected to: " + strings.Join(refused, ", ")
	}
	return f
}
