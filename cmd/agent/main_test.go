package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
	"rendezvous/proto"
)

// actVar makes this test program act as the command itself.
const actVar = "AGENT_TEST_ACT"

func TestMain(m *testing.M) {
	if os.Getenv(actVar) == "1" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// command is the built command, as scripts run it.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not t's context, which ends before a clean-up could stop it gently.
	c := exec.CommandContext(context.Background(), self, args...)
	// The race detector would sleep a second at each exit.
	c.Env = append(os.Environ(), actVar+"=1", "XDG_STATE_HOME="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	return c
}

type result struct {
	code     int
	out, err string
}

func runCommand(t *testing.T, args ...string) result {
	t.Helper()
	c := command(t, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// want checks the exit code, and that what is said to the person is one line
// with these words.
func (r result) want(t *testing.T, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.out, r.err)
	}
	if code != ops.ExitDone && strings.Count(r.err, "\n") != 1 {
		t.Errorf("not one line: %q", r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.out+r.err, w) {
			t.Errorf("%q is not in\nstdout: %s\nstderr: %s", w, r.out, r.err)
		}
	}
}

// coordinator is a real one on loopback.
type coordinator struct {
	registry *rendezvous.Registry
	addr     netip.AddrPort
}

func startCoordinator(t *testing.T) coordinator {
	t.Helper()
	registry, err := rendezvous.OpenRegistry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server, err := rendezvous.New(rendezvous.Config{
		Network: dgram.System(dgram.DefaultOptions()), Registry: registry,
		Listen: netip.MustParseAddrPort("127.0.0.1:0"), Log: zerolog.Nop(), Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, registry.Close()); err != nil {
			t.Error(err)
		}
	})
	return coordinator{registry, server.Addrs()[0]}
}

func (c coordinator) link(t *testing.T, expires time.Duration, uses int) proto.Link {
	t.Helper()
	token, err := c.registry.CreateInvite(time.Now(), expires, uses, "")
	if err != nil {
		t.Fatal(err)
	}
	pin, err := c.registry.Pin()
	if err != nil {
		t.Fatal(err)
	}
	return proto.Link{Coordinator: c.addr.String(), Pin: pin, Token: token}
}

const someLink = "rdv://127.0.0.1:1/#AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA"

func TestExitCodes(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	tests := []struct {
		args  string
		code  int
		words string
	}{
		{"--version", ops.ExitDone, ""},
		{"--help", ops.ExitDone, "agent join"},
		{"up --help", ops.ExitDone, "--expose NAME=URL"},
		{"statsu", ops.ExitUsage, `there is no command "statsu"; did you mean status?`},
		{"frobnicate", ops.ExitUsage, "see `agent --help`"},
		{"status --jsno", ops.ExitUsage, "unknown flag: --jsno; see `agent status --help`"},
		{"status more", ops.ExitUsage, `"more" is one argument too many`},
		{"ping", ops.ExitUsage, "PEER is missing; see `agent ping --help`"},
		{"ping home -c -1", ops.ExitUsage, "-c is -1"},
		{"ping No!", ops.ExitUsage, "may hold only a-z"},
		{"expose wg", ops.ExitUsage, "is not NAME=URL"},
		{"expose wg=tcp://127.0.0.1:80?raw", ops.ExitUsage, "raw is for udp:// services"},
		{"dial home=udp://127.0.0.1:1", ops.ExitUsage, "is not PEER/NAME"},
		{"hangup home", ops.ExitUsage, "is not PEER/NAME"},
		{"invite --expires 1s", ops.ExitUsage, "give 1m or more"},
		{"join http://x", ops.ExitUsage, "a join link begins with rdv://"},
		{"join --name Näme " + someLink, ops.ExitUsage, "--name: the agent's name"},
		{"up --dial wg", ops.ExitUsage, "--dial: "},
		{"up --paths relay", ops.ExitUsage, `--paths: no kind of path is called "relay"`},
		{"up --config " + none, ops.ExitUsage, "read the configuration"},
		{"up", ops.ExitFailed, "has not joined a network yet; run `agent join LINK` first"},
		{"netcheck", ops.ExitFailed, "name a STUN server with --stun HOST"},
		{"netcheck --stun host:x", ops.ExitUsage, "is not HOST or HOST:PORT"},
		{"status", ops.ExitNoDaemon, "no daemon is running with the state folder " + none},
		{"status --json", ops.ExitNoDaemon, "no daemon"},
		{"ping home -c 1", ops.ExitNoDaemon, "no daemon"},
		{"explain home", ops.ExitNoDaemon, "no daemon"},
		{"invite", ops.ExitNoDaemon, "no daemon"},
		{"pending", ops.ExitNoDaemon, "no daemon"},
		{"approve laptop", ops.ExitNoDaemon, "no daemon"},
		{"revoke laptop", ops.ExitNoDaemon, "no daemon"},
		{"expose wg=udp://127.0.0.1:1", ops.ExitNoDaemon, "no daemon"},
		{"unexpose wg", ops.ExitNoDaemon, "no daemon"},
		{"dial home/wg=udp://127.0.0.1:1", ops.ExitNoDaemon, "no daemon"},
		{"hangup home/wg", ops.ExitNoDaemon, "no daemon"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"--state", none}, strings.Fields(tt.args)...)
			runCommand(t, args...).want(t, tt.code, tt.words)
		})
	}
}

