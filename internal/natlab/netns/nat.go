//go:build linux

package netns

import (
	"fmt"
	"strings"
	"time"
)

// NAT is what a router does, as nftables statements. The functions below make
// the behaviours that occur in the wild (named by RFC 4787), the methods add
// to them. In statements $WAN and $LAN are the router's interfaces, $PUBLIC
// is its first address on the WAN side.
type NAT struct {
	define  []string // maps and sets
	pre     []string // destination NAT of what comes
	post    []string // source NAT of what leaves by the WAN side
	hairpin []string // source NAT of what turns round to the LAN side
	forward []string // filter
	input   string   // what becomes of unsolicited packets to the router
	sysctl  []string
}

// Masquerade is the usual home router: endpoint-independent mapping,
// address-and-port-dependent filtering, ports preserved. It drops what is
// INVALID and what comes unsolicited, and counts both.
func Masquerade() NAT {
	return NAT{post: []string{"masquerade"}, input: "drop"}
}

// CarrierGrade maps all ports into a block, as carriers do, with
// endpoint-independent mapping.
func CarrierGrade(low, high uint16) NAT {
	return NAT{
		post:  []string{fmt.Sprintf("meta l4proto { tcp, udp } masquerade to :%d-%d", low, high), "masquerade"},
		input: "drop",
	}
}

// RandomPorts has address-and-port-dependent mapping on random ports.
func RandomPorts() NAT {
	return NAT{post: []string{"masquerade fully-random"}, input: "drop"}
}

// RandomBlock is RandomPorts within a block of ports.
func RandomBlock(low, high uint16) NAT {
	return NAT{
		post:  []string{fmt.Sprintf("meta l4proto { tcp, udp } masquerade to :%d-%d fully-random", low, high), "masquerade"},
		input: "drop",
	}
}

// SequentialPorts has address-and-port-dependent mapping; each mapping's port
// is step above the last one's, from 40000 on.
func SequentialPorts(step int) NAT {
	const ports = 1000
	pairs := make([]string, ports)
	for i := range pairs {
		// numgen's value itself would be taken as a port in the wrong byte
		// order; a map is not.
		pairs[i] = fmt.Sprintf("%d : %d", i, 40000+i*step)
	}
	next := fmt.Sprintf("snat to $PUBLIC : numgen inc mod %d map { %s }", ports, strings.Join(pairs, ", "))
	return NAT{post: []string{"meta l4proto { tcp, udp } " + next, "masquerade"}, input: "drop"}
}

// AddressDependent has address-dependent mapping: all ports of one destination
// address see the same port of ours.
func AddressDependent() NAT {
	const hash = "udp sport 1-65535 snat to $PUBLIC : jhash ip saddr . udp sport . ip daddr mod 20000 seed 0x1234 offset 30000"
	return NAT{post: []string{hash, "masquerade"}, input: "drop"}
}

// OpenFilter has endpoint-independent mapping and filtering for UDP: whoever
// knows the mapped address may send to it.
func OpenFilter() NAT {
	return NAT{
		define: []string{"map inside { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }"},
		pre:    []string{`iifname "$WAN" ip daddr $PUBLIC dnat ip to udp dport map @inside`},
		post:   []string{"udp sport 1-65535 update @inside { udp sport : ip saddr . udp sport } masquerade", "masquerade"},
		input:  "drop",
	}
}

// AddressFilter has endpoint-independent mapping and address-dependent
// filtering for UDP: any port of an address that was sent to may answer.
func AddressFilter() NAT {
	n := OpenFilter()
	n.define = append(n.define, "set allowed { type inet_service . ipv4_addr; flags dynamic,timeout; timeout 120s; }")
	n.pre = []string{`iifname "$WAN" udp dport . ip saddr @allowed dnat ip to udp dport map @inside`}
	// The nat chain sees only a flow's first packet, which is all that is
	// needed: each new destination is a new flow.
	n.post[0] = "udp sport 1-65535 update @allowed { udp sport . ip daddr } " +
		"update @inside { udp sport : ip saddr . udp sport } masquerade"
	return n
}

// AcceptingInput answers unsolicited packets instead of dropping them. An
// unsolicited datagram that comes before ours then takes the port that ours
// would have had, for as long as both keep sending.
func (n NAT) AcceptingInput() NAT {
	n.input = "accept"
	return n
}

