package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Own are the device's addresses, at most one a family: of several the first.
func (d *Device) Own() []netip.Addr { return d.own }

// NoIPv6 is why the host gave the device no IPv6 address, nil where it did.
func (d *Device) NoIPv6() error { return d.noIPv6 }

func exists(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// configure sets addresses, MTU and routes. What it made goes with the device.
func (d *Device) configure(s Settings) error {
	link, err := netlink.LinkByName(s.Name)
	if err != nil {
		return fmt.Errorf("find it: %w", err)
	}
	if err := netlink.LinkSetMTU(link, s.MTU); err != nil {
		return fmt.Errorf("set its MTU to %d: %w", s.MTU, err)
	}
	// No neighbours: solicitations of routers would only be counted as dropped.
	// A kernel without IPv6 refuses.
	_ = netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE)
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	routes := s.Routes
	for _, span := range s.Spans {
		more, err := d.address(link, span)
		if err != nil && span.prefix.Addr().Is6() {
			d.noIPv6 = err
			continue
		}
		if err != nil {
			return err
		}
		routes = append(routes, more...)
	}
	for _, to := range routes {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(to), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("lead %v to it: %w", to, err)
		}
	}
	return nil
}

// address gives the device its own address of a span, whose length leads the
// span here. One that it had before stays, and the span wants a route.
func (d *Device) address(link netlink.Link, span Span) ([]netip.Prefix, error) {
	own, family := span.Own(), netlink.FAMILY_V4
	if own.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	have, err := netlink.AddrList(link, family)
	if err != nil {
		return nil, fmt.Errorf("list its addresses: %w", err)
	}
	for _, a := range have {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && d.existed && !a.IP.IsLinkLocalUnicast() {
			d.own = append(d.own, ip.Unmap())
			return []netip.Prefix{span.prefix}, nil
		}
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(own.Bits(), own.Addr().BitLen())}}
	if own.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD // nobody is there to ask, and the address is wanted at once
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return nil, fmt.Errorf("give it the address %v: %w", own, err)
	}
	d.own = append(d.own, own.Addr())
	return nil, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// SetMTU changes the longest packet, in bytes, that the kernel gives the
// device.
func (d *Device) SetMTU(mtu int) error {
	link, err := netlink.LinkByName(d.name)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", d.name, mtu, err)
	}
	return nil
}

// InterfaceMTU is how long a packet may be, in bytes, that leaves by another
// interface.
func InterfaceMTU(name string) (int, error) {
	link, err := netlink.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return 0, fmt.Errorf("there is no interface %q; `ip link` lists them", name)
	}
	if err != nil {
		return 0, fmt.Errorf("look at the interface %q: %w", name, err)
	}
	return link.Attrs().MTU, nil
}
