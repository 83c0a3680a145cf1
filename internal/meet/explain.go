package meet

import (
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// sights are what was seen while we knocked, to explain why it led to nothing.
type sights struct {
	heard    int // messages of the peer's that opened
	forged   int // that did not
	from     netip.AddrPort
	dropped  int // what was of no use, or came before the time
	sent     int
	unsent   int
	fault    error // why
	refusals dgram.RefusalCounter
}

// forge notes a message that does not open. Caller holds the meeting's mutex.
func (s *sights) forge(from netip.AddrPort) { s.forged, s.from = s.forged+1, from }

// explain says why nobody was met.
func (m *meeting) explain(took time.Duration) *path.Failure {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, peer := m.seen, m.cfg.Peer
	refused := 0
	if s.refusals != nil {
		refused = s.refusals.Refusals()
	}
	took = took.Round(time.Second)
	switch {
	case s.heard > 0:
		return &path.Failure{Reason: "one-way",
			Evidence: fmt.Sprintf("the peer was heard, %d times, and answered nothing of ours in %v", s.heard, took),
			Advice:   "have its operator compare --peer there with the address that --stun shows here; a firewall there may let nothing in"}
	case s.forged > 0:
		return &path.Failure{Reason: "wrong-secret",
			Evidence: fmt.Sprintf("%d messages came, the last from %v, that this secret does not open", s.forged, s.from),
			Advice:   "compare the secrets on both sides, letter by letter"}
	case s.unsent > 0 && s.unsent == s.sent:
		return &path.Failure{Reason: "not-sent", Evidence: s.fault.Error(), Advice: "is this host's network up, and does it have a route to the peer?"}
	case refused > 0:
		return &path.Failure{Reason: "refused",
			Evidence: fmt.Sprintf("%d datagrams to %v were answered by ICMP as unreachable, and nothing else came in %v", refused, peer, took),
			Advice: "nobody listens there, or a firewall says no: compare --peer with the address that --stun shows on the other side, and the time; " +
				"let the router there drop what nobody asked for in place of rejecting it"}
	}
	return &path.Failure{Reason: "no-answer",
		Evidence: fmt.Sprintf("nothing came from %v in %v", peer, took),
		Advice: "compare with the other operator: --at, whether both ran at once, and whether --peer is what --stun shows on the other side, port included. " +
			"Where --stun, given twice, shows two ports, that NAT gives each destination another one: forward a UDP port there, and name it with --local; or use a coordinator, which can do more"}
}
