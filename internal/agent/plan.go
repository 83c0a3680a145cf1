package agent

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"rendezvous/proto"
)

// wellKnown are the ports that a coordinator may be behind, and that a network
// lets pass rather than others: those of the web, DNS, NTP, IPsec, STUN, SIP.
var wellKnown = [...]uint16{443, 80, 53, 123, 500, 4500, 3478, 5060, 8443}

// When attempts begin. UDP carries everything best, so it begins at once; TLS
// is robuster for control than fake TCP, so it comes before that.
const (
	dialStagger = 250 * time.Millisecond // RFC 8305 section 8: Connection Attempt Delay
	tlsBegins   = dialStagger
	fakeBegins  = 2 * dialStagger
	wideBegins  = 800 * time.Millisecond
	nextDoor    = 50 * time.Millisecond
)

// plan is the attempts of one race, by when they begin.
type plan struct {
	c          Coordinator
	worked     Network  // here, the last time; its ID is empty where that is not known
	first      []uint16 // ports that the settings prefer, in this order
	tls, faked bool     // these may be used at all
	list       []attempt
}

// add puts t in, unless the same begins sooner already.
func (p *plan) add(t attempt) {
	for i, o := range p.list {
		if o.same() == t.same() {
			if t.after < o.after {
				p.list[i] = t
			}
			return
		}
	}
	p.list = append(p.list, t)
}

// sorted is the plan in its order.
func (p *plan) sorted() []attempt {
	slices.SortStableFunc(p.list, func(a, b attempt) int { return cmp.Compare(a.after, b.after) })
	return p.list
}

// near are the ports that a transport was told of, that of the last place where
// the coordinator was seen, over whatever, and those that are likely.
func (p *plan) near(t proto.Transport) []uint16 {
	var ports, seen []uint16
	if len(p.c.Seen) > 0 {
		seen = append(seen, p.c.Seen[0].Port())
	}
	for _, port := range slices.Concat(p.first, []uint16{portOf(p.c.Addr)}, portsOf(p.c.Doors, t), seen, []uint16{443}) {
		if !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports
}

// byName plans what needs no address of the coordinator's: TLS, where a proxy
// may know the name. The ports of wide are tried last.
func (p *plan) byName(wide []uint16) {
	host := hostOf(p.c.Addr)
	if _, err := netip.ParseAddr(host); err == nil || !p.tls || host == "" {
		return
	}
	p.overTLS(host, tlsBegins, wide)
}

func (p *plan) overTLS(host string, begins time.Duration, wide []uint16) {
	add := func(port uint16, after time.Duration, brief bool) {
		at := net.JoinHostPort(host, strconv.Itoa(int(port)))
		p.add(attempt{over: proto.Transport_TRANSPORT_TLS, at: at, after: after, brief: brief})
	}
	if p.worked.ID != "" && p.worked.Over == proto.Transport_TRANSPORT_TLS {
		add(p.worked.Port, begins-tlsBegins, false)
	}
	for i, port := range p.near(proto.Transport_TRANSPORT_TLS) {
		add(port, begins+time.Duration(i)*nextDoor, false)
	}
	for i, port := range wide {
		add(port, begins-tlsBegins+wideBegins+time.Duration(i)*nextDoor, true)
	}
}

// byAddr plans what is sent to the coordinator's addresses, first those that
// are likely: the last that worked here, and UDP on the link's port.
func (p *plan) byAddr(addrs []netip.AddrPort, wide []uint16) {
	heads := firstOfFamilies(addrs)
	turn := map[bool]time.Duration{}
	for i, head := range heads {
		turn[head.Is4()] = time.Duration(i)*dialStagger + p.preferred()
		for j, port := range p.first {
			after := time.Duration(i)*dialStagger + time.Duration(j)*nextDoor
			p.add(attempt{over: proto.Transport_TRANSPORT_UDP, addr: netip.AddrPortFrom(head, port), after: after})
		}
	}
	for _, addr := range addrs {
		family := addr.Addr().Is4()
		p.add(attempt{over: proto.Transport_TRANSPORT_UDP, addr: addr, after: turn[family]})
		turn[family] += dialStagger
	}
	for i, head := range heads {
		later := time.Duration(i) * dialStagger
		p.overDatagrams(head, proto.Transport_TRANSPORT_UDP, dialStagger+later, wide)
		if p.tls {
			p.overTLS(head.String(), tlsBegins+later, wide)
		}
		if p.faked {
			p.overDatagrams(head, proto.Transport_TRANSPORT_FAKE_TCP, fakeBegins+later, wide)
		}
	}
}

// preferred is the head start of the ports that the settings prefer.
func (p *plan) preferred() time.Duration { return time.Duration(len(p.first)) * nextDoor }

// overDatagrams plans QUIC to the ports of one address.
func (p *plan) overDatagrams(to netip.Addr, over proto.Transport, begins time.Duration, wide []uint16) {
	if p.worked.ID != "" && p.worked.Over == over {
		p.add(attempt{over: over, addr: netip.AddrPortFrom(to, p.worked.Port), after: p.preferred()})
	}
	for i, port := range p.near(over) {
		p.add(attempt{over: over, addr: netip.AddrPortFrom(to, port), after: begins + time.Duration(i)*nextDoor})
	}
	if over == proto.Transport_TRANSPORT_FAKE_TCP {
		wide = wide[:min(len(wide), len(wellKnown))] // it does not pass where ports are translated
	}
	for i, port := range wide {
		p.add(attempt{over: over, addr: netip.AddrPortFrom(to, port), after: wideBegins + time.Duration(i)*nextDoor, brief: true})
	}
}

// firstOfFamilies are the first address of each family, in their order.
func firstOfFamilies(addrs []netip.AddrPort) (heads []netip.Addr) {
	for _, a := range addrs {
		if !slices.ContainsFunc(heads, func(h netip.Addr) bool { return h.Is4() == a.Addr().Is4() }) {
			heads = append(heads, a.Addr())
		}
	}
	return heads
}

// hostOf and portOf take HOST:PORT apart.
func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return host
}

func portOf(addr string) uint16 {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}
