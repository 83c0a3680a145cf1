package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/ops"
	"rendezvous/internal/portmap"
	"rendezvous/internal/stun"
)

// stunPort is RFC 8489's.
const stunPort = 3478

func newNetcheck(t *terminal) *cobra.Command {
	var servers []string
	var asJSON bool
	var peer string
	cmd := &cobra.Command{
		Use:   "netcheck",
		Short: "Find out what the network here does to UDP and TCP",
		Long: `Ask the coordinator, or any STUN server, how the NATs of this network treat UDP and
TCP, and what boxes on the way do to datagrams that are dressed as TCP. Ask the
router for a port by PCP, NAT-PMP and UPnP, and give it back. No agent need be
running. A server with one address can tell only part of it; RFC
5780 servers, and a coordinator with two addresses, tell all.

Servers can only tell how they are treated: where an agent runs, its paths with
peers are measured as well, and --peer has it look for one.`,
		Example: "  agent netcheck\n  agent netcheck --peer home\n  agent netcheck --stun stun.example.org",
		Args:    ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, addrs, err := t.check(cmd.Context(), servers, peer)
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(t.out, n)
			} else {
				writeNetcheck(t.out, n)
			}
			if err == nil && !n.UDP && !plainTCP(n) && n.FakeTCP != fakeOK {
				err = ops.Failed("no STUN server answered of %s, neither over UDP nor over TCP; is this network cut off, or the server down? try another network, or --stun with another server", joinAddrs(addrs))
			}
			return cmp.Or(err, unreached(peer, n.Measured))
		},
	}
	cmd.Flags().StringVar(&peer, "peer", "", "have the running agent look for a path with this `PEER`, and measure it")
	cmd.Flags().StringArrayVar(&servers, "stun", nil, "ask this STUN server instead of the coordinator: `HOST[:PORT]`; may be given again")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// check asks the servers, which it returns too, and then measures with peers.
func (t *terminal) check(ctx context.Context, servers []string, peer string) (n agent.Netcheck, addrs []netip.AddrPort, err error) {
	if peer != "" {
		if err := agent.CheckName("peer", peer); err != nil {
			return n, nil, usage(err)
		}
	}
	if addrs, err = t.stunServers(ctx, servers); err != nil {
		return n, nil, err
	}
	if n, err = t.netcheck(ctx, addrs, len(servers) == 0); err != nil || len(servers) > 0 && peer == "" {
		return n, addrs, err
	}
	c, err := t.client()
	switch {
	case err == nil:
		n.Measured = measure(ctx, c, peer)
	case peer != "":
		return n, addrs, err
	}
	return n, addrs, nil
}

// netcheck asks over UDP and over TCP at once; coordinator says that the
// servers are the coordinator's.
func (t *terminal) netcheck(ctx context.Context, servers []netip.AddrPort, coordinator bool) (agent.Netcheck, error) {
	var state *agent.State
	if dir, err := t.folder(); coordinator && err == nil {
		if state, err = agent.OpenState(dir); err != nil {
			return agent.Netcheck{}, err
		}
	}
	survey := newTCPSurvey(servers, state)
	tcp := make(chan tcpReport, 1)
	go func() { tcp <- survey.run(ctx) }()
	routers := make(chan []portmap.State, 1)
	go func() { routers <- askRouters(ctx) }()
	report, err := stun.Discover(ctx, dgram.System(dgram.DefaultOptions()), servers)
	n := newNetcheckResult(report)
	if err == nil {
		n.CGNAT = n.CGNAT || behindCarrier(ctx, report)
	}
	if state != nil {
		addLifetimes(&n, state)
	}
	addRouters(&n, <-routers)
	(<-tcp).addTo(&n)
	return n, err
}

