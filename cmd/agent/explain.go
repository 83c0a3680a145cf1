package main

import (
	"encoding/json"
	"fmt"
	"io"

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
				return json.NewEncoder(t.out).Encode(e)
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
	for _, a := range attempts {
		if a.Side != side {
			continue
		}
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
		fmt.Fprintln(w)
		if a.Evidence != "" {
			fmt.Fprintf(w, "            %s\n", a.Evidence)
		}
		if a.Advice != "" {
			fmt.Fprintf(w, "            → %s\n", a.Advice)
		}
	}
}
