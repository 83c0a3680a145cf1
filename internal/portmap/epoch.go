package portmap

import "time"

// epoch is what a gateway's clock last showed. Gateways of PCP and NAT-PMP
// count seconds since they lost their state; one that shows less than it must
// has lost it (RFC 6887 section 8.5; RFC 6886 section 3.6 is as good as that).
type epoch struct {
	seen   bool
	server uint32
	at     time.Time
}

// lost takes in what an answer shows, and says whether mappings from before it
// are gone.
func (e *epoch) lost(now time.Time, server uint32) bool {
	before := *e
	*e = epoch{seen: true, server: server, at: now}
	if !before.seen {
		return false
	}
	if int64(server)+1 < int64(before.server) {
		return true
	}
	passed := int64(now.Sub(before.at) / time.Second)
	counted := int64(server) - int64(before.server)
	return passed+2 < counted-counted/16 || counted+2 < passed-passed/16
}
