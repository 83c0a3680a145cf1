package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"rendezvous/internal/path"
)

// noHairpin explains a punch that failed between two agents behind one NAT that
// was seen to have no hairpinning (RFC 4787 section 6); nil where that is not so.
func (a *Agent) noHairpin(mine gathered, theirs offered) *path.Failure {
	known := a.studiedHere()
	i := slices.IndexFunc(mine.outside, func(ip netip.Addr) bool { return slices.Contains(theirs.outside, ip) && ip.Is4() })
	if i < 0 || known == nil || known.GetHairpin() {
		return nil
	}
	return &path.Failure{
		Reason: "no-hairpinning",
		Evidence: fmt.Sprintf("both agents are behind the NAT at %v, which leads nothing back in that is sent from behind it to its own outside address "+
			"(no hairpinning), and the peer's own address did not answer: the two networks are apart, or clients are kept from each other", mine.outside[i]),
		Advice: "on one LAN, turn client or guest isolation off; behind one router, turn NAT loopback on or route between its two networks; " +
			"behind one carrier, turn PCP or UPnP on in the home routers, or use IPv6",
	}
}
