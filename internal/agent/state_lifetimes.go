package agent

import "time"

// Lifetimes is how long the NAT of a network was found to keep mappings of UDP.
type Lifetimes struct {
	Network string `json:"network"` // a fingerprint of it
	// Idle is in seconds what a mapping outlasts that nothing crosses.
	Idle   int       `json:"idle_s,omitempty"`
	IdleAt time.Time `json:"idle_at,omitzero"` // zero: not known
	// Absolute is in seconds the age at which mappings end, whatever crosses
	// them; 0 where none was found.
	Absolute   int       `json:"absolute_s,omitempty"`
	AbsoluteAt time.Time `json:"absolute_at,omitzero"` // zero: not known
}

// Lifetimes is what was found in a network; zero but for the network where
// nothing was.
func (s *State) Lifetimes(network string) Lifetimes {
	for _, l := range s.read().Lifetimes {
		if l.Network == network {
			return l
		}
	}
	return Lifetimes{Network: network}
}

// SawLifetimes remembers what was found in a network.
func (s *State) SawLifetimes(l Lifetimes) error {
	if l.Network == "" || s.Lifetimes(l.Network) == l {
		return nil
	}
	next := []Lifetimes{l}
	for _, o := range s.read().Lifetimes {
		if o.Network != l.Network && len(next) < maxNetworks {
			next = append(next, o)
		}
	}
	return s.update(func(k *kept) { k.Lifetimes = next })
}
