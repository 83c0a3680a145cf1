//go:build linux

package programs

import (
	"rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
)

// Exposed is a host with a public address, as far from the others as they are
// from each other.
func Exposed(s *netns.Scene, name, prefix, addr string, others ...string) *netns.Host {
	h := s.Public(name, prefix, addr)
	for _, other := range others {
		s.SetBoth(name, other, func(l *hop.Link) { l.Delay = netns.DefaultOptions().HomeLaptop })
	}
	return h
}
