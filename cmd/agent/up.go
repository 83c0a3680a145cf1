package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

// upFlags are what `agent up` takes.
type upFlags struct {
	config       string
	expose, dial []string
	paths        string
	noPortmap    bool
	noSpray      bool
	fastPath     bool
}

func newUp(t *terminal) *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the agent until Ctrl-C",
		Long: `Run the agent: stay registered at the coordinator, offer services, listen for
local clients of peers' services, and keep looking for a better path. The other
commands talk to it. Logs go to stderr, as JSON when that is not a terminal.

URLs are udp://HOST:PORT for datagrams or tcp://HOST:PORT for connections.
` + exposeOptions + `
A dialed URL may end in ?paths= too.`,
		Example: `  agent up --expose 'wg=udp://127.0.0.1:51820?raw'
  agent up --expose 'wg=udp://127.0.0.1:51820?raw&public=51820'
  agent up --dial home/wg=udp://127.0.0.1:51821
  agent up --expose ssh=tcp://127.0.0.1:22
  agent up --dial home/ssh=tcp://127.0.0.1:2222
  agent up --config /etc/rendezvous/agent.yaml`,
		Args: ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := t.folder()
			if err != nil {
				return err
			}
			cfg, err := f.load()
			if err != nil {
				return err
			}
			return up(cmd.Context(), dir, cfg)
		},
	}
	cmd.Flags().StringVar(&f.config, "config", "", "read this agent.yaml `file`")
	cmd.Flags().StringArrayVar(&f.expose, "expose", nil, "offer a local service: `NAME=URL`; may be given again")
	cmd.Flags().StringArrayVar(&f.dial, "dial", nil, "listen for clients of a peer's service: `PEER/NAME=URL`; may be given again")
	cmd.Flags().StringVar(&f.paths, "paths", "", "allow only these paths: a `list` such as direct-udp,relay-udp (default all)")
	cmd.Flags().BoolVar(&f.noPortmap, "no-portmap", false, "ask the router here for no port (PCP, NAT-PMP, UPnP)")
	cmd.Flags().BoolVar(&f.noSpray, "no-spray", false, "never try many ports by chance where a NAT's are random")
	cmd.Flags().BoolVar(&f.fastPath, "fastpath", false, "have the kernel forward raw services' datagrams on direct-udp (Linux 6.6, privileged)")
	return cmd
}

func (f upFlags) load() (agent.Config, error) {
	cfg := agent.DefaultConfig()
	if f.config != "" {
		var err error
		if cfg, err = agent.LoadConfig(f.config); err != nil {
			return agent.Config{}, err
		}
	}
	if err := cfg.AddFlags(f.expose, f.dial, f.paths); err != nil {
		return agent.Config{}, usage(err)
	}
	cfg.FastPath = cfg.FastPath || f.fastPath
	cfg.Portmap = cfg.Portmap && !f.noPortmap
	cfg.Punch.Spray = cfg.Punch.Spray && !f.noSpray
	return cfg, usage(cfg.Check())
}

// up runs the agent with its state folder and everything around it.
func up(ctx context.Context, dir string, cfg agent.Config) error {
	log, err := ops.NewLog(os.Stderr, cfg.LogLevel)
	if err != nil {
		return err
	}
	// Before the lock, so that a folder that isn't one says the right thing.
	if _, err := agent.OpenState(dir); err != nil {
		return err
	}
	control, err := ops.Listen(dir)
	if err != nil {
		return err
	}
	// Serve closes it too; this is for the ways out before that.
	defer func() { _ = control.Close() }()
	if cfg.State, err = agent.OpenState(dir); err != nil {
		return err
	}
	if cfg.Name != "" && cfg.Name != cfg.State.Name() {
		return ops.Usage("name: this agent has joined as %q and the config calls it %q; set that right, or join again by the other name with another --state", cfg.State.Name(), cfg.Name)
	}
	if err := forgetReplaced(cfg, log); err != nil {
		return err
	}
	cfg.Log, cfg.Version = log, ops.Version()
	equip(&cfg)
	if kernel := cfg.Host.FastPath.Kernel; kernel != nil {
		defer kernel.Close()
	}
	ops.HalfTheProcessors()
	if why := cfg.Host.NoFakeTCP; why != nil {
		log.Info().Str("reason", why.Reason).Str("advice", why.Advice).Msg("no fake TCP on this host; all other paths work")
	}
	if err := cfg.Host.FastPath.Lacks; err != nil {
		log.Warn().Err(err).Msg("fastpath: the agent forwards all datagrams itself")
	}
	daemon, err := agent.New(cfg)
	if err != nil {
		return err
	}
	return serve(ctx, cfg, daemon, control)
}

