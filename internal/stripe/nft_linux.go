package stripe

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ErrPrivilege is what errors.Is finds where the program lacks CAP_NET_ADMIN.
var ErrPrivilege = errors.New("CAP_NET_ADMIN is missing")

// table is ours.
func table() *nftables.Table {
	return &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
}

// Apply puts the rules in place of whatever our table holds, in one step.
// Connections and flows that stand go on as they are. It has the interfaces merge
// what comes in bursts (see merge).
func Apply(r Rules) error {
	if err := put(r); err != nil {
		return err
	}
	merge(r.Addrs)
	return nil
}

func put(r Rules) error {
	return change("put port striping into nftables", func(c *nftables.Conn) error {
		c.AddTable(table()) // so that there is one to delete
		c.DelTable(table())
		t := c.AddTable(table())
		sets, err := addSets(c, t, r)
		if err != nil {
			return err
		}
		accept := nftables.ChainPolicyAccept
		chain := c.AddChain(&nftables.Chain{
			Name: chainName, Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
			Priority: nftables.ChainPriorityRef(priority), Policy: &accept,
		})
		for _, l := range r.rules() {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: l.exprs(sets)})
		}
		return nil
	})
}

// Remove takes our table out; that there is none is no error. What it
// translates already goes on until it ends. Interfaces merge as they did before
// Apply.
func Remove() error {
	err := change("take port striping out of nftables", func(c *nftables.Conn) error {
		c.AddTable(table())
		c.DelTable(table())
		return nil
	})
	if err != nil {
		return err
	}
	return unmerge()
}

// change sends one transaction to the kernel.
func change(what string, fill func(*nftables.Conn) error) error {
	if err := privileged(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	c, err := nftables.New()
	if err == nil {
		err = fill(c)
	}
	if err == nil {
		err = c.Flush()
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%s: the kernel lacks address translation in nftables (%w); `modprobe -a nf_tables nft_chain_nat nft_nat` loads it where it is a module", what, err)
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// privileged asks before the kernel does, for that says only EPERM, deep in the
// library's words.
func privileged() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err == nil && data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		program, err := os.Executable()
		if err != nil {
			program = "/usr/local/bin/rendezvous"
		}
		return fmt.Errorf("%w; `sudo %s` has it, and deploy/stripe.conf gives it to the service", ErrPrivilege, strings.Join(append([]string{program}, os.Args[1:]...), " "))
	}
	return nil
}

func addSets(c *nftables.Conn, t *nftables.Table, r Rules) (map[string]*nftables.Set, error) {
	sets := map[string]*nftables.Set{}
	add := func(s *nftables.Set, elements []nftables.SetElement) error {
		if len(elements) == 0 {
			return nil
		}
		s.Table = t
		sets[s.Name] = s
		return c.AddSet(s, elements)
	}
	return sets, errors.Join(
		add(&nftables.Set{Name: setAddrs4, KeyType: nftables.TypeIPAddr}, addrElements(r.family(true))),
		add(&nftables.Set{Name: setAddrs6, KeyType: nftables.TypeIP6Addr}, addrElements(r.family(false))),
		add(&nftables.Set{Name: setUDP, KeyType: nftables.TypeInetService, Interval: true}, portElements(r.UDP.Ports)),
		add(&nftables.Set{Name: setTCP, KeyType: nftables.TypeInetService, Interval: true}, portElements(r.TCP.Ports)),
	)
}

func addrElements(addrs []netip.Addr) (out []nftables.SetElement) {
	for _, a := range addrs {
		out = append(out, nftables.SetElement{Key: a.AsSlice()})
	}
	return out
}

// portElements are the ranges as the kernel has them: where each begins, and
// the first port behind it. One that goes to the end has no such.
func portElements(p Ports) (out []nftables.SetElement) {
	for _, r := range p {
		out = append(out, nftables.SetElement{Key: big16(r.First)})
		if r.Last < 0xffff {
			out = append(out, nftables.SetElement{Key: big16(r.Last + 1), IntervalEnd: true})
		}
	}
	return out
}

func big16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// exprs is the rule as nft compiles its text (see String).
func (l rule) exprs(sets map[string]*nftables.Set) []expr.Any {
	const reg = 1
	load := func(base expr.PayloadBase, offset, size uint32) expr.Any {
		return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: size}
	}
	equals := func(value ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: value} }
	in := func(name string) expr.Any {
		return &expr.Lookup{SourceRegister: reg, SetName: name, SetID: sets[name].ID}
	}
	family, to, size, protocol := byte(unix.NFPROTO_IPV6), uint32(24), uint32(16), byte(unix.IPPROTO_UDP)
	if l.v4 {
		family, to, size = unix.NFPROTO_IPV4, 16, 4
	}
	if l.tcp {
		protocol = unix.IPPROTO_TCP
	}
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equals(family),
		load(expr.PayloadBaseNetworkHeader, to, size), in(l.addrs()),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equals(protocol),
		load(expr.PayloadBaseTransportHeader, 2, 2), in(l.ports()),
	}
	if l.tcp {
		const finSynRstAck, syn = 0x17, 0x02 // in byte 13 of the header, RFC 9293 section 3.1
		out = append(out, load(expr.PayloadBaseTransportHeader, 13, 1),
			&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 1, Mask: []byte{finSynRstAck}, Xor: []byte{0}}, equals(syn))
	}
	return append(out,
		&expr.Immediate{Register: reg, Data: big16(l.to)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_INET, RegProtoMin: reg, Specified: true})
}

