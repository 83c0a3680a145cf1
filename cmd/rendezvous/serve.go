package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rendezvous/internal/dgram"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/stripe"
)

// serveFlags are those of `serve`; each overrides a setting when it is given.
type serveFlags struct {
	config, listen, public, host, metrics, log string
	publish                                    string
	ports                                      []int
}

func newServe(t *terminal) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the coordinator",
		Long: `Run the coordinator until SIGTERM or SIGINT.

It needs one UDP port that is open to the world (443), and wants a second one
(3478) for STUN. Control connections, STUN and the relay share both.

Open the same ports over TCP, for agents in networks that let no UDP pass. There
it serves TLS, and datagrams that travel dressed as TCP segments, which takes
CAP_NET_RAW. --ports names more of them; what is taken by another program, such
as a web server on TCP 443, is left to it, and the log says so.

With two addresses of this host in --public-addr it answers all tests of
RFC 5780, so that agents learn what their NATs do. Behind a NAT that forwards
the ports, name the outside address there.

--publish says which ports members may have opened to clients without an agent,
such as a phone with WireGuard alone: a member asks for one with ?public=PORT on
a service. ` + "`publish:`" + ` in the configuration says it by member, and sets bounds.`,
		Args: ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := f.settings(cmd)
			if err != nil {
				return err
			}
			if t.state == "" {
				t.state = s.State
			}
			return serve(cmd.Context(), t, s)
		},
	}
	cmd.Flags().StringVar(&f.config, "config", "", "`file` with settings (YAML)")
	cmd.Flags().StringVar(&f.listen, "listen", "", "`[IP]:PORT` to listen on (default :443)")
	cmd.Flags().IntSliceVar(&f.ports, "ports", nil, "more `ports` to listen on, such as 80,8443")
	cmd.Flags().StringVar(&f.public, "public-addr", "", "outside `IP[,IP2]` of this host")
	cmd.Flags().StringVar(&f.host, "host", "", "`HOST[:PORT]` that join links name (default: the first public address)")
	cmd.Flags().StringVar(&f.publish, "publish", "", "`ports` that members may open to clients without an agent, such as 51820,30000-30100 (default: none)")
	cmd.Flags().StringVar(&f.metrics, "metrics", "", "`ADDRESS:PORT` for Prometheus and health checks (default: none)")
	cmd.Flags().StringVar(&f.log, "log", "", "least `level` of the log: debug, info, warn or error (default info)")
	return cmd
}

// settings are the file's with the flags over them.
func (f *serveFlags) settings(cmd *cobra.Command) (settings, error) {
	s := defaultSettings()
	if f.config != "" {
		if err := s.read(f.config); err != nil {
			return s, err
		}
	}
	for name, set := range map[string]func(){
		"listen":      func() { s.Listen = f.listen },
		"ports":       func() { s.Ports = f.ports },
		"public-addr": func() { s.PublicAddr = ops.SplitList(f.public) },
		"host":        func() { s.Host = f.host },
		"metrics":     func() { s.Metrics = f.metrics },
		"log":         func() { s.Log = f.log },
		"publish":     func() { s.Publish = []publishing{{Ports: ops.SplitList(f.publish)}} },
	} {
		if cmd.Flags().Changed(name) {
			set()
			s.from.Override(strings.ReplaceAll(name, "-", "_"), "--"+name)
		}
	}
	return s, nil
}