func TestNoCommand(t *testing.T) {
	r := runCommand(t)
	if r.code != ops.ExitUsage || r.out != "" || !strings.Contains(r.err, "Usage:") {
		t.Errorf("%+v", r)
	}
}

func TestConfigFaultsAreAllShown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("expsoe: {}\nlog: loud\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runCommand(t, "up", "--config", file)
	if r.code != ops.ExitUsage || !strings.Contains(r.err, file+`:1: expsoe: unknown key`) || !strings.Contains(r.err, file+`:2: log: there is no log level "loud"`) {
		t.Errorf("%+v", r)
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	c := startCoordinator(t)
	link := c.link(t, time.Hour, 3)
	dir := filepath.Join(t.TempDir(), "home")

	r := runCommand(t, "join", "--state", dir, "--name", "home", link.String())
	r.want(t, ops.ExitDone, "as home, at "+c.addr.String(), "fingerprint", "this agent has made its secret")
	state, err := agent.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := state.Secret(); !ok {
		t.Error("the founder has no secret")
	}

	runCommand(t, "join", "--state", dir, "--name", "home", link.String()).
		want(t, ops.ExitFailed, "has already joined the network at "+c.addr.String()+", as home", "another folder with --state")

	second := filepath.Join(t.TempDir(), "laptop")
	runCommand(t, "join", "--state", second, "--name", "laptop", link.String()).
		want(t, ops.ExitDone, "a member must admit it: `agent approve laptop`")
	if state, err := agent.OpenState(second); err != nil {
		t.Error(err)
	} else if _, ok := state.Secret(); ok {
		t.Error("there is a secret before an approval")
	}

	withSecret := link
	secret, _ := state.Secret()
	withSecret.Secret = secret[:]
	third := filepath.Join(t.TempDir(), "office")
	r = runCommand(t, "join", "--state", third, "--name", "office", withSecret.String())
	r.want(t, ops.ExitDone, "as office")
	if strings.Contains(r.out, "must admit") {
		t.Errorf("a member's link needs no approval: %s", r.out)
	}
}

func TestJoinRefused(t *testing.T) {
	t.Parallel()
	c := startCoordinator(t)
	good := c.link(t, time.Hour, 100)
	runCommand(t, "join", "--state", filepath.Join(t.TempDir(), "home"), "--name", "home", good.String()).want(t, ops.ExitDone)
	unknown, wrongPin := good, good
	unknown.Token[0]++
	wrongPin.Pin[0]++
	used := c.link(t, time.Hour, 1)
	runCommand(t, "join", "--state", filepath.Join(t.TempDir(), "b"), "--name", "b", used.String()).want(t, ops.ExitDone)
	noName := good
	noName.Coordinator = "no-such-host.invalid:443"
	tests := []struct {
		name, as string
		link     proto.Link
		words    []string
	}{
		{"unknown invite", "x", unknown, []string{"join at " + c.addr.String(), "invite"}},
		{"used-up invite", "x", used, []string{"used"}},
		{"name taken", "home", good, []string{`another agent is called "home"`, "--name"}},
		{"wrong key", "x", wrongPin, []string{"somebody stands between"}},
		{"no such host", "x", noName, []string{"look up no-such-host.invalid"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			runCommand(t, "join", "--state", dir, "--name", tt.as, tt.link.String()).want(t, ops.ExitFailed, tt.words...)
			if _, err := agent.OpenState(dir); !errors.Is(err, agent.ErrNotJoined) {
				t.Errorf("after the refusal: %v", err)
			}
		})
	}
}

func TestJoinWithNobodyThere(t *testing.T) {
	link, err := proto.ParseLink(someLink)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err = join(ctx, io.Discard, filepath.Join(t.TempDir(), "state"), "x", link)
	if err == nil || !strings.Contains(err.Error(), "join at 127.0.0.1:1: dial coordinator 127.0.0.1:1 over UDP: no answer") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

// A state folder that takes nothing must show before the invite is used up.
func TestJoinIntoUnwritableFolder(t *testing.T) {
	c := startCoordinator(t)
	link := c.link(t, time.Hour, 1)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, "join", "--state", filepath.Join(file, "state"), "--name", "x", link.String()).want(t, ops.ExitFailed, "state folder")
	runCommand(t, "join", "--state", filepath.Join(t.TempDir(), "state"), "--name", "x", link.String()).want(t, ops.ExitDone)
}

// up starts an agent and waits until it answers.
func startUp(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	c := command(t, append([]string{"up", "--state", dir}, args...)...)
	var log bytes.Buffer
	c.Stderr = &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = c.Wait(); close(exited) }() // its exit code is in ProcessState
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		<-exited
		if code := c.ProcessState.ExitCode(); code != ops.ExitDone {
			t.Errorf("agent up ended with %d\n%s", code, log.String())
		}
	})
	client := agent.NewClient(dir)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	limit := time.After(10 * time.Second)
	for {
		s, err := client.Status(t.Context())
		if err == nil && s.Coordinator.Connected {
			return c
		}
		select {
		case <-exited:
			t.Fatalf("agent up ended with %d\n%s", c.ProcessState.ExitCode(), log.String())
		case <-limit:
			t.Fatalf("not up in 10 s: %+v, %v\n%s", s, err, log.String())
		case <-poll.C:
		}
	}
}

