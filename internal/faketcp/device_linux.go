package faketcp

import (
	"net"
	"net/netip"

	"rendezvous/internal/path"
)

// available says why no segment can be sent from this host: a *path.Failure.
func available() error { return nil }

// openDevice listens on addr, whose port may be 0. beside is nil, or the
// kernel's own listener on that port.
func openDevice(addr netip.AddrPort, beside net.Listener) (device, error) {
	return nil, &path.Failure{Reason: "unsupported", Evidence: "not built yet", Skipped: true}
}
