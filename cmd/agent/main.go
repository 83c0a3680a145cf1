// Command agent joins a network at a coordinator, offers local services to its
// peers there, and carries local clients to theirs.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

// stateName is the last part of the default state folder.
const stateName = "rendezvous-agent"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	// A second Ctrl-C ends the program at once, because stop restores the
	// default after the first.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	t := &terminal{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		asks: isatty.IsTerminal(os.Stdin.Fd()) && isatty.IsTerminal(os.Stderr.Fd()),
		now:  time.Now,
	}
	root := newRoot(t)
	root.SetArgs(args)
	return ops.Report(os.Stderr, "agent", root.ExecuteContext(ctx))
}

// terminal is where a command reads and writes, and the clock it shows.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	asks     bool // a person is there to answer
	now      func() time.Time
	state    string // the flag
}

// folder is the state folder that the command works with.
func (t *terminal) folder() (string, error) {
	if t.state != "" {
		return t.state, nil
	}
	return ops.DefaultState(stateName)
}

// client asks the running agent.
func (t *terminal) client() (*agent.Client, error) {
	dir, err := t.folder()
	if err != nil {
		return nil, err
	}
	return agent.NewClient(dir), nil
}

func newRoot(t *terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "agent",
		Short: "Reach UDP services behind NATs by name, over the best path that works",
		Example: `  # on the machine that has the service
  agent join 'rdv://vps.example:443/#…'
  agent up --expose 'wg=udp://127.0.0.1:51820?raw'

  # on the machine that uses it; the link is of 'agent invite' on the first
  agent join 'rdv://vps.example:443/#…'
  agent up --dial home/wg=udp://127.0.0.1:51821
  agent status`,
		Version:       ops.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return noCommand(cmd) },
		Args:          unknownCommand,
	}
	root.SuggestionsMinimumDistance = 2 // cobra's own default, which it sets too late for unknownCommand
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return ops.Usage("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&t.state, "state", "", "state `folder` (default /var/lib/rendezvous-agent for root, else under $XDG_STATE_HOME)")
	root.AddCommand(
		newJoin(t), newUp(t), newStatus(t), newPing(t), newExplain(t),
		newExpose(t), newUnexpose(t), newDial(t), newHangup(t),
		newInvite(t), newPending(t), newApprove(t), newRevoke(t),
		newNetcheck(t), newDoctor(t),
	)
	return root
}

func noCommand(cmd *cobra.Command) error {
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
	return ops.Usage("there is no command %q; see `agent --help`", args[0])
}

// takes checks that a command got exactly these arguments.
func takes(words ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(words):
			return ops.Usage("%s is missing; see `%s --help`", words[len(args)], cmd.CommandPath())
		case len(args) > len(words):
			return ops.Usage("%q is one argument too many; see `%s --help`", args[len(words)], cmd.CommandPath())
		}
		return nil
	}
}

// usage makes a fault of an argument one of usage.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &ops.UsageError{Err: err}
}
