package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
	"rendezvous/internal/tun"
)

// Names that are used where none is given.
const (
	tunDevice  = "rdv0"
	tunService = "tun"
)

// tunFlags are what `agent tun` takes.
type tunFlags struct {
	device            string
	addresses, routes []string
	mtu               int

	listenPort, endpointPort uint16
	bindTo                   string

	peer, expose string
	raw          bool
}

func newTun(t *terminal) *cobra.Command {
	var f tunFlags
	cmd := &cobra.Command{
		Use:   "tun --peer PEER[/NAME] | --expose[=NAME] | --interface NAME --listen-port PORT --bind-to-interface NAME",
		Short: "Carry the TCP of a TUN device (Linux)",
		Long: `Make a TUN device and carry its TCP packets as datagrams that hold the TCP
segment alone, 8 bytes more than native TCP. It takes CAP_NET_ADMIN.

Over the running agent's sessions, sealed: --expose offers this host to the
peers as service NAME (tun), and --peer reaches one that does. The dialing side
sees the peer at one address, which is printed; the exposing side sees each
dialing process at an address of its own, which stays when the peer's does not.
With --raw the segments cross unsealed: only for what is TLS or SSH inside.

Without an agent and without authentication, in the form of the program that
this replaces: --listen-port is the UDP port of all that is sent and received,
by the interface --bind-to-interface. Each client gets an inside address until it has
been silent for 5 minutes. With --endpoint-port all peers use that port and are
known by their real addresses: lead those to the device with --route. All that is
sent to them then goes there, and what is not TCP is dropped.`,
		Example: `  agent tun --expose                        # at home
  agent tun --peer home                     # elsewhere: prints home's address

  agent tun --interface tcp0 --listen-port 4000 --bind-to-interface eth0
  agent tun --interface tcp0 --listen-port 4000 --bind-to-interface wwan1 --endpoint-port 4000 --route 203.0.113.10/32`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && cmd.Flags().Changed("expose") && f.expose == tunService {
				f.expose = args[0] // --expose NAME
				return nil
			}
			return ops.Takes()(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := f.check()
			if err != nil {
				return usage(err)
			}
			return f.run(cmd.Context(), t, settings)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.device, "interface", "", "the TUN `device` to make (default "+tunDevice+")")
	flags.StringSliceVar(&f.addresses, "addresses", []string{tun.DefaultSpan4, tun.DefaultSpan6}, "inside `ranges`: the first address of each is the device's, the others stand for peers")
	flags.StringSliceVar(&f.routes, "route", nil, "lead these `ranges` to the device too")
	flags.IntVar(&f.mtu, "mtu", 0, "longest packet of the device in `bytes` (default what crosses whole)")
	flags.StringVar(&f.peer, "peer", "", "reach the `peer` that exposes its TCP: PEER or PEER/NAME")
	flags.StringVar(&f.expose, "expose", "", "offer this host's TCP to the peers, as service `NAME`")
	flags.Lookup("expose").NoOptDefVal = tunService
	flags.BoolVar(&f.raw, "raw", false, "with --expose: do not seal what crosses")
	flags.Uint16Var(&f.listenPort, "listen-port", 0, "without an agent: the UDP `port` here")
	flags.StringVar(&f.bindTo, "bind-to-interface", "", "without an agent: the `interface` to send and receive by")
	flags.Uint16Var(&f.endpointPort, "endpoint-port", 0, "without an agent: the UDP `port` of all peers, which keep their real addresses")
	return cmd
}

// plain says whether no agent takes part.
func (f *tunFlags) plain() bool {
	return f.listenPort != 0 || f.endpointPort != 0 || f.bindTo != "" || f.peer == "" && f.expose == ""
}

// Bounds of --mtu: what IPv6 needs at least (RFC 8200 section 5), and the
// longest packet.
const (
	leastMTU = 1280
	mostMTU  = 65535
)

// faults are what is wrong with the flags.
type faults []error

// add notes a fault, where it is one.
func (f *faults) add(wrong bool, format string, args ...any) {
	if wrong {
		*f = append(*f, fmt.Errorf(format, args...))
	}
}

// check finds all faults at once, and fills in what was left out.
func (f *tunFlags) check() (tun.Settings, error) {
	var all faults
	if f.plain() {
		f.checkPlain(&all)
	} else {
		f.checkSession(&all)
	}
	all.add(f.raw && f.expose == "", "--raw goes with --expose: the side that offers decides")
	all.add(f.mtu != 0 && (f.mtu < leastMTU || f.mtu > mostMTU), "--mtu %d is not between %d and %d", f.mtu, leastMTU, mostMTU)
	if f.device == "" {
		f.device = tunDevice
	}
	const longest = 15 // IFNAMSIZ and its zero
	all.add(len(f.device) > longest || strings.ContainsAny(f.device, "/: %"), "--interface %q: a name has at most %d letters, and none of / : %%", f.device, longest)
	s := f.settings(&all)
	return s, errors.Join(all...)
}

// settings are the device's.
func (f *tunFlags) settings(all *faults) tun.Settings {
	s := tun.Settings{Name: f.device, MTU: f.mtu}
	families := map[bool]bool{}
	for _, a := range f.addresses {
		span, err := tun.ParseSpan(a)
		if err != nil {
			all.add(true, "--addresses: %w", err)
			continue
		}
		six := span.Own().Addr().Is6()
		all.add(families[six], "--addresses: %s is a second range of its family", a)
		families[six] = true
		s.Spans = append(s.Spans, span)
	}
	all.add(len(f.addresses) == 0, "--addresses is empty")
	for _, r := range f.routes {
		to, err := netip.ParsePrefix(r)
		all.add(err != nil, "--route: %q is not a range like 203.0.113.10/32", r)
		s.Routes = append(s.Routes, to)
	}
	return s
}

func (f *tunFlags) checkPlain(all *faults) {
	if f.peer == "" && f.expose == "" && f.listenPort == 0 && f.bindTo == "" && f.endpointPort == 0 {
		all.add(true, "say --peer PEER, --expose, or --listen-port and --bind-to-interface")
		return
	}
	all.add(f.peer != "" || f.expose != "", "--peer and --expose go through the agent, --listen-port, --bind-to-interface and --endpoint-port do without: choose one")
	all.add(f.device == "", "--interface is missing")
	all.add(f.listenPort == 0, "--listen-port is missing")
	all.add(f.bindTo == "", "--bind-to-interface is missing")
}

func (f *tunFlags) checkSession(all *faults) {
	var err error
	switch {
	case f.peer != "" && f.expose != "":
		err = errors.New("--peer and --expose are two devices: run this twice, with --interface and --addresses that differ")
	case f.expose != "":
		err = agent.CheckName("service", f.expose)
	default:
		if !strings.Contains(f.peer, "/") {
			f.peer += "/" + tunService
		}
		_, _, err = agent.ParseTarget(f.peer)
	}
	all.add(err != nil, "%w", err)
}
