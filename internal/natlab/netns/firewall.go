//go:build linux

package netns

import "fmt"

// DropUDP lets no datagram pass, in either direction, as many firewalls of
// offices and hotels do.
func (n NAT) DropUDP() NAT {
	return n.Filter("meta l4proto udp drop")
}

// OnlyWeb lets hosts on the LAN side open TCP connections to ports 80 and 443,
// and nothing else.
func (n NAT) OnlyWeb() NAT {
	return n.Filter(`iifname "$LAN" tcp dport { 80, 443 } accept`, `iifname "$LAN" drop`)
}

// OnlyRouter lets nothing pass: hosts on the LAN side reach the router itself,
// a proxy on it say, and no more.
func (n NAT) OnlyRouter() NAT {
	return n.Filter(`iifname "$LAN" drop`)
}

// RandomTCP maps TCP connections to random ports, each to its own, whatever
// happens to UDP.
func (n NAT) RandomTCP() NAT {
	n.post = append([]string{"meta l4proto tcp masquerade fully-random"}, n.post...)
	return n
}

// DropSYN lets no connection in, not even one from where a connection was
// opened to: a SYN of a known flow is dropped as well.
func (n NAT) DropSYN() NAT {
	return n.Filter(`iifname "$WAN" tcp flags & (syn | ack) == syn drop`)
}

// splitPort is where the split-TCP proxy listens on its router.
const splitPort = 3129

// SplitTCP has all TCP connections of a router's LAN side end at a proxy on
// the router, which opens each anew to where it led: an accelerator, as
// satellite links have. Data crosses as a stream, cut anew. It needs the
// program splitproxy of this module.
func (h *Host) SplitTCP() *Process {
	h.lab.t.Helper()
	p := h.Start("splitproxy", "-listen", fmt.Sprintf("0.0.0.0:%d", splitPort))
	h.WaitPort("tcp", splitPort, startLimit)
	h.NFT(fmt.Sprintf(`table ip split_lab {
 chain before {
  type nat hook prerouting priority -110; policy accept;
  iifname "%s" meta l4proto tcp redirect to :%d
 }
}
`, LAN, splitPort))
	return p
}
