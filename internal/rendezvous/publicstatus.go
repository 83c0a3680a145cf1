package rendezvous

import (
	"cmp"
	"slices"
)

// PublicPortStatus is a port that is open to clients without an agent.
type PublicPortStatus struct {
	Port      uint16            `json:"port"`
	Transport string            `json:"transport"` // udp or tcp
	Service   string            `json:"service"`
	Member    string            `json:"member"`
	Online    bool              `json:"online"` // the member's agent is connected, and answers
	Silent    bool              `json:"silent"` // it did not answer when a client waited
	Raw       bool              `json:"raw"`
	Clients   int               `json:"clients"`
	Waiting   int               `json:"waiting"` // new clients without a leg
	Ready     int               `json:"ready"`   // spares that a client can have at once
	Spares    int               `json:"spares"`  // all, those among them that are not bound yet
	Total     uint64            `json:"total_clients"`
	Evicted   uint64            `json:"evicted_clients"`
	Split     uint64            `json:"split_datagrams"` // of clients, that crossed a sealed leg in parts
	Drops     map[string]uint64 `json:"drops"`           // datagrams by reason
}

// status is all public ports, in order.
func (p *publicPorts) status() []PublicPortStatus {
	out := []PublicPortStatus{}
	for _, port := range p.all() {
		owner := p.ownerOf(port)
		st := PublicPortStatus{
			Port: port.number, Transport: "udp", Service: owner.service, Member: owner.member, Online: owner.conn != nil,
		}
		f := port.figures()
		st.Online, st.Silent = st.Online && !f.silent, f.silent
		st.Clients, st.Waiting, st.Ready, st.Spares = f.clients, f.waiting, f.ready, f.spares
		st.Total, st.Evicted, st.Split, st.Drops = f.started, f.evicted, f.split, f.drops
		if port.tcp {
			st.Transport = "tcp"
		} else {
			st.Raw = !port.table.sealed
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b PublicPortStatus) int {
		return cmp.Or(cmp.Compare(a.Transport, b.Transport), cmp.Compare(a.Port, b.Port))
	})
	return out
}
