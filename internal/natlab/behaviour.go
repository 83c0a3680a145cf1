package natlab

import "time"

// Rule is how much of the remote address a NAT looks at, for mapping (RFC
// 4787 section 4.1) and for filtering (section 5).
type Rule uint8

// The three rules.
const (
	EndpointIndependent Rule = iota
	AddressDependent
	AddressAndPortDependent
)

// String is the word that netcheck prints for it.
func (r Rule) String() string {
	return [...]string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}[r%3]
}

// Ports is how a NAT chooses the external port of a new mapping.
type Ports struct {
	way       portWay
	step      int
	low, high uint16
}

type portWay uint8

const (
	preserved portWay = iota
	sequential
	random
)

// Preserved keeps the internal port, or takes a random one when that is
// taken. It is the zero Ports.
func Preserved() Ports { return Ports{low: 1024, high: 65535} }

// Sequential takes the last port plus step, beginning at low and going round
// within low to high.
func Sequential(step int, low, high uint16) Ports {
	return Ports{way: sequential, step: step, low: low, high: high}
}

// Random takes any port of low to high: a carrier's port block when that is
// narrow.
func Random(low, high uint16) Ports { return Ports{way: random, low: low, high: high} }

// Preserved says whether p keeps the internal port.
func (p Ports) Preserved() bool { return p.way == preserved }

// Random says whether p takes any port of its range.
func (p Ports) Random() bool { return p.way == random }

func (p Ports) withDefaults() Ports {
	if p.low == 0 && p.high == 0 {
		p.low, p.high = 1024, 65535
	}
	if p.way == sequential && p.step == 0 {
		p.step = 1
	}
	return p
}

// Unsolicited is what a NAT does with a datagram from outside that is for
// nobody inside. To a SYN all but the first answer with RST, as a router does
// on which nobody listens.
type Unsolicited uint8

// The ways to treat it.
const (
	// DropUnsolicited forgets it without a trace.
	DropUnsolicited Unsolicited = iota
	// AcceptUnsolicited takes it as addressed to the NAT itself, as Linux does
	// whose INPUT chain accepts: that makes a connection tracking entry which
	// holds the port towards this sender, for 30 s after its last datagram. A
	// later outbound flow to that sender gets another port: its probes then
	// never match. A datagram sent out first prevents it.
	AcceptUnsolicited
	// RejectUnsolicited answers with ICMP, which no UDP socket here hears.
	RejectUnsolicited
)

// Behaviour is what a NAT does, in the words of RFC 4787. The zero value maps
// and filters independently of the endpoint and preserves ports.
type Behaviour struct {
	Mapping   Rule
	Filtering Rule
	Ports     Ports
	// Lifetime of a mapping after its last outbound datagram; 0 is 2 min.
	Lifetime time.Duration
	// Unreplied is the lifetime of a flow until it is 2 s old and has been
	// answered; 0 is Lifetime. Linux: 30 s, then 120 s.
	Unreplied time.Duration
	// Absolute ends a mapping that long after it was made, whatever is sent; 0:
	// it lives as long as it is refreshed. Some carriers: 50 to 75 s.
	Absolute time.Duration
	// InboundRefresh lets inbound datagrams extend the lifetime too.
	InboundRefresh bool
	// Hairpin lets those inside reach each other by their external addresses.
	Hairpin bool
	// Unsolicited input.
	Unsolicited Unsolicited
	// Overload gives one external port to several mappings as long as their
	// remote addresses differ, as Linux does; otherwise it is unique.
	Overload bool
	// Sessions is the limit of flows for each host inside; 0 is none.
	Sessions int
	// Mappings is the limit of mappings for each host inside, as of a
	// subscriber of a carrier's (RFC 6888 REQ-4); 0 is none. A home router
	// behind a carrier is one host there.
	Mappings int
	// Traffic is how many mappings a second others behind the NAT make: they
	// take sequential ports in between.
	Traffic float64
	// Pooling takes any of the NAT's addresses for each new mapping ("arbitrary"
	// in RFC 4787 section 4.1); otherwise an inside host keeps one.
	Pooling bool
	// Open6 lets all IPv6 in; otherwise IPv6 is filtered by Filtering.
	Open6 bool
	// NAT66 translates IPv6 too, to the NAT's own addresses (see Also): its hosts
	// have unique local ones as a rule. Otherwise IPv6 is filtered only.
	NAT66 bool
	// TCP is the behaviour towards TCP; nil is the same as towards UDP, but for
	// the lifetimes. See WithTCP.
	TCP *Behaviour
	// ResetForgets says that an RST ends a TCP mapping that has been answered
	// already; one that has not always ends so, as with Linux.
	ResetForgets bool
}

// WithTCP is b with another behaviour towards TCP: change is given a copy of
// b. Lifetimes that it leaves at 0 are 2 h 4 min, and 4 min until answered.
func (b Behaviour) WithTCP(change func(*Behaviour)) Behaviour {
	c := b.forTCP()
	change(&c)
	b.TCP = &c
	return b
}

// forTCP is what rules for TCP.
func (b Behaviour) forTCP() Behaviour {
	if b.TCP != nil {
		b = *b.TCP
	} else {
		b.Lifetime, b.Unreplied, b.Absolute = 0, 0, 0
	}
	b.TCP = nil
	return b
}

// withTCPDefaults is withDefaults with RFC 5382's lifetimes (REQ-5).
func (b Behaviour) withTCPDefaults() Behaviour {
	if b.Lifetime == 0 {
		b.Lifetime = 2*time.Hour + 4*time.Minute
	}
	if b.Unreplied == 0 {
		b.Unreplied = 4 * time.Minute
	}
	return b.withDefaults()
}

func (b Behaviour) withDefaults() Behaviour {
	b.Ports = b.Ports.withDefaults()
	if b.Lifetime == 0 {
		b.Lifetime = 2 * time.Minute // RFC 4787 REQ-5: at least
	}
	if b.Unreplied == 0 {
		b.Unreplied = b.Lifetime
	}
	return b
}

// Home is the usual home router, Linux's masquerade that drops unsolicited
// input: endpoint-independent mapping, address-and-port-dependent filtering,
// ports preserved.
func Home() Behaviour {
	return Behaviour{
		Filtering: AddressAndPortDependent, Overload: true, InboundRefresh: true,
		Lifetime: 120 * time.Second, Unreplied: 30 * time.Second, // nf_conntrack_udp_timeout_stream, _timeout
	}
}

// Poisonable is Home whose own INPUT chain accepts: an early probe steals the
// port (see AcceptUnsolicited).
func Poisonable() Behaviour {
	b := Home()
	b.Unsolicited = AcceptUnsolicited
	return b
}

// Carrier is a carrier's NAT: endpoint-independent mapping to random ports of
// a block.
func Carrier() Behaviour {
	return Behaviour{
		Filtering: AddressAndPortDependent, Ports: Random(20000, 20999),
		InboundRefresh: true, Lifetime: 60 * time.Second,
	}
}

// Cellular is the hardest that is common: each destination gets a random port
// of its own.
func Cellular() Behaviour {
	return Behaviour{
		Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent, Ports: Random(1024, 65535),
		Lifetime: 60 * time.Second,
	}
}