// Hairpin lets hosts on the LAN side reach each other by their mapped
// addresses. It builds upon OpenFilter or AddressFilter.
func (n NAT) Hairpin() NAT {
	n.pre = append([]string{`iifname "$LAN" ip daddr $PUBLIC dnat ip to udp dport map @inside`}, n.pre...)
	n.hairpin = append(n.hairpin, "ct status dnat snat to $PUBLIC")
	return n
}

// BlockUDP forwards no UDP.
func (n NAT) BlockUDP() NAT { return n.Filter("meta l4proto udp drop") }

// OnlyHTTPS forwards only TCP to port 443.
func (n NAT) OnlyHTTPS() NAT {
	return n.Filter(`iifname "$LAN" meta l4proto != tcp drop`, `iifname "$LAN" tcp dport != 443 drop`)
}

// LimitSessions lets a host on the LAN side have only so many sessions.
func (n NAT) LimitSessions(most int) NAT {
	n.define = append(n.define[:len(n.define):len(n.define)], "set sessions { type ipv4_addr; size 65535; flags dynamic; }")
	return n.Filter(fmt.Sprintf(`iifname "$LAN" ct state new add @sessions { ip saddr ct count over %d } drop`, most))
}

// Filter adds statements to what forwards packets, before all others.
func (n NAT) Filter(statements ...string) NAT {
	n.forward = append(n.forward[:len(n.forward):len(n.forward)], statements...)
	return n
}

// Publish leads a port of the WAN side to a host on the LAN side, as a user
// does in his router's pages.
func (n NAT) Publish(protocol string, port uint16, to string) NAT {
	statement := fmt.Sprintf(`iifname "$WAN" %s dport %d dnat to %s`, protocol, port, to)
	n.pre = append([]string{statement}, n.pre...)
	return n
}

// Lifetime is how long a UDP mapping lives without traffic; the kernel's own
// is 30 s before there was an answer and 120 s after.
func (n NAT) Lifetime(d time.Duration) NAT {
	seconds := int(d / time.Second)
	n.sysctl = append(n.sysctl[:len(n.sysctl):len(n.sysctl)],
		fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout=%d", seconds),
		fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout_stream=%d", seconds))
	return n
}

// script is the nftables file of a router. The priorities are those of the
// kernel's own dstnat, srcnat and filter.
func (n NAT) script(wan, lan, public string) string {
	var b strings.Builder
	chain := func(name, kind, hook string, priority int, statements ...string) {
		fmt.Fprintf(&b, " chain %s {\n  type %s hook %s priority %d; policy accept;\n", name, kind, hook, priority)
		for _, s := range statements {
			fmt.Fprintf(&b, "  %s\n", s)
		}
		b.WriteString(" }\n")
	}
	b.WriteString("table ip nat_lab\ndelete table ip nat_lab\ntable ip nat_lab {\n counter invalid { }\n counter unsolicited { }\n")
	for _, d := range n.define {
		fmt.Fprintf(&b, " %s\n", d)
	}
	chain("before", "nat", "prerouting", -100, n.pre...)
	var post []string
	for _, s := range n.hairpin {
		post = append(post, `iifname "$LAN" oifname "$LAN" `+s)
	}
	for _, s := range n.post {
		post = append(post, `oifname "$WAN" `+s)
	}
	chain("after", "nat", "postrouting", 100, post...)
	chain("to_router", "filter", "input", 0,
		"ct state established,related accept",
		fmt.Sprintf(`iifname "$WAN" counter name unsolicited %s`, n.input))
	passing := append([]string{"ct state invalid counter name invalid drop"}, n.forward...)
	passing = append(passing, `iifname "$LAN" accept`, "ct state established,related accept", "ct status dnat accept",
		`iifname "$WAN" counter name unsolicited drop`)
	chain("passing", "filter", "forward", 0, passing...)
	b.WriteString("}\n")
	return strings.NewReplacer("$WAN", wan, "$LAN", lan, "$PUBLIC", public).Replace(b.String())
}

// SetNAT makes the host a router between two interfaces, or changes what it
// does. Existing mappings stay; see FlushConntrack.
func (h *Host) SetNAT(n NAT, wan, lan, public string) {
	h.lab.t.Helper()
	h.Sysctl(append([]string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"}, n.sysctl...)...)
	h.NFT(n.script(wan, lan, public))
}
