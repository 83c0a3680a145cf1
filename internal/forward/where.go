package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Resolve finds the address of a service's host that is a name; nil asks the
// system's resolver.
type Resolve func(ctx context.Context, host string) (netip.Addr, error)

// resolveFor bounds how long a service's name is resolved.
const resolveFor = 5 * time.Second

// Find says where the service is, and looks its name up for that if it has one.
func (t Target) Find(ctx context.Context, resolve Resolve) (netip.AddrPort, error) {
	addr, ok := t.Literal()
	if !ok {
		if resolve == nil {
			resolve = resolveBySystem
		}
		ctx, cancel := context.WithTimeout(ctx, resolveFor)
		defer cancel()
		var err error
		if addr, err = resolve(ctx, t.Host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("the address of the service's host %q is not found: %w", t.Host, err)
		}
	}
	return netip.AddrPortFrom(addr.Unmap(), t.Port), nil
}

func resolveBySystem(ctx context.Context, host string) (netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", host)
	}
	return addrs[0], nil
}