// stunServers are the addresses of those named, or else of the coordinator.
func (t *terminal) stunServers(ctx context.Context, named []string) ([]netip.AddrPort, error) {
	if len(named) > 0 {
		var all []netip.AddrPort
		for _, name := range named {
			host, port, err := splitServer(name)
			if err != nil {
				return nil, err
			}
			addrs, err := agent.Resolve(ctx, host, port)
			if err != nil {
				return nil, err
			}
			all = append(all, addrs...)
		}
		return all, nil
	}
	dir, err := t.folder()
	if err != nil {
		return nil, err
	}
	state, err := agent.OpenState(dir)
	if errors.Is(err, agent.ErrNotJoined) {
		return nil, ops.Failed("there is no coordinator to ask: %w, or name a STUN server with --stun HOST", err)
	}
	if err != nil {
		return nil, err
	}
	c := state.Coordinator()
	addrs, err := c.Addrs(ctx)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(c.STUN)
	for _, a := range addrs {
		all = append(all, a, netip.AddrPortFrom(a.Addr(), stunPort))
	}
	return all, nil
}

// splitServer reads HOST[:PORT] of a STUN server.
func splitServer(name string) (host string, port uint16, err error) {
	if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return ip.String(), stunPort, nil
	}
	host, text, err := net.SplitHostPort(name)
	if err != nil {
		host, text = name, strconv.Itoa(stunPort)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	_, notIP := netip.ParseAddr(host)
	if err != nil || n == 0 || host == "" || notIP != nil && strings.ContainsAny(host, "/:") {
		return "", 0, ops.Usage("--stun: %q is not HOST or HOST:PORT", name)
	}
	return host, uint16(n), nil
}

// behindCarrier looks for a carrier's NAT on the way to a server that
// answered. Where that can't be told, none was seen.
func behindCarrier(ctx context.Context, r stun.Report) bool {
	is4 := func(a netip.AddrPort) bool { return a.Addr().Is4() }
	mapped, server := slices.IndexFunc(r.Mapped, is4), slices.IndexFunc(r.Servers, is4)
	if mapped < 0 || server < 0 {
		return false
	}
	behind, err := stun.BehindCarrier(ctx, r.Mapped[mapped].Addr(), r.Servers[server])
	return err == nil && behind
}

func joinAddrs(addrs []netip.AddrPort) string {
	var words []string
	for _, a := range addrs {
		if !slices.Contains(words, a.String()) {
			words = append(words, a.String())
		}
	}
	return strings.Join(words, ", ")
}

func newNetcheckResult(r stun.Report) agent.Netcheck {
	n := agent.Netcheck{
		UDP: r.UDP, IPv4: r.IPv4, IPv6: r.IPv6,
		Mapped:         []string{},
		Mapping:        r.Mapping.String(),
		Filtering:      r.Filtering.String(),
		TCPMapping:     stun.Unknown.String(),
		PortPreserving: r.PortPreserving,
		PortDelta:      r.PortDelta,
		Hairpin:        r.Hairpin,
		CGNAT:          r.CGNAT,
		Portmap:        []string{},
		FakeTCP:        stun.Unknown.String(),
		UsablePorts:    []int{},
	}
	for _, a := range r.Mapped {
		n.Mapped = append(n.Mapped, a.String())
	}
	if four := slices.DeleteFunc(slices.Clone(r.Pool), netip.Addr.Is6); len(four) > 1 {
		for _, a := range four {
			n.Pool = append(n.Pool, a.String())
		}
	}
	for _, b := range r.MappingNot {
		n.MappingNot = append(n.MappingNot, b.String())
	}
	for _, b := range r.FilteringNot {
		n.FilteringNot = append(n.FilteringNot, b.String())
	}
	for _, a := range r.Servers {
		if port := int(a.Port()); !slices.Contains(n.UsablePorts, port) {
			n.UsablePorts = append(n.UsablePorts, port)
		}
	}
	slices.Sort(n.UsablePorts)
	return n
}

