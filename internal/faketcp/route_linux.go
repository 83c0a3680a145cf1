package faketcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How long an answer of the kernel's tables is believed. A neighbour that is
// still being asked for its address is worth asking again soon: until then
// segments leave one at a time.
const (
	routeAge     = 5 * time.Second
	unsolvedAge  = 2 * time.Millisecond
	mostRoutes   = 1 << 14 // then all are asked for anew
	ethernetSize = 14
)

// hop is how packets for one destination leave: from which of the host's
// addresses, and on what way.
type hop struct {
	*way
	source netip.Addr
	by     neighbour
	asked  time.Time
}

// neighbour is a gateway, or a destination on a link of ours.
type neighbour struct {
	link int
	addr netip.Addr
}

// way is how packets get to a neighbour.
type way struct {
	link int
	mtu  int
	// framed says that header is a whole link-layer header, and packets can go
	// to the link. Otherwise the kernel has to find the way for each.
	framed bool
	header [ethernetSize]byte
	asked  time.Time
	// doubted says that the neighbour's address was not confirmed for a while.
	// Packets that go to the link do not make the kernel ask for it again, so
	// one segment goes the kernel's way.
	doubted atomic.Bool
}

func (w *way) old(now time.Time, age time.Duration) bool {
	if !w.framed {
		age = unsolvedAge
	}
	return now.Sub(w.asked) > age
}

// routes knows how packets leave this host, and which addresses it has. Its
// answers are the kernel's, remembered for some seconds.
type routes struct {
	from netip.Addr    // of the host's addresses; unspecified: the route says
	age  time.Duration // routeAge

	mu     sync.Mutex
	kernel *netlink.Handle // stays in the network namespace where it was made; closed: nil
	hops   map[netip.Addr]*hop
	ways   map[neighbour]*way
	own    map[netip.Addr]bool
	ownAt  time.Time
}

func newRoutes(from netip.Addr) (*routes, error) {
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for routes (netlink): %w", err)
	}
	return &routes{from: from, age: routeAge, kernel: kernel, hops: make(map[netip.Addr]*hop), ways: make(map[neighbour]*way)}, nil
}

func (r *routes) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kernel != nil {
		r.kernel.Close()
		r.kernel = nil
	}
}

// to is how packets leave for an address.
func (r *routes) to(addr netip.Addr) (*hop, error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hops[addr]
	if h != nil && now.Sub(h.asked) <= r.age && !h.old(now, r.age) {
		return h, nil
	}
	if r.kernel == nil {
		return nil, net.ErrClosed
	}
	h, err := r.ask(h, addr, now)
	if err != nil {
		delete(r.hops, addr)
		return nil, fmt.Errorf("route to %v: %w", addr, err)
	}
	if len(r.hops) >= mostRoutes {
		clear(r.hops)
		clear(r.ways)
	}
	r.hops[addr] = h
	return h, nil
}

// forget makes the next send to an address ask anew.
func (r *routes) forget(addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.hops[addr]; h != nil {
		delete(r.ways, h.by)
		delete(r.hops, addr)
	}
}

// ask brings what was known of a destination, nil for nothing, up to date.
func (r *routes) ask(known *hop, addr netip.Addr, now time.Time) (*hop, error) {
	fresh := &hop{asked: now}
	if known != nil && now.Sub(known.asked) <= r.age {
		*fresh = *known
	} else if err := r.route(fresh, addr); err != nil {
		return nil, err
	}
	w := r.ways[fresh.by]
	if w == nil || w.old(now, r.age) {
		var err error
		if w, err = r.way(fresh.by, addr.Is6()); err != nil {
			return nil, err
		}
		w.asked = now
		r.ways[fresh.by] = w
	}
	fresh.way = w
	return fresh, nil
}

