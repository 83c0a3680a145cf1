package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

// exposeOptions are those of forward.ParseTarget.
const exposeOptions = `
An exposed URL may end in options, as in ?raw&public=51820:
  raw              datagrams cross unchanged, for a service that protects its own
                   payload as WireGuard does; else they are sealed end to end
  public=PORT      the coordinator opens this port to clients without an agent
  alias            each client comes from a loopback address of its own, to a
                   service on 127.0.0.1
  proxy            the service is told each client's address by a header of the
                   PROXY protocol, version 2; for tcp://
  paths=KIND+KIND  only by these paths: direct-udp, direct-faketcp, direct-tcp,
                   relay-udp, relay-faketcp, relay-tls
`

func newExpose(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "expose NAME=URL",
		Short: "Offer a local service to the peers, on the running agent",
		Long: `Offer a local service to the peers, on the running agent and after it starts
again: udp://HOST:PORT for datagrams or tcp://HOST:PORT for connections.
` + exposeOptions + `
Where the coordinator refuses a public port, this exits with 1; the peers have the
service all the same, and the agent asks again.`,
		Example: `  agent expose 'wg=udp://127.0.0.1:51820?raw'
  agent expose 'wg=udp://127.0.0.1:51820?raw&public=51820'
  agent expose ssh=tcp://127.0.0.1:22
  agent expose 'web=tcp://127.0.0.1:80?public=8080&proxy'`,
		Args: ops.Takes("NAME=URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := agent.ParseExposeFlag(args[0])
			if err != nil {
				return usage(err)
			}
			c, err := t.client()
			if err != nil {
				return err
			}
			if err := c.Expose(cmd.Context(), s); err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s is offered as %s\n", s.URL(), s.Name)
			if s.Public == 0 {
				return nil
			}
			return t.tellPublic(cmd.Context(), c, s)
		},
	}
}

// How long the coordinator may take to say whether it opens a port.
const (
	publicWithin = 5 * time.Second
	publicLook   = 50 * time.Millisecond
)

// tellPublic says what came of a service's public port.
func (t *terminal) tellPublic(ctx context.Context, c *agent.Client, s agent.Service) error {
	ctx, cancel := context.WithTimeout(ctx, publicWithin)
	defer cancel()
	for {
		status, err := c.Status(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		switch public := publicOf(status, s.Name); {
		case err != nil || !status.Coordinator.Connected || public == nil:
			fmt.Fprintf(t.out, "public port %d waits for the coordinator; `agent status` shows it\n", s.Public)
			return nil
		case public.State == agent.PublicRefused:
			return ops.Failed("public port %d of %s is not open: %s", s.Public, s.Name, public.Reason)
		case public.State == agent.PublicOpen:
			fmt.Fprintf(t.out, "clients without an agent reach it at %s\n", strings.Join(public.Addrs, ", "))
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(publicLook):
		}
	}
}

func publicOf(status agent.Status, service string) *agent.PublicStatus {
	for _, each := range status.Services {
		if each.Name == service {
			return each.Public
		}
	}
	return nil
}

func newUnexpose(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:     "unexpose NAME",
		Short:   "Take a service back, on the running agent",
		Example: "  agent unexpose wg",
		Args:    ops.Takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := agent.CheckName("service", args[0]); err != nil {
				return usage(err)
			}
			c, err := t.client()
			if err != nil {
				return err
			}
			if err := c.Unexpose(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s is no longer offered\n", args[0])
			return nil
		},
	}
}

func newDial(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "dial PEER/NAME=URL",
		Short: "Listen here for clients of a peer's service, on the running agent",
		Long: `Listen at URL for local clients and carry each to the service NAME of PEER, on
the running agent and after it starts again. A tcp:// URL takes connections, for
a service of that sort. With ?paths=KIND+KIND both directions take these kinds of
path alone; 'agent expose --help' names them.`,
		Example: `  agent dial home/wg=udp://127.0.0.1:51821
  agent dial home/ssh=tcp://127.0.0.1:2222`,
		Args: ops.Takes("PEER/NAME=URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := agent.ParseDialFlag(args[0])
			if err != nil {
				return usage(err)
			}
			c, err := t.client()
			if err != nil {
				return err
			}
			if err := c.Dial(cmd.Context(), d); err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s leads to %s\n", d.URL(), d.Target())
			return nil
		},
	}
}

func newHangup(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "hangup PEER/NAME[=URL]",
		Short: "End a dial, on the running agent",
		Long: `End a dial, on the running agent and after it starts again. Where the service is
dialed at several addresses, URL says which of them is to end.`,
		Example: `  agent hangup home/wg
  agent hangup home/ssh=tcp://127.0.0.1:2222`,
		Args: ops.Takes("PEER/NAME[=URL]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, url, has := strings.Cut(args[0], "=")
			peer, service, err := agent.ParseTarget(target)
			if err == nil && has {
				_, err = agent.ParseDial(peer, service, url)
			}
			if err != nil {
				return usage(err)
			}
			c, err := t.client()
			if err != nil {
				return err
			}
			if err := c.Hangup(cmd.Context(), peer, service, url); err != nil {
				return err
			}
			if has {
				fmt.Fprintf(t.out, "%s does not lead to %s any more\n", url, target)
			} else {
				fmt.Fprintf(t.out, "nothing leads to %s any more\n", target)
			}
			return nil
		},
	}
}
