package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/stripe"
)

// pathStripe on the control socket tells what is to lead where.
const pathStripe = "/stripe"

func newStripe(t *terminal) *cobra.Command {
	var f stripeFlags
	cmd := &cobra.Command{
		Use:   "stripe",
		Short: "Let every port of this host lead to the coordinator (nftables)",
		Long: `Let every UDP and TCP port of this host's public addresses lead to the coordinator,
so that agents reach it from networks that pass no matter which port.

Left out are the ports that a program of this host listens on, SSH's in any case,
those of ` + "`publish:`" + `, and those that ` + "`stripe:`" + ` in the configuration excludes or
reserves. What docker or a firewall forwards stays theirs. The rules are a table of
their own, inet ` + stripe.Table + `, for IPv4 and IPv6, and answers leave from the port that
was asked. Interfaces of those addresses merge datagrams for all ports meanwhile
(rx-udp-gro-forwarding of ethtool, from Linux 6.2 on).

What leads where is told by the daemon that runs with the state folder, or by
--config. To have the daemon keep the rules while it runs, set ` + "`stripe: {apply: true}`" + `.`,
		Example: `  rendezvous stripe print            # what would be done, as a file for nft -f
  sudo rendezvous stripe apply       # do it, once
  sudo rendezvous stripe apply --keep   # and follow changes until it is stopped
  sudo rendezvous stripe remove`,
	}
	cmd.PersistentFlags().StringVar(&f.config, "config", "", "`file` with settings (YAML), in place of asking the daemon")
	show := &cobra.Command{
		Use: "print", Short: "Print the rules as a file for `nft -f`, and change nothing", Args: ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			k := f.keeper(cmd.Context(), t)
			k.System.Apply = func(r stripe.Rules) error { return printRules(t.out, r) }
			_, err := k.Once()
			return err
		},
	}
	apply := &cobra.Command{
		Use: "apply", Short: "Put the rules into nftables, in place of those of an earlier time", Args: ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.apply(cmd.Context(), t) },
	}
	apply.Flags().BoolVar(&f.keep, "keep", false, "stay, put them back when they are flushed, follow programs that begin to listen, and remove them at the end")
	remove := &cobra.Command{
		Use: "remove", Short: "Take the rules out of nftables; none there is fine", Args: ops.Takes(),
		RunE: func(*cobra.Command, []string) error {
			if err := stripe.Remove(); err != nil {
				return err
			}
			fmt.Fprintln(t.out, "no other port leads to the coordinator any more")
			return nil
		},
	}
	cmd.AddCommand(show, apply, remove)
	return ops.Group(cmd)
}

// stripeFlags are those of `stripe` and its subcommands.
type stripeFlags struct {
	config string
	keep   bool
}

func (f *stripeFlags) apply(ctx context.Context, t *terminal) error {
	k := f.keeper(ctx, t)
	rules, err := k.Once() // so that a fault at the beginning is this command's
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(t.out, rules.Summary()); err != nil {
		return err
	}
	if name := stripe.WithoutChecksums(rules.Addrs); name != "" {
		_, _ = fmt.Fprintf(t.log, "%s computes no checksums, and bursts that leave translated ports would have wrong ones: set `offload: false` in rendezvous.yaml\n", name)
	}
	if !f.keep {
		return nil
	}
	if k.Log, err = ops.NewLog(t.log, "info"); err != nil {
		return err
	}
	return k.Run(ctx)
}

func printRules(w io.Writer, r stripe.Rules) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", r.Summary())
	for _, each := range []struct {
		name string
		lead stripe.Lead
	}{{"UDP", r.UDP}, {"TCP", r.TCP}} {
		if each.lead.To != 0 {
			fmt.Fprintf(&b, "# left out over %s: %v\n", each.name, stripe.All().Without(each.lead.Ports))
		}
	}
	_, err := io.WriteString(w, b.String()+r.Script())
	return err
}

// keeper is one for this host, whose settings are the daemon's or the file's.
func (f *stripeFlags) keeper(ctx context.Context, t *terminal) *stripe.Keeper {
	return newKeeper(func() (stripe.Config, error) {
		if f.config == "" {
			return askDaemon(ctx, t)
		}
		s := defaultSettings()
		if err := s.read(f.config); err != nil {
			return stripe.Config{}, err
		}
		p, err := s.Check()
		if err != nil {
			return stripe.Config{}, err
		}
		d := listening{udp: []netip.AddrPort{p.listen}}
		if s.TCP {
			d.tcp = d.udp
		}
		return p.stripe.config(p, d)
	})
}

func askDaemon(ctx context.Context, t *terminal) (stripe.Config, error) {
	var c stripe.Config
	dir, err := t.folder()
	if err != nil {
		return c, err
	}
	err = ops.NewClient(dir).Call(ctx, pathStripe, nil, &c)
	if errors.Is(err, ops.ErrNoDaemon) {
		err = fmt.Errorf("%w; or tell by --config which ports it will have", err)
	}
	return c, err
}

// newKeeper is a keeper for this host.
func newKeeper(config func() (stripe.Config, error)) *stripe.Keeper {
	return &stripe.Keeper{
		Config: func() (stripe.Config, error) {
			c, err := config()
			if err == nil {
				c.Exclude = c.Exclude.With(stripe.SSHPorts("/etc/ssh", os.Getenv("SSH_CONNECTION")))
			}
			return c, err
		},
		System: stripe.System{Listening: stripe.Listening, Read: stripe.Read, Apply: stripe.Apply, Remove: stripe.Remove},
	}
}

// stripeStatus is what the coordinator's status says of a keeper.
func stripeStatus(k *stripe.Keeper) *rendezvous.StripeStatus {
	s := k.Status()
	out := &rendezvous.StripeStatus{Applied: s.Applied, Problem: s.Problem, Restored: s.Restored}
	if !s.Applied {
		return out
	}
	out.Since = &s.Since
	for _, a := range s.Rules.Addrs {
		out.Addrs = append(out.Addrs, a.String())
	}
	out.UDP, out.TCP = lead(s.Rules.UDP), lead(s.Rules.TCP)
	return out
}

func lead(l stripe.Lead) *rendezvous.StripeLead {
	if len(l.Ports) == 0 {
		return nil
	}
	return &rendezvous.StripeLead{To: l.To, Count: l.Ports.Count(), LeftOut: stripe.All().Without(l.Ports).String()}
}
