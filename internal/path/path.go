// Package path says what a path is: a conn and an address on it, of a kind.
package path

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// Kind is the technique by which a path crosses. Their order is that of
// preference, best first.
type Kind uint8

// The kinds, as users read them in status and explain.
const (
	None Kind = iota
	DirectUDP
	DirectFakeTCP
	DirectTCP
	RelayUDP
	RelayFakeTCP
	RelayTLS
)

var names = [...]string{"", "direct-udp", "direct-faketcp", "direct-tcp", "relay-udp", "relay-faketcp", "relay-tls"}

func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind-%d", k)
}

// Relayed says whether the path goes through the coordinator's relay.
func (k Kind) Relayed() bool { return k >= RelayUDP }

// Stream says whether datagrams travel in a byte stream, where a lost one is
// sent again and delays those behind it.
func (k Kind) Stream() bool { return k == DirectTCP || k == RelayTLS }

// ParseKind reads what String wrote; the error lists the words that exist.
func ParseKind(s string) (Kind, error) {
	for k, name := range names {
		if k > 0 && name == s {
			return Kind(k), nil
		}
	}
	return None, fmt.Errorf("no kind of path is called %q; there are %v", s, names[1:])
}

// Path is a way to the peer. It is comparable.
type Path struct {
	Conn dgram.Conn
	Addr netip.AddrPort
}

// Try probes a path until the peer answers there, and returns the round trip.
// It is all that a rung needs of a session. It ends with ctx, and sends no
// faster than Pace.
type Try func(ctx context.Context, p Path, k Kind) (time.Duration, error)
