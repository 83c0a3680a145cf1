package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
)

func newInvite(t *terminal) *cobra.Command {
	ask := rendezvous.InviteRequest{}
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Print a join link for an agent",
		Long: `Print one join link on stdout, and nothing else.

The first agent that joins founds the network and makes its secret, which the
coordinator never sees. Later agents that join by such a link wait until a
member admits them with 'agent approve NAME'; better invite them with
'agent invite' on a member, whose link holds the secret.`,
		Example: `  rendezvous invite
  rendezvous invite --expires 1h --uses 5`,
		Args: ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := ask.Check(); err != nil {
				return err
			}
			link, err := invite(cmd.Context(), t, ask)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(t.out, link)
			return err
		},
	}
	cmd.Flags().DurationVar(&ask.Expires, "expires", rendezvous.DefaultExpiry, "how long the link is valid")
	cmd.Flags().BoolVar(&ask.Veil, "veil", false, "agents hide what their control connection over UDP is, and so do those that they invite")
	cmd.Flags().IntVar(&ask.Uses, "uses", 1, "how many agents can join by it")
	return cmd
}

// invite asks the running coordinator, or else makes the invite in its
// registry.
func invite(ctx context.Context, t *terminal, ask rendezvous.InviteRequest) (link string, err error) {
	dir, err := t.folder()
	if err != nil {
		return "", err
	}
	var answer rendezvous.InviteAnswer
	err = ops.NewClient(dir).Call(ctx, rendezvous.PathInvite, ask, &answer)
	if err == nil || !errors.Is(err, ops.ErrNoDaemon) {
		return answer.Link, err
	}
	if _, statErr := os.Stat(filepath.Join(dir, rendezvous.RegistryName)); errors.Is(statErr, fs.ErrNotExist) {
		return "", err
	}
	registry, err := rendezvous.OpenRegistry(dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	answer, err = registry.Invite(time.Now(), ask)
	return answer.Link, err
}
