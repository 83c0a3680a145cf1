package agent

import (
	"slices"
	"time"

	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/proto"
)

// Where one side can be reached as it is, the other one alone dials, and there
// is no punch (connection reversal, RFC 5128 section 3.2): the side that is
// reached sends nothing until the peer has come in, or had time to. A firewall
// that was not seen lets it begin after that as ever: what is known of a network
// puts the attempts in order and cancels none.

// reversalMargin is what the peer's first segments have in hand: its clock, the
// pace between its candidates, and one lost datagram.
const reversalMargin = 100 * time.Millisecond

// reachable says whether whoever offers these candidates is reached as it is over
// t. Over TCP it is where its router maps a port to it: what it sent to the peer
// before that has come in would hold the router's entry for the answers, which
// over UDP is seen to apart (gathered.mappedApart). Or it is reached at its own
// address: servers see it there, and UDP from strangers comes in. TCP's filtering
// is not known apart; where UDP's is not either, it may be open.
func reachable(list []candidate, b *proto.Behaviour, t proto.Transport) bool {
	of := func(kind proto.CandidateType) bool {
		return slices.ContainsFunc(list, func(c candidate) bool {
			return c.kind == kind && c.transport == t && c.public()
		})
	}
	if t != proto.Transport_TRANSPORT_UDP && of(proto.CandidateType_CANDIDATE_MAPPED) {
		return true
	}
	if !of(proto.CandidateType_CANDIDATE_HOST) || of(proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE) || punch.NatureOf(b) != punch.Easy {
		return false
	}
	return b.GetFiltering() == proto.Behaviour_ENDPOINT_INDEPENDENT ||
		b.GetFiltering() == proto.Behaviour_DEPENDENCE_UNKNOWN && t != proto.Transport_TRANSPORT_UDP
}

// reversal is how long this side leaves dialing over t to the peer, from the
// instant to fire; 0 where it begins itself. Where both are reachable, the side
// that began the session dials.
func (as *association) reversal(c climbing, t proto.Transport) time.Duration {
	switch best := as.Best(); {
	case best != path.None && !best.Relayed():
		return 0 // it looks for what is better than a direct path: both sides at once
	case !reachable(c.mine.candidates, c.mine.behaviour, t):
		return 0
	case as.initiator && reachable(c.theirs.all, as.theirBehaviour(c.theirs), t):
		return 0
	case t == proto.Transport_TRANSPORT_UDP:
		return c.rtt + reversalMargin
	}
	return 3*c.rtt + reversalMargin // a handshake, and the proof
}
