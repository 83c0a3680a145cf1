package tun

import "net/netip"

// Settings say how a device is made.
type Settings struct {
	Name   string
	MTU    int            // in bytes
	Spans  []Span         // at most one a family; the device gets the first address of each
	Routes []netip.Prefix // that lead to it, besides the spans
}
