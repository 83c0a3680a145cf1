package stun

import "fmt"

// Behaviour is how a NAT depends on the far side when it maps or filters
// (RFC 4787 sections 4.1 and 5). The zero Behaviour is Unknown.
type Behaviour uint8

// The behaviours, in RFC 4787's words. Their numbers are those of the
// protocol's Behaviour.Dependence.
const (
	Unknown Behaviour = iota
	EndpointIndependent
	AddressDependent
	AddressAndPortDependent
)

var behaviours = [...]string{"unknown", "endpoint-independent", "address-dependent", "address-and-port-dependent"}

func (b Behaviour) String() string {
	if int(b) < len(behaviours) {
		return behaviours[b]
	}
	return fmt.Sprintf("behaviour-%d", b)
}

// MarshalText writes the behaviour as String does.
func (b Behaviour) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (b *Behaviour) UnmarshalText(text []byte) error {
	for i, name := range behaviours {
		if name == string(text) {
			*b = Behaviour(i)
			return nil
		}
	}
	return fmt.Errorf("no behaviour of a NAT is called %q; there are %v", text, behaviours)
}
