package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

func newInvite(t *terminal) *cobra.Command {
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Print a join link for the next agent",
		Long: `Print a join link for one more agent, and nothing else. The link holds the
network's secret: who has it is a member, so send it as you would a password.`,
		Example: "  agent invite --expires 1h",
		Args:    ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if expires < time.Minute {
				return ops.Usage("--expires is %s; give 1m or more", expires)
			}
			c, err := t.client()
			if err != nil {
				return err
			}
			link, err := c.Invite(cmd.Context(), expires)
			if err != nil {
				return err
			}
			fmt.Fprintln(t.out, link)
			return nil
		},
	}
	cmd.Flags().DurationVar(&expires, "expires", 24*time.Hour, "how long the link is good for")
	return cmd
}

// pending asks the running agent who waits to be admitted.
func (t *terminal) pending(ctx context.Context) (*agent.Client, []agent.PendingMember, error) {
	c, err := t.client()
	if err != nil {
		return nil, nil, err
	}
	list, err := c.Pending(ctx)
	return c, list, err
}

func newPending(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "pending",
		Short: "List who joined by a coordinator's link and waits to be admitted",
		Args:  ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, list, err := t.pending(cmd.Context())
			if err != nil {
				return err
			}
			if len(list) == 0 {
				fmt.Fprintln(t.out, "nobody waits to be admitted")
				return nil
			}
			rows := newTable("NAME", "FINGERPRINT", "JOINED")
			for _, m := range list {
				rows.add(m.Name, m.Fingerprint, ago(t.now(), m.Joined))
			}
			rows.write(t.out, "")
			return nil
		},
	}
}

func newApprove(t *terminal) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "approve NAME",
		Short: "Admit a pending agent: hand it the network's secret",
		Long: `Admit an agent that joined by a coordinator's link: hand it the network's
secret, sealed for it alone. Compare the fingerprint shown with the one that the
agent itself shows (agent status), or a coordinator that turned bad could put its
own key there. On a terminal the command asks first.`,
		Example: "  agent approve laptop",
		Args:    ops.Takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, list, err := t.pending(cmd.Context())
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(m agent.PendingMember) bool { return m.Name == args[0] })
			if i < 0 {
				return ops.Failed("no agent called %q waits to be admitted%s", args[0], whoWaits(list))
			}
			self, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			rows := newTable()
			rows.add(list[i].Name, list[i].Fingerprint, "wants to be admitted")
			rows.add(self.Name, self.Fingerprint, "this agent")
			rows.write(t.out, "")
			if t.asks && !yes && !t.confirm(fmt.Sprintf("Does %s show the same fingerprint in `agent status`?", list[i].Name)) {
				return ops.Failed("%s was not admitted", list[i].Name)
			}
			if err := c.Approve(cmd.Context(), list[i].Name, list[i].Fingerprint); err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s is admitted\n", list[i].Name)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

func whoWaits(list []agent.PendingMember) string {
	if len(list) == 0 {
		return "; nobody does"
	}
	names := make([]string, len(list))
	for i, m := range list {
		names[i] = m.Name
	}
	return "; those who do are " + strings.Join(names, ", ")
}

// confirm asks a question that only yes answers.
func (t *terminal) confirm(question string) bool {
	fmt.Fprintf(t.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(t.in).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	return err == nil && (answer == "y" || answer == "yes")
}

func newRevoke(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "Remove a member from the network",
		Long: `Remove a member: the coordinator and every other member refuse its key from now
on. It still knows the network's secret, so links that hold it are to be made
anew with care.`,
		Example: "  agent revoke laptop",
		Args:    ops.Takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := agent.CheckName("agent's", args[0]); err != nil {
				return usage(err)
			}
			c, err := t.client()
			if err != nil {
				return err
			}
			if err := c.Revoke(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s is removed\n", args[0])
			return nil
		},
	}
}
