//go:build !linux

package stun

import (
	"context"
	"net/netip"
)

// BehindCarrier says whether a carrier translates behind the router of this
// network; on this platform it isn't known, which gives false.
func BehindCarrier(context.Context, netip.Addr, netip.AddrPort) (bool, error) { return false, nil }
