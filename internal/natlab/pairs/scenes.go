package pairs

import (
	"fmt"

	"rendezvous/internal/natlab"
)

// Scene is two hosts behind one NAT.
type Scene struct {
	Name, Words string
	Carrier     bool // each host has its own router, and the carrier's NAT is the common one
	Hairpin     bool // of the common NAT
}

// Scenes are those of the matrix.
func Scenes() []Scene {
	return []Scene{
		{"same-lan", "two hosts of one home, its router without hairpinning", false, false},
		{"same-lan-hairpin", "the same with hairpinning", false, true},
		{"same-cgn", "two homes behind one carrier's NAT without hairpinning", true, false},
		{"same-cgn-hairpin", "the same with hairpinning", true, true},
	}
}

// place puts the hosts number n and n+1 behind one NAT.
func (s Scene) place(w *world, n int) (hosts [2]*natlab.Host, nats [2][]*natlab.NAT) {
	home, _ := Find("ei-apd")
	carrier, _ := Find("cgn+home")
	common := *home.Outer
	if s.Carrier {
		common = *carrier.Outer
	}
	common.Hairpin = s.Hairpin
	name := fmt.Sprintf("%s-%d", s.Name, n)
	outer := w.lab.NAT(name+"-common", publicAddr(n), common, natlab.Delay(w.delay), natlab.Jitter(jitter))
	for i := range hosts {
		inner, own := outer, []*natlab.NAT{outer}
		if s.Carrier {
			inner = outer.NAT(fmt.Sprintf("%s-inner-%d", name, i), fmt.Sprintf("100.64.0.%d", 2+i), *home.Outer)
			own = append(own, inner)
		}
		hosts[i] = inner.Host(fmt.Sprintf("%s-%d", name, i), privateAddr(n+i))
		nats[i] = own
	}
	return hosts, nats
}