// route asks by which neighbour, and from which address.
func (r *routes) route(h *hop, addr netip.Addr) error {
	options := &netlink.RouteGetOptions{Oif: addr.Zone()}
	if !r.from.IsUnspecified() {
		options.SrcAddr = r.from.AsSlice()
	}
	found, err := r.kernel.RouteGetWithOptions(addr.AsSlice(), options)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return unix.ENETUNREACH
	}
	route := &found[0]
	h.by = neighbour{link: route.LinkIndex, addr: nextHop(addr, route)}
	h.source = r.from
	if source, ok := netip.AddrFromSlice(route.Src); ok && r.from.IsUnspecified() {
		h.source = source.Unmap()
	}
	if h.source.IsUnspecified() {
		return fmt.Errorf("the kernel names no address of our own for it; listen on one: %w", unix.EADDRNOTAVAIL)
	}
	return nil
}

// way asks how packets get to a neighbour, and writes the link-layer header
// where the link has one and the neighbour's address is known.
func (r *routes) way(by neighbour, six bool) (*way, error) {
	found, err := r.kernel.LinkByIndex(by.link)
	if err != nil {
		return nil, fmt.Errorf("interface %d: %w", by.link, err)
	}
	link := found.Attrs()
	w := &way{link: by.link, mtu: link.MTU}
	kind := uint16(unix.ETH_P_IP)
	if six {
		kind = unix.ETH_P_IPV6
	}
	w.header[12], w.header[13] = byte(kind>>8), byte(kind)
	switch {
	case link.EncapType == "loopback":
		w.framed = true
	case link.EncapType == "ether" && len(link.HardwareAddr) == 6 && link.RawFlags&unix.IFF_NOARP == 0:
		station, err := r.station(by)
		if err != nil {
			return nil, fmt.Errorf("neighbours on %s: %w", link.Name, err)
		}
		if w.framed = station != nil; w.framed {
			copy(w.header[:6], station.HardwareAddr)
			copy(w.header[6:12], link.HardwareAddr)
			w.doubted.Store(station.State&netlink.NUD_STALE != 0)
		}
	}
	return w, nil
}

// nextHop is the gateway, or the destination itself. A gateway may be of the
// other family.
func nextHop(addr netip.Addr, route *netlink.Route) netip.Addr {
	if gw, ok := netip.AddrFromSlice(route.Gw); ok {
		return gw.Unmap()
	}
	if via, ok := route.Via.(*netlink.Via); ok {
		if gw, ok := netip.AddrFromSlice(via.Addr); ok {
			return gw.Unmap()
		}
	}
	return addr.WithZone("")
}

// station is the kernel's entry of a neighbour, nil when its link-layer address
// is not known (yet).
func (r *routes) station(by neighbour) (*netlink.Neigh, error) {
	family := netlink.FAMILY_V4
	if by.addr.Is6() {
		family = netlink.FAMILY_V6
	}
	all, err := r.kernel.NeighList(by.link, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	const known = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
	at := slices.IndexFunc(all, func(n netlink.Neigh) bool {
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == by.addr && n.State&known != 0 && len(n.HardwareAddr) == 6
	})
	if at < 0 {
		return nil, nil
	}
	return &all[at], nil
}

// isOwn says whether an address is this host's. What this host forwards for
// others passes the packet socket as well, and is none of ours.
func (r *routes) isOwn(addr netip.Addr) bool {
	if !r.from.IsUnspecified() {
		return addr == r.from
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.kernel != nil && now.Sub(r.ownAt) > routeAge {
		// An address that is new is known at the latest after routeAge; peers
		// ask more than once.
		if own, err := r.addresses(); err == nil || r.own == nil {
			r.own = own
		}
		r.ownAt = now
	}
	return r.own[addr] || addr.Is4() && addr.IsLoopback()
}

func (r *routes) addresses() (map[netip.Addr]bool, error) {
	all, err := r.kernel.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	own := make(map[netip.Addr]bool, len(all))
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			own[ip.Unmap()] = true
		}
	}
	return own, nil
}
