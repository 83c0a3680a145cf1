// Package stripe makes every port of a host lead to the coordinator, by a table
// of its own in nftables: what comes to a port that nobody holds is translated
// to the coordinator's, and the answers leave from the port that was asked.
//
// The model (Config, Held, Rules) is pure and knows no system. Keeper and the
// functions Listening, Apply, Remove and Read are its hands on Linux.
package stripe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Table is the name of our table, of family inet. Whatever is in it is ours,
// and replaced as a whole.
const Table = "rendezvous"

// Priority of our chain among those that translate addresses on arrival. Others'
// are at -100 (dstnat); whoever comes first has its way, so what docker or a
// firewall forwards stays theirs.
const priority = -90

// SSH is left out whatever happens: a host that is reached by nothing else must
// not be lost because sshd was restarting when its ports were looked for.
const sshPort = 22

// Config says which ports are to lead where.
type Config struct {
	Addrs    []netip.Addr // of this host, that agents come to
	UDP, TCP uint16       // the coordinator's port of each; 0 leaves the protocol alone
	Exclude  Ports        // not to be touched
}

// Held are the ports that somebody holds: whoever listens keeps what he has.
type Held struct{ UDP, TCP Ports }

// With is what either holds.
func (h Held) With(o Held) Held { return Held{h.UDP.With(o.UDP), h.TCP.With(o.TCP)} }

// Rules are what stands in the table.
type Rules struct {
	Addrs    []netip.Addr // in order, each once
	UDP, TCP Lead
}

// Lead is which ports lead to which port, of one protocol.
type Lead struct {
	Ports Ports
	To    uint16
}

// Plan makes the rules: all ports of those addresses but what is excluded or
// held, SSH's, and the coordinator's own.
func Plan(c Config, held Held) (Rules, error) {
	var faults []error
	r := Rules{Addrs: slices.Clone(c.Addrs)}
	for _, a := range c.Addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() {
			faults = append(faults, fmt.Errorf("stripe: %v is no address that agents come to; name this host's own in `stripe: {addresses: [...]}`", a))
		}
	}
	if len(c.Addrs) == 0 {
		faults = append(faults, errors.New("stripe: this host's own address is not known; name it in `stripe: {addresses: [...]}`"))
	}
	if c.UDP == 0 && c.TCP == 0 {
		faults = append(faults, errors.New("stripe: no port to lead to, neither over UDP nor over TCP"))
	}
	if len(faults) > 0 {
		return Rules{}, errors.Join(faults...)
	}
	slices.SortFunc(r.Addrs, netip.Addr.Compare)
	r.Addrs = slices.Compact(r.Addrs)
	r.UDP, r.TCP = c.lead(c.UDP, held.UDP), c.lead(c.TCP, held.TCP)
	return r, nil
}

func (c Config) lead(to uint16, held Ports) Lead {
	if to == 0 {
		return Lead{}
	}
	return Lead{All().Without(c.Exclude.With(held).With(Single(to, sshPort))), to}
}

// Equal says whether both would make the same table.
func (r Rules) Equal(o Rules) bool {
	return slices.Equal(r.Addrs, o.Addrs) && r.UDP.equal(o.UDP) && r.TCP.equal(o.TCP)
}

func (l Lead) equal(o Lead) bool { return l.To == o.To && slices.Equal(l.Ports, o.Ports) }

// rule is one line of the chain: a protocol of a family.
type rule struct {
	v4  bool
	tcp bool
	to  uint16
}

// rules are the chain's lines, in their order.
func (r Rules) rules() (out []rule) {
	for _, v4 := range []bool{true, false} {
		if len(r.family(v4)) == 0 {
			continue
		}
		if len(r.UDP.Ports) > 0 {
			out = append(out, rule{v4, false, r.UDP.To})
		}
		if len(r.TCP.Ports) > 0 {
			out = append(out, rule{v4, true, r.TCP.To})
		}
	}
	return out
}

func (r Rules) family(v4 bool) (out []netip.Addr) {
	for _, a := range r.Addrs {
		if a.Is4() == v4 {
			out = append(out, a)
		}
	}
	return out
}

// Names of the sets in our table, and of its chain.
const (
	setAddrs4 = "addresses4"
	setAddrs6 = "addresses6"
	setUDP    = "udp_ports"
	setTCP    = "tcp_ports"
	chainName = "stripe"
)

func (l rule) addrs() string {
	if l.v4 {
		return setAddrs4
	}
	return setAddrs6
}

func (l rule) ports() string {
	if l.tcp {
		return setTCP
	}
	return setUDP
}

// Script is the rules as a file for `nft -f`, which replaces our table in one
// step, so that no packet sees half of it.
func (r Rules) Script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "add table inet %s\ndelete table inet %s\ntable inet %s {\n", Table, Table, Table)
	set := func(name, form string, count int, elements string) {
		if count > 0 {
			fmt.Fprintf(&b, "\tset %s {\n\t\t%s\n\t\telements = { %s }\n\t}\n", name, form, elements)
		}
	}
	for _, v4 := range []bool{true, false} {
		name, form := setAddrs6, "type ipv6_addr"
		if v4 {
			name, form = setAddrs4, "type ipv4_addr"
		}
		var words []string
		for _, a := range r.family(v4) {
			words = append(words, a.String())
		}
		set(name, form, len(words), strings.Join(words, ", "))
	}
	const interval = "type inet_service; flags interval;"
	set(setUDP, interval, len(r.UDP.Ports), r.UDP.Ports.String())
	set(setTCP, interval, len(r.TCP.Ports), r.TCP.Ports.String())
	fmt.Fprintf(&b, "\tchain %s {\n\t\ttype nat hook prerouting priority %d; policy accept;\n", chainName, priority)
	for _, l := range r.rules() {
		b.WriteString("\t\t" + l.String() + "\n")
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// String is the rule as nft reads it.
func (l rule) String() string {
	family, protocol, opens := "ip6", "udp", ""
	if l.v4 {
		family = "ip"
	}
	if l.tcp {
		// Only what opens a connection: one that stood before the table did must
		// not be cut by it.
		protocol, opens = "tcp", " tcp flags & (fin | syn | rst | ack) == syn"
	}
	return fmt.Sprintf("%s daddr @%s %s dport @%s%s dnat to :%d", family, l.addrs(), protocol, l.ports(), opens, l.to)
}

// Summary is the rules in a line for people.
func (r Rules) Summary() string {
	var parts []string
	for _, each := range []struct {
		name string
		lead Lead
	}{{"UDP", r.UDP}, {"TCP", r.TCP}} {
		if len(each.lead.Ports) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s ports lead to %d", each.lead.Ports.Count(), each.name, each.lead.To))
		}
	}
	if len(parts) == 0 {
		return "no port leads here"
	}
	addrs := make([]string, 0, len(r.Addrs))
	for _, a := range r.Addrs {
		addrs = append(addrs, a.String())
	}
	return fmt.Sprintf("%s, at %s", strings.Join(parts, " and "), strings.Join(addrs, ", "))
}
