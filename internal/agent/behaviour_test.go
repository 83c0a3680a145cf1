package agent

import (
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// What an agent finds out of the NATs before it, and tells its peers: mapping,
// filtering, hairpinning, and whether there are several outside addresses.
//
// S4-12
func TestWhatAgentsFindOutOfTheirNAT(t *testing.T) {
	pooled := natlab.Cellular()
	pooled.Pooling = true
	open := natlab.Home()
	open.Filtering = natlab.EndpointIndependent
	const ei, apd = proto.Behaviour_ENDPOINT_INDEPENDENT, proto.Behaviour_ADDRESS_AND_PORT_DEPENDENT
	for name, c := range map[string]struct {
		carrier, router    natlab.Behaviour
		also               []string
		mapping, filtering proto.Behaviour_Dependence
		hairpin, several   bool
	}{
		"a home":                         {natlab.Behaviour{}, natlab.Home(), nil, ei, apd, false, false},
		"one that hairpins":              {hairpins(natlab.Home()), hairpins(natlab.Home()), nil, ei, apd, true, false},
		"only the carrier hairpins":      {hairpins(natlab.Carrier()), natlab.Home(), nil, ei, apd, true, false},
		"only the router hairpins":       {natlab.Carrier(), hairpins(natlab.Home()), nil, ei, apd, false, false},
		"a pool":                         {pooled, natlab.Home(), []string{"198.51.100.2", "198.51.100.3"}, apd, apd, false, true},
		"a carrier that lets all in":     {open, open, nil, ei, ei, false, false},
		"the narrower filter is the one": {open, natlab.Home(), nil, ei, apd, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				carrier := w.lab.NAT("carrier", "198.51.100.1", c.carrier, natlab.Also(c.also...))
				host := carrier.NAT("router", "100.64.0.2", c.router).Host("home", "192.168.1.2")
				home := w.agent(host, "home", nil)
				w.settle()
				time.Sleep(5 * time.Second)
				b := home.here.Load().behaviour
				if b.GetMapping() != c.mapping || b.GetFiltering() != c.filtering || b.GetHairpin() != c.hairpin || (b.GetAddresses() > 1) != c.several {
					t.Errorf("found %v", b)
				}
			})
		})
	}
}
