// Command agent joins a network at a coordinator, offers local services to its
// peers there, and carries local clients to theirs.
package main

import (
	"io"
	"os"
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
	return ops.Main(newRoot(&terminal{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		asks: isatty.IsTerminal(os.Stdin.Fd()) && isatty.IsTerminal(os.Stderr.Fd()),
		now:  time.Now,
	}), args)
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
	root := ops.Root(&cobra.Command{
		Use:   "agent",
		Short: "Reach services behind NATs by name, over the best path that works",
		Example: `  # on the machine that has the service
  agent join 'rdv://vps.example:443/#…'
  agent up --expose 'wg=udp://127.0.0.1:51820?raw'

  # on the machine that uses it; the link is of 'agent invite' on the first
  agent join 'rdv://vps.example:443/#…'
  agent up --dial home/wg=udp://127.0.0.1:51821
  agent status`,
	})
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.PersistentFlags().StringVar(&t.state, "state", "", "state `folder` (default /var/lib/rendezvous-agent for root, else under $XDG_STATE_HOME)")
	root.AddCommand(
		newJoin(t), newUp(t), newStatus(t), newPing(t), newExplain(t),
		newExpose(t), newUnexpose(t), newDial(t), newHangup(t),
		newInvite(t), newPending(t), newApprove(t), newRevoke(t),
		newNetcheck(t), newDoctor(t), newTun(t), newPunch(t),
	)
	return root
}

// usage makes a fault of an argument one of usage.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &ops.UsageError{Err: err}
}
