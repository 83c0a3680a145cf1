// Package portmap asks the router of this network for ports that lead to us:
// by PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD, whichever it speaks. In
// IPv6 it asks for pinholes in the router's firewall, by PCP.
//
// A Mapper keeps what it was asked for until its context ends, and then takes
// it back. It speaks to nobody but the default gateway: what others answer is
// dropped, and an address elsewhere that the gateway names is not followed. A
// search for UPnP also goes to its multicast group, as many gateways hear no
// other. Each answer is bounded in time and bytes.
//
// What a gateway grants is its word. A mapping counts when a peer has come in
// by it.
package portmap

import (
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// Protocol is how a gateway is asked.
type Protocol uint8

// The protocols, best first: PCP tells a restart of the gateway and owns its
// mappings, UPnP has the most faults.
const (
	PCP Protocol = iota
	NATPMP
	UPnP
	protocols = iota
)

func (p Protocol) String() string {
	return [...]string{"pcp", "nat-pmp", "upnp"}[p]
}

// Transport is what a port is of, by its number in IP (IANA).
type Transport uint8

// The transports that gateways map ports of.
const (
	TCP Transport = 6
	UDP Transport = 17
)

func (t Transport) String() string {
	if t == TCP {
		return "tcp"
	}
	return "udp"
}

// Port is a port of this host that others shall reach.
type Port struct {
	Transport Transport
	Number    uint16
	// Six says that it is a socket of IPv6; otherwise of IPv4.
	Six bool
	// External is the port wanted outside, where no other will do; 0: any, the
	// same number best.
	External uint16
}

// outside is the external port to ask for: never 0, which some gateways refuse.
func (p Port) outside() uint16 {
	if p.External != 0 {
		return p.External
	}
	return p.Number
}

func (p Port) String() string { return fmt.Sprintf("%s/%d", p.Transport, p.Number) }

// Mapping is what a gateway has granted.
type Mapping struct {
	Port     Port
	Protocol Protocol
	Gateway  netip.Addr
	Internal netip.AddrPort
	External netip.AddrPort
	// Until is when it ends unless it is renewed; zero for one that the gateway
	// keeps until it is told otherwise.
	Until time.Time
}

// Gateway is a default gateway of this host.
type Gateway struct {
	Addr netip.Addr // with a zone, if link-local
	// Interface is the one that leads to it; empty: any whose network it is in.
	Interface string
}

// Fault is what a gateway did wrong, or why it refused.
type Fault struct {
	Gateway  netip.Addr
	Protocol Protocol
	Reason   string // one of few words
	Err      error
}

// Config is what a Mapper lives by.
type Config struct {
	Net dgram.Network
	TCP dgram.Streams // nil: no UPnP
	// Gateways are the default gateways, at most one a family; nil: the
	// system's.
	Gateways func() ([]Gateway, error)
	// Fault is called once for each gateway, protocol and reason; it may be nil.
	Fault func(Fault)
	// Changed is called when Mappings has changed; it may be nil.
	Changed func()
	// Left are mappings without an end that an earlier run may have left. They
	// are deleted when their gateway is met, if it tells them as ours.
	Left []Endless
	// Endless is called with all such mappings that are held or left, when they
	// have changed: whoever keeps them gives them to the next run as Left. It
	// may be nil, and keeps the list but does not change it.
	Endless func([]Endless)
}

// State is what is known of one gateway.
type State struct {
	Gateway  netip.Addr
	Internal netip.Addr // of this host, towards it
	// Answered are the protocols that it speaks, best first.
	Answered []Protocol
	// External is the gateway's address, as it says; invalid where it told none.
	External netip.Addr
	Mappings []Mapping
}

// Bounds. RFC 6886 section 3.3 recommends to ask for 7200 s; an hour is over
// sooner on a gateway that nobody could tell that we are gone.
const (
	leaseWanted = time.Hour
	// leaseLeast is the shortest that is worth keeping: one is renewed at half
	// of its life, and not more often than every 15 s.
	leaseLeast = 30 * time.Second
	// renewMost bounds how long a mapping is believed in that the gateway says
	// to keep for ever.
	renewMost = leaseWanted / 2
	// askWithin bounds one question with all its repetitions (RFC 6886 section
	// 3.1 would repeat for a minute; a router next door needs milliseconds, one
	// that has slept a second).
	askWithin = 3 * time.Second
	askFirst  = 250 * time.Millisecond // doubling (RFC 6886 section 3.1)
	// leaveWithin is how long an exit waits for the gateway.
	leaveWithin = time.Second
	// better is how long a protocol that has answered waits for one that is
	// preferred.
	better = 100 * time.Millisecond
	// A gateway that speaks nothing, or refuses, is asked again after this,
	// doubling up to that.
	retryFirst = time.Minute
	retryMost  = time.Hour
	// lookEvery is how often the default gateway is looked up.
	lookEvery = time.Minute
	// lookAgain is how soon Look has a gateway asked again that was asked.
	lookAgain = 5 * time.Second
	// sourcesSix is for how many IPv6 addresses of this host pinholes are made:
	// the stable one and a temporary one.
	sourcesSix = 2
)

// The words of Fault.Reason.
const (
	badAnswer    = "bad-answer"    // that can't be read, or answers something else
	badPort      = "port-0"        // an external port 0
	otherPort    = "other-port"    // granted, where one alone is of use
	badAddress   = "bad-address"   // an external address that is none
	badLease     = "bad-lease"     // none, or so short that it can't be kept
	otherHost    = "other-host"    // somebody else answered, or the gateway sent us to somebody else
	tooLong      = "too-long"      // an answer without end
	refusedIt    = "refused"       // with a code of the protocol
	noAnswer     = "no-answer"     // none, where it answered before
	noLeaseTerms = "permanent"     // it grants leases only for ever
	restarted    = "epoch"         // it lost its state
	unreachable  = "not-reachable" // the system would not send
)

// fault is an error with its word.
type fault struct {
	reason string
	text   string
	code   int           // of the protocol, where it refused
	wait   time.Duration // how long it wants to be left alone; 0: it did not say
}

func (f *fault) Error() string { return f.text }

func faultf(reason, format string, args ...any) *fault {
	return &fault{reason: reason, text: fmt.Sprintf(format, args...)}
}
