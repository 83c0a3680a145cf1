package pairs

import (
	"fmt"
	"strings"
	"time"

	"rendezvous/internal/natlab"
)

// Kind is what stands between a host and the internet, as one row and one
// column of the matrix.
type Kind struct {
	Name  string // short, without spaces
	Words string // what it is
	// Outer is the NAT next to the internet and Inner one behind it; nil: none.
	Outer, Inner *natlab.Behaviour
	// IPv6 gives the host an address of a firewalled prefix.
	IPv6, NoIPv4 bool
	// NoUDP drops UDP on the host's link, OnlyHTTPS all but TCP 443 too.
	NoUDP, OnlyHTTPS bool
}

// otherUsers is how many mappings a second others make behind a sequential
// NAT: a busy home, or a carrier's block that a few subscribers share.
const otherUsers = 10

// band is the range of a carrier's sequential and random ports (RFC 6335's
// dynamic ports and the user ports above 10000).
const (
	bandLow  = 10000
	bandHigh = 65535
)

func behaviour(m, f natlab.Rule, p natlab.Ports) natlab.Behaviour {
	return natlab.Behaviour{Mapping: m, Filtering: f, Ports: p, InboundRefresh: true,
		Lifetime: 120 * time.Second, Unreplied: 60 * time.Second}
}

func with(b natlab.Behaviour, change func(*natlab.Behaviour)) *natlab.Behaviour {
	change(&b)
	return &b
}

func just(b natlab.Behaviour) *natlab.Behaviour { return &b }

// The words of rules that names are made of.
var (
	rules  = []natlab.Rule{natlab.EndpointIndependent, natlab.AddressDependent, natlab.AddressAndPortDependent}
	short  = map[natlab.Rule]string{natlab.EndpointIndependent: "ei", natlab.AddressDependent: "ad", natlab.AddressAndPortDependent: "apd"}
	random = natlab.Random(1024, 65535)
)

// Kinds are those of the matrix, in its order.
func Kinds() []Kind {
	const apd = natlab.AddressAndPortDependent
	list := []Kind{{Name: "public", Words: "no NAT, no firewall"}}
	for _, m := range rules {
		for _, f := range rules {
			b := behaviour(m, f, natlab.Preserved())
			list = append(list, Kind{Name: short[m] + "-" + short[f], Outer: &b,
				Words: fmt.Sprintf("%s mapping, %s filtering, ports preserved", m, f)})
		}
	}
	block := natlab.Random(20000, 22047)
	carrier := behaviour(natlab.EndpointIndependent, apd, block)
	open := behaviour(natlab.EndpointIndependent, natlab.EndpointIndependent, block)
	sequential := behaviour(apd, apd, natlab.Sequential(1, bandLow, bandHigh))
	sequential.Traffic = otherUsers
	home := behaviour(natlab.EndpointIndependent, apd, natlab.Preserved())
	list = append(list,
		Kind{Name: "ei-apd-random", Outer: just(behaviour(natlab.EndpointIndependent, apd, random)), Words: "as ei-apd, ports not preserved"},
		Kind{Name: "ad-apd-random", Outer: just(behaviour(natlab.AddressDependent, apd, random)), Words: "as ad-apd, any port"},
		Kind{Name: "apd-apd-seq", Outer: &sequential, Words: fmt.Sprintf("as apd-apd, each port one above the last; others take %d a second", otherUsers)},
		Kind{Name: "apd-apd-seq2", Outer: with(sequential, func(b *natlab.Behaviour) { b.Ports = natlab.Sequential(2, bandLow, bandHigh) }), Words: "the same by steps of 2"},
		Kind{Name: "apd-apd-random", Outer: just(behaviour(apd, apd, random)), Words: "as apd-apd, any port"},
		Kind{Name: "apd-apd-random-512", Outer: with(behaviour(apd, apd, random), func(b *natlab.Behaviour) { b.Mappings = 512 }), Words: "the same, at most 512 mappings of a subscriber"},
		Kind{Name: "cgn+home", Outer: &carrier, Inner: &home, Words: "ei-apd behind a carrier's NAT: the same in a block of 2,048 ports, not preserved"},
		Kind{Name: "cgn-open+home", Outer: &open, Inner: &home, Words: "ei-apd behind a carrier's NAT of endpoint-independent filtering, in such a block"},
		Kind{Name: "cgn+open", Outer: &carrier, Inner: just(behaviour(natlab.EndpointIndependent, natlab.EndpointIndependent, natlab.Preserved())), Words: "ei-ei behind the carrier's NAT of cgn+home"},
		Kind{Name: "cgn+apd", Outer: &carrier, Inner: just(behaviour(apd, apd, natlab.Preserved())), Words: "apd-apd behind it"},
		Kind{Name: "cgn+random", Outer: &carrier, Inner: just(behaviour(apd, apd, random)), Words: "apd-apd-random behind it"},
		Kind{Name: "cgn-seq+home", Outer: &sequential, Inner: &home, Words: "ei-apd behind a carrier's NAT like apd-apd-seq"},
		Kind{Name: "cgn-random+home", Outer: just(behaviour(apd, apd, block)), Inner: &home, Words: "ei-apd behind a carrier's NAT like apd-apd-random, in a block of 2,048 ports"},
		Kind{Name: "30s", Outer: with(home, func(b *natlab.Behaviour) { b.Lifetime, b.Unreplied = 30*time.Second, 30*time.Second }), Words: "as ei-apd, mappings live for 30 s"},
		Kind{Name: "rejects", Outer: with(home, func(b *natlab.Behaviour) { b.Unsolicited = natlab.RejectUnsolicited }), Words: "as ei-apd; what is unsolicited is answered by ICMP, a SYN by RST"},
		Kind{Name: "accepts", Outer: just(natlab.Poisonable()), Words: "Linux's masquerade whose INPUT chain accepts: what is unsolicited takes the port that ours would have had"},
		Kind{Name: "no-udp", Outer: &home, NoUDP: true, Words: "ei-apd, UDP is dropped, TCP passes"},
		Kind{Name: "https-only", Outer: &home, NoUDP: true, OnlyHTTPS: true, Words: "only TCP to port 443 passes"},
		Kind{Name: "ipv6", Outer: just(behaviour(apd, apd, random)), IPv6: true, Words: "IPv6 behind a firewall like ei-apd's filter; IPv4 as apd-apd-random"},
		Kind{Name: "ipv6-only", Outer: &home, IPv6: true, NoIPv4: true, Words: "IPv6 behind such a firewall, and no IPv4"},
	)
	return list
}

