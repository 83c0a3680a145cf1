//go:build linux

package programs

import "rendezvous/internal/natlab/netns"

// Inside addresses of `agent tun`, where no ranges are named: the device's own
// on every host, and that of the first peer.
const (
	TunOwn   = "198.19.0.1"
	TunPeer  = "198.19.0.2"
	TunOwn6  = "fd72:6476:7475:6e00::1"
	TunPeer6 = "fd72:6476:7475:6e00::2"
)

// PlainTun starts `agent tun` without an agent, with a device tcp0.
func PlainTun(h *netns.Host, args ...string) *netns.Process {
	return PlainTunAs(h, netns.Guise{}, args...)
}

// PlainTunAs is PlainTun in a guise.
func PlainTunAs(h *netns.Host, g netns.Guise, args ...string) *netns.Process {
	p := h.StartAs(g, "agent", append([]string{"tun", "--interface", "tcp0"}, args...)...)
	p.WaitLog("tcp0 is up", ready)
	return p
}

// Tun starts `agent tun` beside the running agent, with a device rdv0.
func (a *Agent) Tun(args ...string) *netns.Process {
	a.t.Helper()
	p := a.host.Start("agent", append([]string{"tun", "--state", a.state}, args...)...)
	p.WaitLog("on rdv0", ready)
	return p
}