// forgetReplaced drops services and dials that were added while an earlier
// agent ran, where the config now has a service of that name, or a dial at that
// address.
func forgetReplaced(cfg agent.Config, log zerolog.Logger) error {
	for _, s := range cfg.Expose {
		if err := cfg.State.RemoveService(s.Name); err != nil {
			return err
		}
	}
	kept, err := cfg.State.Dials()
	if err != nil {
		return err
	}
	for _, old := range kept {
		for _, d := range cfg.Dial {
			if old.TCP != d.TCP || old.Addr() != d.Addr() || old.Port == 0 && old.Target() != d.Target() {
				continue // two dials of one service at different addresses are two
			}
			if old != d {
				log.Warn().Stringer("kept", old).Stringer("config", d).Msg("a dial that was added on the running agent gives way to the config's")
			}
			if err := cfg.State.RemoveDial(old); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// runner is the agent's core.
type runner interface {
	agent.Daemon
	Run(ctx context.Context) error
}

// serve runs the core and what tells others about it, until ctx ends or one of
// them fails.
func serve(ctx context.Context, cfg agent.Config, daemon runner, control *ops.Control) error {
	group, ctx := errgroup.WithContext(ctx)
	if cfg.Metrics != "" {
		listener, err := ops.ListenMetrics(cfg.Metrics)
		if err != nil {
			return err
		}
		handler := metricsHandler(daemon)
		group.Go(func() error { return ops.ServeMetrics(ctx, listener, handler) })
	}
	group.Go(func() error { return daemon.Run(ctx) })
	group.Go(func() error { return control.Serve(ctx, agent.NewHandler(daemon)) })
	group.Go(func() error { return announce(ctx, daemon, cfg.Log) })
	group.Go(func() error {
		// Status takes every lock that the core could hang on.
		return ops.Watchdog(ctx, func(context.Context) error { daemon.Status(); return nil })
	})
	return group.Wait()
}

// How long the service manager is kept waiting for the coordinator, and how
// often that is looked for. An agent without a coordinator is up all the same:
// it keeps trying.
const (
	announceWait  = 5 * time.Second
	announceEvery = 50 * time.Millisecond
)

// announce tells the service manager that the agent is up once it is
// registered, or cannot be for a while, and in the end that it stops.
func announce(ctx context.Context, daemon agent.Watcher, log zerolog.Logger) error {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	enough := time.After(announceWait)
	s := daemon.Status()
	for waiting := true; waiting && !s.Coordinator.Connected; s = daemon.Status() {
		select {
		case <-ctx.Done():
			return nil
		case <-enough:
			waiting = false
		case <-tick.C:
		}
	}
	where := coordinatorLine(s.Coordinator)
	log.Info().Str("name", s.Name).Str("coordinator", where).Int("services", len(s.Services)).Int("dials", len(s.Dials)).Msg("up")
	if err := ops.Ready(fmt.Sprintf("%s, coordinator %s", s.Name, where)); err != nil {
		return err
	}
	<-ctx.Done()
	log.Info().Msg("stopping")
	return ops.Stopping("leaving")
}

func metricsHandler(daemon agent.Watcher) http.Handler {
	registry := ops.NewRegistry()
	registry.MustRegister(agent.NewCollector(daemon))
	return ops.MetricsHandler(registry, func(context.Context) error {
		s := daemon.Status()
		if !s.Coordinator.Connected {
			return fmt.Errorf("coordinator %s", coordinatorLine(s.Coordinator))
		}
		return nil
	})
}