func TestUp(t *testing.T) {
	t.Parallel()
	c := startCoordinator(t)
	dir := filepath.Join(t.TempDir(), "home")
	runCommand(t, "join", "--state", dir, "--name", "home", c.link(t, time.Hour, 1).String()).want(t, ops.ExitDone)
	config := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(config, []byte("expose: {dns: udp://127.0.0.1:53}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	startUp(t, dir, "--config", config, "--expose", "wg=udp://127.0.0.1:51820?raw")

	r := runCommand(t, "status", "--state", dir, "--json")
	r.want(t, ops.ExitDone)
	var s agent.Status
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		t.Fatal(err)
	}
	if s.Name != "home" || s.Coordinator.Addr != c.addr.String() || len(s.Services) != 2 {
		t.Errorf("status %+v", s)
	}
	runCommand(t, "status", "--state", dir).want(t, ops.ExitDone, "home", "udp://127.0.0.1:51820?raw", c.addr.String()+" over quic")
	runCommand(t, "up", "--state", dir).want(t, ops.ExitFailed, "another daemon already runs with the state folder")
	runCommand(t, "ping", "--state", dir, "nobody", "-c", "1").want(t, ops.ExitFailed, "nobody")
}

func TestNetcheck(t *testing.T) {
	t.Parallel()
	c := startCoordinator(t)
	r := runCommand(t, "netcheck", "--json", "--stun", c.addr.String())
	r.want(t, ops.ExitDone)
	var n agent.Netcheck
	if err := json.Unmarshal([]byte(r.out), &n); err != nil {
		t.Fatal(err)
	}
	if !n.UDP || !n.IPv4 || len(n.Mapped) != 1 || len(n.UsablePorts) == 0 || !n.PortPreserving {
		t.Errorf("netcheck %+v", n)
	}
	runCommand(t, "netcheck", "--stun", c.addr.String()).want(t, ops.ExitDone, "seen from outside as", "127.0.0.1:")
	runCommand(t, "netcheck", "--stun", "127.0.0.1:9").want(t, ops.ExitFailed, "no STUN server answered of 127.0.0.1:9")
}