func writeNetcheck(w io.Writer, n agent.Netcheck) {
	rows := newTable()
	rows.add("UDP", yesNo(n.UDP))
	rows.add("IPv4", yesNo(n.IPv4))
	rows.add("IPv6", yesNo(n.IPv6))
	if n.UDP {
		rows.add("seen from outside as", strings.Join(n.Mapped, ", "))
		if len(n.Pool) > 0 {
			rows.add("outside addresses", "any of "+strings.Join(n.Pool, ", "))
		}
		rows.add("mapping", behaviour(n.Mapping, n.MappingNot))
		rows.add("filtering", behaviour(n.Filtering, n.FilteringNot))
		rows.add("outside port", portRule(n))
		rows.add("idle mappings last", idleText(n))
		rows.add("mappings end at", absoluteText(n))
		rows.add("hairpinning", yesNo(n.Hairpin))
		rows.add("carrier-grade NAT", map[bool]string{true: "yes", false: "none seen"}[n.CGNAT])
		rows.add("port mapping", routersText(n.Routers, n.Mapped))
		rows.add("ports that answered", strings.Join(portWords(n.UsablePorts), ", "))
	}
	addTCP(rows, n)
	for _, l := range n.Measured {
		rows.add("measured with "+l.Peer, measuredText(l))
	}
	rows.write(w, "")
	if text := withoutUDP(n); text != "" {
		fmt.Fprintln(w, "\n"+text)
	}
}

// addTCP tells of TCP where it was asked for.
func addTCP(rows *table, n agent.Netcheck) {
	if n.FakeTCP == "" {
		return
	}
	rows.add("TCP", yesNo(plainTCP(n)))
	if len(n.TCPPorts) > 0 {
		rows.add("mapping of TCP", behaviour(n.TCPMapping, n.TCPMappingNot))
		rows.add("ports over TCP", strings.Join(portWords(n.TCPPorts), ", "))
	}
	if n.Via != "" {
		rows.add("TLS to the coordinator", "through the proxy "+n.Via)
	} else if n.TLS {
		rows.add("TLS to the coordinator", "yes")
	}
	rows.add("fake TCP", n.FakeTCP)
	if len(n.FakeTCPPorts) > 0 {
		rows.add("ports over fake TCP", strings.Join(portWords(n.FakeTCPPorts), ", "))
		boxes := strings.Join(n.Middlebox, ", ")
		if boxes == "" {
			boxes = "nothing"
		}
		rows.add("done to TCP on the way", boxes)
	}
}

// withoutUDP says what it means for the user where UDP does not pass.
func withoutUDP(n agent.Netcheck) string {
	switch {
	case n.UDP || !plainTCP(n) && n.FakeTCP != fakeOK:
		return ""
	case n.FakeTCP == fakeOK && onlyWeb(n.FakeTCPPorts):
		return "Only the ports of web sites pass here: another agent is reached directly where it has one of them\n" +
			"outside, as behind a router that keeps ports (direct-faketcp), else by the coordinator (relay-faketcp).\n" +
			"Datagrams dressed as TCP do pass: one that is lost delays no other."
	case n.FakeTCP == fakeOK:
		return "UDP does not pass here. Datagrams dressed as TCP do (direct-faketcp, relay-faketcp): they stay\n" +
			"datagrams, and one that is lost delays no other."
	}
	if len(n.TCPPorts) == 0 && n.Via != "" {
		return "Only the proxy leads out of here, so data goes over relay-tls: whatever is lost delays all that\n" +
			"is behind it."
	}
	text := "UDP does not pass here. TCP does, so data goes over direct-tcp or relay-tls: whatever is lost\n" +
		"delays all that is behind it."
	if n.FakeTCP == "unprivileged" {
		text += " As root, or with CAP_NET_RAW, fake TCP may do better: see agent doctor."
	}
	return text
}

// onlyWeb says whether no port but those of web sites has answered.
func onlyWeb(ports []int) bool {
	return !slices.ContainsFunc(ports, func(p int) bool { return p != 80 && p != 443 })
}

func portRule(n agent.Netcheck) string {
	switch {
	case n.PortPreserving:
		return "the local port"
	case n.PortDelta != 0:
		return fmt.Sprintf("the last one %+d", n.PortDelta)
	}
	return "no rule seen"
}

func behaviour(is string, not []string) string {
	if is == stun.Unknown.String() && len(not) > 0 {
		return "unknown, but not " + strings.Join(not, " nor ")
	}
	return is
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