// Read gives the rules that the table holds; false where there is none, or
// where it is not as Apply left it.
func Read() (Rules, bool, error) {
	if err := privileged(); err != nil {
		return Rules{}, false, fmt.Errorf("read nftables: %w", err)
	}
	c, err := nftables.New()
	if err != nil {
		return Rules{}, false, fmt.Errorf("read nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return Rules{}, false, fmt.Errorf("read the tables of nftables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == Table }) {
		return Rules{}, false, nil
	}
	r, err := readTable(c)
	if err != nil {
		return Rules{}, false, fmt.Errorf("read the table inet %s of nftables: %w", Table, err)
	}
	chain, err := c.ListChain(table(), chainName)
	if err != nil || chain.Hooknum == nil || chain.Priority == nil || *chain.Hooknum != *nftables.ChainHookPrerouting || *chain.Priority != priority {
		return r, false, nil // somebody has taken it out, or made it another
	}
	rules, err := c.GetRules(table(), chain)
	if err != nil {
		return Rules{}, false, fmt.Errorf("read the rules of nftables: %w", err)
	}
	return r, r.readLeads(rules), nil
}

func readTable(c *nftables.Conn) (r Rules, err error) {
	sets, err := c.GetSets(table())
	if err != nil {
		return r, err
	}
	for _, s := range sets {
		elements, err := c.GetSetElements(s)
		if err != nil {
			return r, err
		}
		switch s.Name {
		case setAddrs4, setAddrs6:
			for _, e := range elements {
				a, _ := netip.AddrFromSlice(e.Key)
				r.Addrs = append(r.Addrs, a)
			}
		case setUDP:
			r.UDP.Ports = portsOf(elements)
		case setTCP:
			r.TCP.Ports = portsOf(elements)
		}
	}
	slices.SortFunc(r.Addrs, netip.Addr.Compare)
	return r, nil
}

// portsOf undoes portElements. The kernel gives elements in an order of its
// own.
func portsOf(elements []nftables.SetElement) Ports {
	elements = slices.DeleteFunc(elements, func(e nftables.SetElement) bool { return len(e.Key) != 2 })
	key := func(e nftables.SetElement) uint16 { return binary.BigEndian.Uint16(e.Key) }
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return cmp.Compare(key(a), key(b)) })
	var ranges []Range
	for i, e := range elements {
		if e.IntervalEnd {
			continue
		}
		r := Range{key(e), 0xffff}
		if i+1 < len(elements) {
			r.Last = key(elements[i+1]) - 1
		}
		ranges = append(ranges, r)
	}
	return Of(ranges...)
}

// readLeads takes the ports that are led to out of the chain, and says whether
// its rules are those that r makes.
func (r *Rules) readLeads(found []*nftables.Rule) bool {
	var to []uint16
	for _, f := range found {
		for _, e := range f.Exprs {
			if value, ok := e.(*expr.Immediate); ok && len(value.Data) >= 2 {
				to = append(to, binary.BigEndian.Uint16(value.Data))
			}
		}
	}
	lines := r.rules()
	if len(to) != len(found) || len(found) != len(lines) {
		return false
	}
	for i, l := range lines {
		if l.tcp {
			r.TCP.To = to[i]
		} else {
			r.UDP.To = to[i]
		}
	}
	return slices.EqualFunc(r.rules(), to, func(l rule, n uint16) bool { return l.to == n })
}
