// Command rendezvous is the coordinator: agents register with it, it
// introduces them to each other, and relays for those that can't meet.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"rendezvous/internal/ops"
)

// stateName is the last part of the default state folder.
const stateName = "rendezvous"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	// A second signal ends the program at once, because stop restores the
	// default after the first.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	t := &terminal{out: os.Stdout, log: os.Stderr}
	root := newRoot(t)
	root.SetArgs(args)
	return ops.Report(os.Stderr, "rendezvous", root.ExecuteContext(ctx))
}

// terminal is where a command writes.
type terminal struct {
	out   io.Writer
	log   *os.File
	state string // the flag
}

// folder is the state folder that the command works with.
func (t *terminal) folder() (string, error) {
	if t.state != "" {
		return t.state, nil
	}
	return ops.DefaultState(stateName)
}

func newRoot(t *terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "rendezvous",
		Short: "Introduce agents behind NATs to each other, so that they reach each other directly",
		Example: `  # on a host with a public address
  rendezvous serve --public-addr 203.0.113.10
  rendezvous invite          # prints the join link of the first agent`,
		Version:       ops.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          unknownCommand,
		RunE:          noCommand,
	}
	root.SetOut(t.out)
	root.SetErr(t.log)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return ops.Usage("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.PersistentFlags().StringVar(&t.state, "state", "", "state `folder` (default /var/lib/rendezvous for root, else under $XDG_STATE_HOME)")
	root.AddCommand(newServe(t), newInvite(t), newStatus(t))
	return root
}

func noCommand(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(cmd.ErrOrStderr())
	if err := cmd.Help(); err != nil {
		return err
	}
	return ops.Usage("give a command")
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return ops.Usage("there is no command %q; did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return ops.Usage("there is no command %q; see `rendezvous --help`", args[0])
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return ops.Usage("%q is one argument too many; see `%s --help`", args[0], cmd.CommandPath())
	}
	return nil
}
