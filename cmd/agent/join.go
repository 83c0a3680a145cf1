package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// joinWait bounds what the coordinator may take to answer.
const joinWait = 10 * time.Second

func newJoin(t *terminal) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "join LINK",
		Short: "Become a member of a network, by a join link",
		Long: `Become a member of a network. The link comes from 'rendezvous invite' on the
coordinator or from 'agent invite' on a member. The first agent of a network makes
its secret; a later one gets it with a member's link, or waits until a member
admits it with 'agent approve'.`,
		Example: "  agent join 'rdv://vps.example:443/#…'\n  agent join --name home 'rdv://vps.example:443/#…'",
		Args:    ops.Takes("LINK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			link, err := proto.ParseLink(args[0])
			if err != nil {
				return usage(err)
			}
			if name == "" {
				name = defaultName(os.Hostname())
			}
			if err := agent.CheckName("agent's", name); err != nil {
				return ops.Usage("--name: %w", err)
			}
			dir, err := t.folder()
			if err != nil {
				return err
			}
			return join(cmd.Context(), t.out, dir, name, link)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the agent's `name` in the network (default the host's name)")
	return cmd
}

// defaultName makes a name for an agent of the host's name.
func defaultName(host string, err error) string {
	if err != nil {
		host = ""
	}
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		}
		return '-'
	}, host)
	name = strings.Trim(name[:min(len(name), 63)], "-")
	if name == "" {
		return "agent"
	}
	return name
}

func join(ctx context.Context, out io.Writer, dir, name string, link proto.Link) (err error) {
	switch state, err := agent.OpenState(dir); {
	case err == nil:
		return ops.Failed("this agent has already joined the network at %s, as %s (state folder %s); for another network name another folder with --state, or move this one away to begin anew",
			state.Coordinator().Addr, state.Name(), dir)
	case !errors.Is(err, agent.ErrNotJoined):
		return err
	}
	if err := ops.MakeState(dir); err != nil {
		return err
	}
	lock, err := ops.Listen(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close(), handOver(dir)) }()
	state, err := agent.NewState(dir, name, agent.Coordinator{Addr: link.Coordinator, Pin: link.Pin, Veil: link.Veil})
	if err != nil {
		return err
	}
	enrolled, at, err := enrol(ctx, state, link)
	if err != nil {
		return err
	}
	secret := linkSecret(link)
	if secret == nil && enrolled.GetFounder() {
		made := seal.NewSecret()
		secret = &made
	}
	if err := state.Joined(name, secret); err != nil {
		return fmt.Errorf("the coordinator has accepted %s, but it could not be kept: %w; then run the same `agent join` again", name, err)
	}
	if at.IsValid() {
		// So that `agent up` need not search again. Not to know it costs a moment.
		_ = state.SawCoordinator(at, nil)
	}
	tellJoined(out, state, at, enrolled.GetFounder(), secret != nil)
	return nil
}

func tellJoined(out io.Writer, state *agent.State, at netip.AddrPort, founder, admitted bool) {
	rows := newTable()
	where := state.Coordinator().Addr
	if at.IsValid() { // else a proxy hides it
		where += fmt.Sprintf(" (%s)", at)
	}
	rows.add("joined", fmt.Sprintf("as %s, at %s", state.Name(), where))
	rows.add("fingerprint", seal.Fingerprint(state.Identity().Key()))
	rows.add("state", state.Dir())
	switch {
	case founder:
		rows.add("network", "new: this agent has made its secret")
	case !admitted:
		rows.add("waiting", fmt.Sprintf("a member must admit it: `agent approve %s` there shows the same fingerprint", state.Name()))
	}
	rows.add("next", "agent up, with --expose NAME=URL or --dial PEER/NAME=URL")
	rows.write(out, "")
}

func linkSecret(link proto.Link) *seal.Secret {
	if len(link.Secret) != len(seal.Secret{}) {
		return nil
	}
	s := seal.Secret(link.Secret)
	return &s
}

// enrol makes the agent a member, by whichever address of the coordinator
// answers.
func enrol(ctx context.Context, state *agent.State, link proto.Link) (answer *proto.Enrolled, at netip.AddrPort, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("join at %s: %w", link.Coordinator, err)
		}
	}()
	request, err := enrolment(state, link)
	if err != nil {
		return nil, at, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	control, err := dialCoordinator(ctx, state)
	if err != nil {
		return nil, at, err
	}
	defer func() { err = errors.Join(err, control.close()) }()
	m, err := control.client.Call(ctx, request)
	if err != nil {
		return nil, at, err
	}
	if got := m.GetEnrolled().GetName(); got != state.Name() {
		return nil, at, fmt.Errorf("it answered the enrolment of %q with %q; is it another version?", state.Name(), got)
	}
	return m.GetEnrolled(), control.client.Addr(), nil
}

func enrolment(state *agent.State, link proto.Link) (*proto.ToCoordinator, error) {
	id := state.Identity()
	record, err := proto.Marshal(&proto.Record{
		Name: state.Name(), Key: id.Key(), StaticKey: id.StaticKey(), MadeUnix: time.Now().Unix(),
	})
	if err != nil {
		return nil, err
	}
	return &proto.ToCoordinator{Body: &proto.ToCoordinator_Enrol{Enrol: &proto.Enrol{
		Token: link.Token[:], Name: state.Name(), StaticKey: id.StaticKey(),
		Record: seal.Sign(id, linkSecret(link), seal.ContextMember, record),
	}}}, nil
}
