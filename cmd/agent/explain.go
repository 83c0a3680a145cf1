package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

func newExplain(t *terminal) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain PEER",
		Short: "Show what was tried on each path to a peer, on both sides, and why not",
		Args:  ops.Takes("PEER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := agent.CheckName("peer", args[0]); err != nil {
				return usage(err)
			}
			c, err := t.client()
			if err != nil {
				return err
			}
			e, err := c.Explain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(t.out, e)
			}
			writeExplain(t.out, e)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func writeExplain(w io.Writer, e agent.Explain) {
	if e.Path == "" {
		fmt.Fprintf(w, "%s: no path now\n", e.Peer)
	} else {
		fmt.Fprintf(w, "%s: now over %s\n", e.Peer, e.Path)
	}
	if len(e.Attempts) == 0 {
		fmt.Fprintf(w, "nothing was tried yet; `agent ping %s` makes a session\n", e.Peer)
		return
	}
	for _, side := range []string{agent.SideLocal, agent.SideRemote} {
		title := "tried here"
		if side == agent.SideRemote {
			title = "tried by " + e.Peer
		}
		writeAttempts(w, title, side, e.Attempts)
	}
}

func writeAttempts(w io.Writer, title, side string, attempts []agent.Attempt) {
	titled := false
	for _, a := range gatherEnds(attempts, side) {
		if !titled {
			fmt.Fprintf(w, "\n%s\n", title)
			titled = true
		}
		if a.Path == "" { // it did not come to any path
			fmt.Fprintf(w, "  no session")
		} else {
			fmt.Fprintf(w, "  %s  %s %s", a.Started.Format("15:04:05"), a.Path, a.Result)
		}
		if a.MS > 0 {
			fmt.Fprintf(w, " after %d ms", a.MS)
		}
		if a.Reason != "" {
			fmt.Fprintf(w, ": %s", a.Reason)
		}
		if a.times > 1 {
			fmt.Fprintf(w, ", %d times since %s", a.times, a.since.Format("15:04:05"))
		}
		fmt.Fprintln(w)
		if a.Evidence != "" {
			fmt.Fprintf(w, "            %s\n", a.Evidence)
		}
		if a.Advice != "" {
			fmt.Fprintf(w, "            → %s\n", a.Advice)
		}
	}
}

// repeated is the last of those attempts that ended alike.
type repeated struct {
	agent.Attempt
	times int
	since time.Time
}

// gatherEnds is what one side tried, in order of time; what was tried again and
// again with the same end stands once, where it was tried last.
func gatherEnds(attempts []agent.Attempt, side string) (list []repeated) {
	type end struct{ path, result, reason, evidence string }
	seen := make(map[end]repeated)
	for _, a := range attempts {
		if a.Side != side {
			continue
		}
		e := end{path: a.Path, result: a.Result, reason: a.Reason}
		if a.Reason == "not-needed" {
			e.evidence = a.Evidence // it says what was taken instead
		}
		r, again := seen[e]
		if again {
			list = slices.DeleteFunc(list, func(o repeated) bool { return o.Attempt == r.Attempt })
		} else {
			r.since = a.Started
		}
		r.Attempt, r.times = a, r.times+1
		seen[e] = r
		list = append(list, r)
	}
	return list
}