// serve runs the coordinator until ctx ends.
func serve(ctx context.Context, t *terminal, s settings) (err error) {
	p, err := s.Check()
	if err != nil {
		return err
	}
	log, err := ops.NewLog(t.log, s.Log)
	if err != nil {
		return err
	}
	dir, err := t.folder()
	if err != nil {
		return err
	}
	if err := ops.MakeState(dir); err != nil {
		return err
	}
	control, err := ops.Listen(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	registry, err := rendezvous.OpenRegistry(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	metrics, err := listenMetrics(s.Metrics)
	if err != nil {
		return err
	}
	if name := p.stripe.sumless(p); s.Stripe.Apply && s.Offload && name != "" {
		s.Offload = false
		log.Warn().Str("interface", name).Msg("this interface computes no checksums, and bursts that leave translated ports would have wrong ones: offload is off")
	}
	config := serverConfig(s, p, registry, log)
	var server *rendezvous.Server
	keeper := newKeeper(func() (stripe.Config, error) {
		return p.stripe.config(p, listening{server.Addrs(), server.StreamAddrs()})
	})
	keeper.Log = log
	if s.Stripe.Apply {
		config.Stripe = func() *rendezvous.StripeStatus { return stripeStatus(keeper) }
	}
	if server, err = rendezvous.New(config); err != nil {
		return err
	}
	host := advertise(p, server.Addrs()[0], log)
	if err := registry.SetHost(host); err != nil {
		log.Error().Err(err).Msg("keep the host of join links for `rendezvous invite`")
	}
	log.Info().Str("version", ops.Version()).Str("state", dir).Str("host", host).Any("listen", server.Listening()).Msg("serving")
	tasks, ctx := errgroup.WithContext(ctx)
	if s.Stripe.Apply {
		tasks.Go(func() error { return keeper.Run(ctx) })
	}
	tasks.Go(func() error { return control.Serve(ctx, withStripe(server.Control(), keeper.Config)) })
	tasks.Go(func() error { return runAll(ctx, server, metrics, log) })
	return tasks.Wait()
}

// listenMetrics gives nil where no metrics are wanted.
func listenMetrics(addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	return ops.ListenMetrics(addr)
}

// runAll runs everything that serves, until ctx ends or one of it fails.
func runAll(ctx context.Context, server *rendezvous.Server, metrics net.Listener, log zerolog.Logger) error {
	tasks, ctx := errgroup.WithContext(ctx)
	if metrics != nil {
		registry := ops.NewRegistry()
		registry.MustRegister(server.Collector())
		tasks.Go(func() error { return ops.ServeMetrics(ctx, metrics, ops.MetricsHandler(registry, server.Health)) })
	}
	tasks.Go(func() error { return server.Run(ctx) })
	tasks.Go(func() error {
		tellManager(ctx, server, log)
		return nil
	})
	return tasks.Wait()
}

// tellManager keeps the service manager informed until ctx ends. That it can't
// be told is no reason to stop serving.
func tellManager(ctx context.Context, server *rendezvous.Server, log zerolog.Logger) {
	warn := func(err error) {
		if err != nil {
			log.Warn().Err(err).Msg("no word to the service manager")
		}
	}
	warn(ops.Ready("serving agents"))
	warn(ops.Watchdog(ctx, server.Health))
	<-ctx.Done()
	warn(ops.Stopping("saying goodbye to the agents"))
}

func serverConfig(s settings, p parsed, registry *rendezvous.Registry, log zerolog.Logger) rendezvous.Config {
	alternate := s.AlternatePort
	if alternate == 0 {
		alternate = rendezvous.NoAlternate
	}
	options := dgram.DefaultOptions()
	options.Offload = s.Offload
	var streams dgram.Streams
	if s.TCP {
		streams = dgram.SystemStreams()
	}
	return rendezvous.Config{
		PortConfig: rendezvous.PortConfig{Publish: p.publish, Share: p.share},
		Streams:    streams,
		FakeTCP:    fakeTCP(s, log),
		Ports:      p.ports,
		Network:    dgram.System(options),
		Registry:   registry,
		Listen:     p.listen,
		Alternate:  alternate,
		Public:     p.public,
		Route:      route,
		Log:        log,
		Version:    ops.Version(),
		Limits: rendezvous.Limits{
			Connections:          s.Limits.Connections,
			ConnectionsPerSource: s.Limits.ConnectionsPerSource,
			Introductions:        s.Limits.Introductions,
			Relay: relay.Limits{
				Bytes:       s.Limits.RelayMegabits * 1e6 / 8,
				Datagrams:   s.Limits.RelayDatagramsSecond,
				Allocations: s.Limits.RelayAllocations,
				PerMember:   s.Limits.RelayPerMember,
				Public:      s.Limits.RelayPublic,
			},
		},
	}
}

// The flows that fake TCP remembers: each agent has a few, and a carrier's NAT
// may hide many agents.
const (
	fakeFlows        = 65536 // of one port
	fakeFlowsPerPeer = 2048  // of one address
)

// fakeTCP is nil, with a line in the log, where this host or user can't.
func fakeTCP(s settings, log zerolog.Logger) dgram.FakeTCP {
	if !s.FakeTCP {
		return nil
	}
	f, err := faketcp.System(faketcp.Options{MaxRemotes: fakeFlows, PerPeer: fakeFlowsPerPeer})
	var why *path.Failure
	switch {
	case err == nil:
		return f
	case !errors.As(err, &why) || why.Reason != "unprivileged":
		log.Info().Err(err).Msg("no fake TCP on this host; going on without")
	default:
		log.Warn().Err(err).Msg("no fake TCP: agents in networks that hinder UDP are served over TLS, which is slower; " + mendFakeTCP())
	}
	return nil
}

// mendFakeTCP is the command that gives this program the privilege.
func mendFakeTCP() string {
	program, err := os.Executable()
	if err != nil {
		program = "/usr/local/bin/rendezvous"
	}
	return "`sudo setcap cap_net_raw,cap_net_bind_service=+ep " + program + "` and a restart mend it, deploy/rendezvous.service has it already; `faketcp: false` in the configuration ends this warning"
}

// route is the own address from which the kernel answers an agent. Connecting
// a UDP socket sends nothing.
func route(to netip.Addr) (netip.Addr, bool) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{}, false
	}
	from, ok := c.LocalAddr().(*net.UDPAddr)
	if err := c.Close(); err != nil || !ok {
		return netip.Addr{}, false
	}
	return from.AddrPort().Addr().Unmap(), true
}

// advertise is the HOST:PORT of join links: the one that was set, else the
// first public address, else the one that looks most like it.
func advertise(p parsed, first netip.AddrPort, log zerolog.Logger) string {
	port := first.Port()
	if p.host.port != 0 {
		port = p.host.port
	}
	name := p.host.name
	switch {
	case name != "":
	case len(p.public) > 0:
		name = p.public[0].String()
	case !first.Addr().IsUnspecified():
		name = first.Addr().String()
	default:
		name = guessAddr(log).String()
	}
	return net.JoinHostPort(name, strconv.Itoa(int(port)))
}

func guessAddr(log zerolog.Logger) netip.Addr {
	for _, v4 := range []bool{true, false} {
		a, ok := rendezvous.OutsideAddr(dgram.System(dgram.Options{}), v4)
		if !ok {
			continue
		}
		if a.IsPrivate() {
			log.Warn().Stringer("addr", a).Msg("this host's own address is a private one, which join links will name; give the outside address with --public-addr, or a name with --host")
		}
		return a
	}
	log.Warn().Msg("this host has no address that agents could reach, so join links will name 127.0.0.1; give one with --public-addr, or a name with --host")
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
