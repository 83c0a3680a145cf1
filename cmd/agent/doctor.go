package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/stun"
)

// verdict is what a check found.
type verdict string

const (
	good verdict = "ok"
	poor verdict = "poor" // works, but less well than it could
	bad  verdict = "bad"  // does not work
)

// finding is one thing that doctor looked at.
type finding struct {
	what    string
	verdict verdict
	text    string
	mend    string // a command, or what to do; "" where nothing is to be mended
}

func newDoctor(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what this host lacks, with the command that mends it",
		Args:  ops.Takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := t.folder()
			if err != nil {
				return err
			}
			findings := examine(cmd.Context(), dir, t.now())
			if n := writeFindings(t.out, findings); n > 0 {
				return ops.Failed("%d of %d checks are bad", n, len(findings))
			}
			return nil
		},
	}
}

func examine(ctx context.Context, dir string, now time.Time) []finding {
	list := []finding{checkFolder(dir), checkSpace(dir)}
	state, err := agent.OpenState(dir)
	switch {
	case errors.Is(err, agent.ErrNotJoined):
		list = append(list, finding{"membership", poor, "this agent has not joined a network", "agent join LINK"})
	case err != nil:
		list = append(list, finding{"membership", bad, err.Error(), ""})
	default:
		list = append(list, checkMembership(state), checkDaemon(ctx, dir), checkCoordinator(ctx, state))
		list = append(list, checkServices(ctx, dir)...)
		list = append(list, checkRouters(ctx, dir)...)
		list = append(list, checkFastPath(ctx, dir)...)
	}
	list = append(list, checkClock(dir, now), checkFakeTCP(ctx))
	return append(list, checkSystem()...)
}

// writeFindings prints each and says how many are bad.
func writeFindings(w io.Writer, list []finding) (broken int) {
	rows := newTable()
	for _, f := range list {
		rows.add(string(f.verdict), f.what, f.text)
		if f.mend != "" {
			rows.add("", "", "→ "+f.mend)
		}
		if f.verdict == bad {
			broken++
		}
	}
	rows.write(w, "")
	return broken
}

func checkFolder(dir string) finding {
	f := finding{what: "state folder"}
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		f.verdict, f.text = poor, dir+" is not there yet; `agent join` makes it"
		return f
	case err != nil:
		f.verdict, f.text, f.mend = bad, err.Error(), "run this as the folder's owner, or name another folder with --state"
		return f
	case !info.IsDir():
		f.verdict, f.text, f.mend = bad, dir+" is no folder", "name another folder with --state"
		return f
	case info.Mode().Perm()&0o077 != 0:
		f.verdict, f.text, f.mend = bad, dir+" is open to other users, and the agent's key lies there", "chmod 700 "+dir
		return f
	}
	if err := ops.MakeState(dir); err != nil {
		f.verdict, f.text, f.mend = bad, err.Error(), ""
		return f
	}
	f.verdict, f.text = good, dir+" can be read and written"
	return f
}

// minSpace is room for the state some hundred times over, in bytes.
const minSpace = 16 << 20

func checkSpace(dir string) finding {
	// The folder may not be there yet; its disk is.
	for _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir); _, err = os.Stat(dir) {
		dir = filepath.Dir(dir)
	}
	free, err := freeSpace(dir)
	switch {
	case err != nil:
		return finding{"disk", poor, fmt.Sprintf("free space at %s: %v", dir, err), ""}
	case free < minSpace:
		return finding{"disk", bad, fmt.Sprintf("%s free at %s", size(free), dir), "free some space there"}
	}
	return finding{"disk", good, fmt.Sprintf("%s free at %s", size(free), dir), ""}
}

func checkMembership(state *agent.State) finding {
	if _, ok := state.Secret(); !ok {
		return finding{"membership", poor, fmt.Sprintf("%s waits to be admitted", state.Name()), fmt.Sprintf("on a member: agent approve %s", state.Name())}
	}
	return finding{"membership", good, fmt.Sprintf("%s, at %s", state.Name(), state.Coordinator().Addr), ""}
}

