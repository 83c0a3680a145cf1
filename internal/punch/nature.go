package punch

import (
	"rendezvous/proto"
)

// Nature is what a NAT's behaviour means for a punch: how its port towards the
// peer comes about (RFC 4787 sections 4.1 and 4.2.2).
type Nature uint8

// The natures.
const (
	// Easy maps one socket to one port whatever the destination, or nobody
	// knows better: a behaviour orders the attempts, it never cancels one.
	Easy Nature = iota
	// Kept gives a new socket its own port towards the first destination, and
	// others towards the next.
	Kept
	// Stepping gives each new mapping the port of the last and a step.
	Stepping
	// Scattered takes any port.
	Scattered
	// Pooled takes any address as well: nothing can be aimed at.
	Pooled
)

var natures = [...]string{"easy", "kept", "stepping", "scattered", "pooled"}

func (n Nature) String() string { return natures[n] }

// varies says whether mappings depend on the destination.
func varies(b *proto.Behaviour) bool {
	return b.GetMapping() == proto.Behaviour_ADDRESS_DEPENDENT || b.GetMapping() == proto.Behaviour_ADDRESS_AND_PORT_DEPENDENT
}

// admits says whether a NAT lets in what comes from an address that it sent to,
// from whichever port.
func admits(b *proto.Behaviour) bool {
	return b.GetFiltering() == proto.Behaviour_ADDRESS_DEPENDENT || b.GetFiltering() == proto.Behaviour_ENDPOINT_INDEPENDENT
}

// NatureOf sorts a behaviour in.
func NatureOf(b *proto.Behaviour) Nature {
	switch {
	case !varies(b):
		return Easy
	case b.GetAddresses() > 1:
		return Pooled
	case b.GetPortPreserving():
		return Kept
	case b.GetPortDelta() != 0:
		return Stepping
	}
	return Scattered
}

// Suppose is b as an attempt that follows failed ones takes it, from the third
// on. One server's address can't tell whether the mapping depends on the
// destination's address: it is supposed to. And what was seen to let strangers in
// where servers see it has let no peer in: it is supposed not to.
func Suppose(b *proto.Behaviour, attempt uint32) *proto.Behaviour {
	if attempt < 3 || b == nil {
		return b
	}
	b = proto.Clone(b)
	if open(b) {
		b.Filtering = proto.Behaviour_ADDRESS_AND_PORT_DEPENDENT
	}
	if b.Mapping == proto.Behaviour_DEPENDENCE_UNKNOWN {
		b.Mapping = proto.Behaviour_ADDRESS_DEPENDENT
	}
	return b
}
