package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// resolveWithin bounds a look-up of a name.
const resolveWithin = 5 * time.Second

// Resolve looks host up, which may be an address, and gives its addresses with
// port.
func Resolve(ctx context.Context, host string, port uint16) ([]netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), port)}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w; is the name right, and does DNS work here?", host, err)
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), port)
	}
	return addrs, nil
}

// Addrs resolves the coordinator's name anew; where that does not work, the
// addresses where it answered before are good enough. They also follow those
// of the name, for a name that has just moved to a host that is not up yet.
func (c Coordinator) Addrs(ctx context.Context) ([]netip.AddrPort, error) {
	host, text, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, fmt.Errorf("the coordinator's address %q: %w", c.Addr, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("the coordinator's port %q: %w", text, err)
	}
	addrs, err := Resolve(ctx, host, uint16(port))
	if err != nil && len(c.Seen) == 0 {
		return nil, err
	}
	for _, a := range c.Seen {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}
