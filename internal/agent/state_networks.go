package agent

import (
	"slices"

	"rendezvous/proto"
)

// Network is what worked in one network.
type Network struct {
	ID   string          `json:"id"`   // a fingerprint of it
	Over proto.Transport `json:"over"` // how the coordinator was reached
	Port uint16          `json:"port"` // of the coordinator
}

// maxNetworks bounds the networks that are remembered: the least recently used
// goes first.
const maxNetworks = 32

// Worked is what worked in a network the last time.
func (s *State) Worked(id string) (Network, bool) {
	for _, n := range s.read().Networks {
		if n.ID == id {
			return n, true
		}
	}
	return Network{}, false
}

// SawWorking remembers what worked in a network. It writes only what is news.
func (s *State) SawWorking(n Network) error {
	old := s.read().Networks
	if n.ID == "" || len(old) > 0 && old[0] == n {
		return nil
	}
	next := []Network{n}
	for _, o := range old {
		if o.ID != n.ID && len(next) < maxNetworks {
			next = append(next, o)
		}
	}
	return s.update(func(k *kept) { k.Networks = next })
}

// SawDoors remembers on which ports the coordinator said that it is open.
func (s *State) SawDoors(doors []Door) error {
	if len(doors) == 0 || slices.Equal(doors, s.Coordinator().Doors) {
		return nil
	}
	return s.update(func(k *kept) { k.Coordinator.Doors = doors })
}
