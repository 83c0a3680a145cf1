//go:build linux

package main

import (
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// realKind is a kind that nftables can make, on either side of the standard
// scene.
type realKind struct {
	name    string
	nat     netns.NAT
	carrier *netns.NAT // in front of it, at home; the laptop has the carrier's alone
	public  bool
}

func realKinds() []realKind {
	carrier := netns.CarrierGrade(20000, 22047)
	return []realKind{
		{name: "public", public: true},
		{name: "masquerade", nat: netns.Masquerade()},
		{name: "open filter", nat: netns.OpenFilter()},
		{name: "cgn", nat: netns.Masquerade(), carrier: &carrier},
		{name: "sequential", nat: netns.SequentialPorts(1)},
		{name: "random", nat: netns.RandomPorts()},
	}
}

// realPair is two hosts of the real programs, the dialing one first.
type realPair struct {
	laptop, home string
	situation    programs.Situation
}

// turned are the pairs that are also met the other way round.
var turned = map[[2]string]bool{
	{"random", "public"}: true, {"random", "open filter"}: true, {"sequential", "masquerade"}: true, {"random", "masquerade"}: true,
}

// realPairs are each two kinds, and hosts that share a NAT.
func realPairs() (out []realPair) {
	kinds := realKinds()
	for i, laptop := range kinds {
		for j, home := range kinds {
			if home.public && laptop.public { // no NAT, nothing to see
				continue
			}
			if j >= i || turned[[2]string{laptop.name, home.name}] {
				out = append(out, realPair{laptop: laptop.name, home: home.name, situation: situation(laptop, home)})
			}
		}
	}
	plain, turning := netns.CarrierGrade(20000, 22047), netns.OpenFilter().Hairpin()
	return append(out,
		realPair{laptop: "same LAN", home: "same LAN", situation: sameLAN()},
		realPair{laptop: "same cgn", home: "same cgn", situation: sameCarrier(plain)},
		realPair{laptop: "same hairpinning cgn", home: "same hairpinning cgn", situation: sameCarrier(turning)})
}

func situation(laptop, home realKind) programs.Situation {
	o := netns.DefaultOptions()
	o.HomeNAT, o.LaptopNAT, o.NoCarrier = home.nat, laptop.nat, home.carrier == nil
	if home.carrier != nil {
		o.CarrierNAT = *home.carrier
	}
	if laptop.carrier != nil {
		o.LaptopNAT = *laptop.carrier
	}
	return programs.Situation{Options: o, Arrange: func(s *netns.Scene) (homeGuise, laptopGuise netns.Guise) {
		if home.public {
			s.Home = programs.Exposed(s, "openhome", "192.0.2.0/25", "192.0.2.10", "laptoprouter", "vps")
		}
		if laptop.public {
			others := []string{"vps", "homerouter"}
			if home.carrier != nil {
				others[1] = "carrier"
			}
			s.Laptop = programs.Exposed(s, "openlaptop", "192.0.2.128/25", "192.0.2.130", others...)
		}
		return homeGuise, laptopGuise
	}}
}

// sameLAN is a laptop at home, behind a router that does not turn round what is
// sent to its own outside address.
func sameLAN() programs.Situation {
	o := netns.DefaultOptions()
	o.HomeNAT, o.NoCarrier = netns.Masquerade(), true
	return programs.Situation{Options: o, Arrange: func(s *netns.Scene) (home, laptop netns.Guise) {
		s.Laptop = s.Beside(s.HomeRouter, "athome", netns.ETH, "192.168.1.3")
		return home, laptop
	}}
}

// sameCarrier is two homes behind one carrier's NAT.
func sameCarrier(carrier netns.NAT) programs.Situation {
	o := netns.DefaultOptions()
	o.HomeNAT, o.CarrierNAT = netns.Masquerade(), carrier
	return programs.Situation{Options: o, Arrange: func(s *netns.Scene) (home, laptop netns.Guise) {
		const wan = "100.64.0.3"
		router := s.Beside(s.Carrier, "nextrouter", netns.WAN, wan)
		s.Laptop = s.Behind(router, "nextdoor", "192.168.3.2", netns.Masquerade(), wan)
		return home, laptop
	}}
}
