package agent

import (
	"fmt"
	"slices"

	"rendezvous/internal/path"
	"rendezvous/proto"
)

// noFamily explains a punch between two agents that have no family of addresses
// in common; nil where they have one. No NAT64 is counted on: what it makes of an
// address is nobody's who signed it.
func noFamily(mine gathered, theirs offered) *path.Failure {
	words := func(list []candidate) string {
		has := func(four bool) bool {
			return slices.ContainsFunc(list, func(c candidate) bool {
				return c.transport == proto.Transport_TRANSPORT_UDP && c.addr.Addr().Unmap().Is4() == four
			})
		}
		switch four, six := has(true), has(false); {
		case four && !six:
			return "IPv4"
		case six && !four:
			return "IPv6"
		}
		return ""
	}
	here, there := words(mine.candidates), words(theirs.all)
	if here == "" || there == "" || here == there {
		return nil
	}
	return &path.Failure{
		Reason:   "no-common-family",
		Evidence: fmt.Sprintf("this agent has %s alone and the peer %s alone, so neither can send to the other; a coordinator that has both relays between them", here, there),
		Advice:   fmt.Sprintf("give this side %s or the peer %s", there, here),
	}
}