// Find is the kind of a name, false where there is none.
func Find(name string) (Kind, bool) {
	for _, k := range Kinds() {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}

// jitter of each link; loss would only add noise to what is compared.
const jitter = time.Millisecond

// publicAddr and privateAddr are the addresses of a world's host number n.
func publicAddr(n int) string { return fmt.Sprintf("45.%d.%d.%d", 1+n/62500, n/250%250, 1+n%250) }

func privateAddr(n int) string { return fmt.Sprintf("192.168.%d.%d", n/250, 2+n%250) }

// place puts the host number n of a world behind a NAT of kind k of its own.
// Its link has the given one-way delay.
func (k Kind) place(lab *natlab.Lab, n int, delay time.Duration) (*natlab.Host, []*natlab.NAT) {
	name := fmt.Sprintf("%s-%d", strings.ReplaceAll(k.Name, "+", "-"), n)
	public := publicAddr(n)
	link := []natlab.Option{natlab.Delay(delay), natlab.Jitter(jitter)}
	if k.NoUDP {
		link = append(link, natlab.NoUDP(true))
	}
	if k.OnlyHTTPS {
		link = append(link, natlab.TCPPorts(443))
	}
	if k.Outer == nil {
		return lab.Host(name, public, link...), nil
	}
	six := fmt.Sprintf("2001:db8:%x:", 0x1000+n)
	if k.IPv6 {
		link = append(link, natlab.Prefix(six+":/64"))
	}
	outer := lab.NAT(name+"-outer", public, *k.Outer, link...)
	nats, inner := []*natlab.NAT{outer}, outer
	if k.Inner != nil {
		inner = outer.NAT(name+"-inner", "100.64.0.2", *k.Inner)
		nats = append(nats, inner)
	}
	at, also := privateAddr(n), []natlab.Option(nil)
	switch {
	case k.NoIPv4:
		at = six + ":2"
	case k.IPv6:
		also = append(also, natlab.Also(six+":2"))
	}
	return inner.Host(name, at, also...), nats
}