func checkDaemon(ctx context.Context, dir string) finding {
	s, err := agent.NewClient(dir).Status(ctx)
	switch {
	case errors.Is(err, ops.ErrNoDaemon):
		return finding{"agent", poor, "it is not running", "agent up, or systemctl start rendezvous-agent"}
	case err != nil:
		return finding{"agent", bad, err.Error(), ""}
	case !s.Coordinator.Connected:
		return finding{"agent", bad, fmt.Sprintf("running, pid %d, but coordinator %s", s.PID, coordinatorLine(s.Coordinator)), ""}
	}
	return finding{"agent", good, fmt.Sprintf("running, pid %d, coordinator %s", s.PID, coordinatorLine(s.Coordinator)), ""}
}

// checkCoordinator asks for a STUN answer at the very port of the control
// connection: it shows whether UDP passes, both ways. Where it does not, TLS
// may.
func checkCoordinator(ctx context.Context, state *agent.State) finding {
	const what = "UDP to coordinator"
	c := state.Coordinator()
	addrs, err := c.Addrs(ctx)
	if err != nil {
		return finding{what, bad, err.Error(), "mend the name or DNS; getent hosts shows what this host resolves"}
	}
	report, err := stun.Discover(ctx, dgram.System(dgram.DefaultOptions()), addrs)
	switch {
	case err != nil:
		return finding{what, bad, err.Error(), ""}
	case report.UDP:
		return finding{what, good, fmt.Sprintf("answered from %s; from outside this host is %s", joinAddrs(report.Servers), joinAddrs(report.Mapped)), ""}
	}
	mend := "see that `rendezvous serve` runs there, and let UDP to that port pass in this network's and the server's firewall"
	via, err := askTLS(ctx, state)
	switch {
	case err == nil && via != "":
		return finding{what, poor, fmt.Sprintf("%s did not answer, but TLS through the proxy %s does: slower, and it works", joinAddrs(addrs), via), "let UDP to that port pass"}
	case err == nil:
		return finding{what, poor, joinAddrs(addrs) + " did not answer, but TLS does: slower, and it works", "let UDP to that port pass"}
	}
	return finding{what, bad, fmt.Sprintf("%s did not answer; over TLS: %v", joinAddrs(addrs), err), mend}
}

// selfTestWithin bounds what one host needs to send itself a few segments.
const selfTestWithin = 3 * time.Second

// checkFakeTCP sends segments over loopback and watches that the kernel does
// not answer them. Without it an agent lacks the paths that keep datagrams
// where UDP is blocked, no more.
func checkFakeTCP(ctx context.Context) finding {
	const what = "fake TCP"
	ctx, cancel := context.WithTimeout(ctx, selfTestWithin)
	defer cancel()
	err := faketcp.SelfTest(ctx)
	var why *path.Failure
	switch {
	case err == nil:
		return finding{what, good, "segments cross, and the kernel leaves them alone", ""}
	case errors.As(err, &why) && why.Skipped:
		return finding{what, poor, fmt.Sprintf("%s: %s; where UDP is blocked, direct-tcp and relay-tls are left", why.Reason, why.Evidence), why.Advice}
	case errors.As(err, &why):
		return finding{what, poor, why.Error(), why.Advice}
	}
	return finding{what, poor, err.Error(), ""}
}

// The handshake between agents carries the time, and an older one is refused:
// a clock that goes back locks this agent out of its peers' sessions.
func checkClock(dir string, now time.Time) finding {
	const what, mend = "clock", "timedatectl set-ntp true"
	// This program was not there before; a board without a battery wakes up then.
	if now.Year() < 2026 {
		return finding{what, bad, "it says " + now.Format(time.DateTime) + ", which is past", mend}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return finding{what, good, now.Format(time.DateTime), ""}
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.ModTime().After(now.Add(time.Minute)) {
			return finding{what, bad, fmt.Sprintf("it says %s, but %s was written at %s: it was set back, and peers will refuse handshakes until then",
				now.Format(time.DateTime), e.Name(), info.ModTime().Format(time.DateTime)), mend}
		}
	}
	return finding{what, good, now.Format(time.DateTime), ""}
}
