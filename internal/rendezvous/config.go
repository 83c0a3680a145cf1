package rendezvous

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/share"
)

// DefaultPort and DefaultAlternate are where a coordinator listens unless told
// otherwise: QUIC's port passes more firewalls than any other of UDP's, and
// 3478 is STUN's (RFC 8489 section 18.6).
const (
	DefaultPort      = 443
	DefaultAlternate = 3478
)

// NoAlternate leaves the alternate port out.
const NoAlternate = -1

// Config is what a Server needs. Network and Registry must be set.
type Config struct {
	Network  dgram.Network
	Registry *Registry
	// Listen is the main port, on one address, or on every one of both
	// families where the address is the zero Addr. Port 0 takes a free one.
	Listen netip.AddrPort
	// Alternate is the second port for STUN, relay and control; 0 takes a free
	// one, NoAlternate takes none.
	Alternate int
	// Ports are more ports that agents may come to, for networks that let
	// neither of those two pass. A port that is not to be had is left out.
	Ports []uint16
	// Streams listens on all these ports over TCP too: TLS for agents, STUN,
	// and a short answer to browsers. nil: no TCP.
	Streams dgram.Streams
	// FakeTCP listens on them dressed as TCP, beside Streams. nil: none.
	FakeTCP dgram.FakeTCP
	// Public are the outside addresses. Those that are this host's own get
	// sockets of their own; two of one family make RFC 5780 complete.
	Public []netip.Addr
	// Route is the own address from which agents at the given one are
	// answered, for sockets that are bound to none; nil when not known.
	Route func(netip.Addr) (netip.Addr, bool)
	PortConfig
	Limits  Limits
	Log     zerolog.Logger
	Version string
}

// PortConfig is what else comes of this host's ports.
type PortConfig struct {
	// Stripe is what Status says of port striping; nil where nobody asked for it.
	Stripe func() *StripeStatus
	// Share says what comes to these ports for other programs; nil: nothing.
	Share *share.Config
	// Publish says which ports members may open to clients without an agent;
	// none: no port.
	Publish []PublishRule
}

// Check finds all faults at once.
func (c *Config) Check() error {
	var faults []error
	if c.Network == nil || c.Registry == nil {
		faults = append(faults, errors.New("a coordinator needs a network and a registry"))
	}
	if c.Alternate < NoAlternate || c.Alternate > 65535 {
		faults = append(faults, fmt.Errorf("the alternate port %d is not 1 to 65535", c.Alternate))
	}
	if c.Alternate > 0 && c.Alternate == int(c.Listen.Port()) {
		faults = append(faults, fmt.Errorf("the alternate port %d is the main port; choose another for one of them", c.Alternate))
	}
	if slices.Contains(c.Ports, 0) {
		faults = append(faults, errors.New("port 0 is not 1 to 65535"))
	}
	if err := c.CheckPublish(); err != nil {
		faults = append(faults, err)
	}
	families := map[bool]int{}
	for _, a := range c.Public {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			faults = append(faults, fmt.Errorf("%v can't be a public address", a))
			continue
		}
		if families[a.Is4()]++; families[a.Is4()] > 2 {
			faults = append(faults, fmt.Errorf("%v is the third public address of its family; two are of use", a))
		}
	}
	return errors.Join(faults...)
}
