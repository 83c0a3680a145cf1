package natlab

import "net/netip"

// Unpublish takes back what Publish did.
func (n *NAT) Unpublish(port uint16) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.udp.nat.unpublish(netip.AddrPortFrom(n.udp.nat.addrs[0], port))
}

// UnpublishTCP takes back what PublishTCP did.
func (n *NAT) UnpublishTCP(port uint16) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.tcp.nat.unpublish(netip.AddrPortFrom(n.tcp.nat.addrs[0], port))
}

// Pinhole lets UDP in to an inside address of IPv6 from everywhere.
func (n *NAT) Pinhole(inside netip.AddrPort) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.udp.firewall.publish(inside, inside)
}

// ClosePinhole takes back what Pinhole did.
func (n *NAT) ClosePinhole(inside netip.AddrPort) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.udp.firewall.unpublish(inside)
}

// unpublish ends the forwarding of an external port; what came in by it goes
// on as a flow.
func (t *table) unpublish(ext netip.AddrPort) {
	for _, list := range t.mappings {
		for _, m := range list {
			if m.explicit && m.ext == ext {
				m.explicit = false
			}
		}
	}
}
