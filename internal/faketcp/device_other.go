//go:build !linux

package faketcp

import (
	"net"
	"net/netip"
	"runtime"

	"rendezvous/internal/path"
)

// available says why no segment can be sent from this host.
func available() error {
	return &path.Failure{
		Reason:   "unsupported",
		Evidence: "fake TCP needs packet sockets, which " + runtime.GOOS + " does not have",
		Advice:   "run the agent on Linux; over UDP, TCP and the relay all works here as well",
		Skipped:  true,
	}
}

func openDevice(netip.AddrPort, net.Listener) (device, error) { return nil, available() }
