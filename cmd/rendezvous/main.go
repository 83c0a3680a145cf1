// Command rendezvous is the coordinator: agents register with it, it
// introduces them to each other, and relays for those that can't meet.
package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"rendezvous/internal/ops"
)

// stateName is the last part of the default state folder.
const stateName = "rendezvous"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	return ops.Main(newRoot(&terminal{out: os.Stdout, log: os.Stderr}), args)
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
	root := ops.Root(&cobra.Command{
		Use:   "rendezvous",
		Short: "Introduce agents behind NATs to each other, so that they reach each other directly",
		Example: `  # on a host with a public address
  rendezvous serve --public-addr 203.0.113.10
  rendezvous invite          # prints the join link of the first agent`,
	})
	root.SetOut(t.out)
	root.SetErr(t.log)
	root.PersistentFlags().StringVar(&t.state, "state", "", "state `folder` (default /var/lib/rendezvous for root, else under $XDG_STATE_HOME)")
	root.AddCommand(newServe(t), newInvite(t), newStatus(t), newStripe(t))
	return root
}
