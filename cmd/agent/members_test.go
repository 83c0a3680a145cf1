package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/agent"
	"rendezvous/internal/forward"
	"rendezvous/internal/ops"
	"rendezvous/proto"
)

// Every command that talks to a running agent, once.
func TestCommandsOnARunningAgent(t *testing.T) {
	t.Parallel()
	c := startCoordinator(t)
	link := c.link(t, time.Hour, 2).String()
	home, laptop, office := filepath.Join(t.TempDir(), "h"), filepath.Join(t.TempDir(), "l"), filepath.Join(t.TempDir(), "o")
	runCommand(t, "join", "--state", home, "--name", "home", link).want(t, ops.ExitDone)
	startUp(t, home)
	at := func(args ...string) result { return runCommand(t, append(args, "--state", home)...) }

	at("expose", "wg=udp://127.0.0.1:51820?raw").want(t, ops.ExitDone, "udp://127.0.0.1:51820?raw is offered as wg")
	at("unexpose", "nothing").want(t, ops.ExitFailed, `no service "nothing" is exposed`)
	at("unexpose", "wg").want(t, ops.ExitDone, "wg is no longer offered")
	at("dial", "laptop/wg=udp://127.0.0.1:0").want(t, ops.ExitDone, "leads to laptop/wg")
	at("hangup", "laptop/dns").want(t, ops.ExitFailed, "dns")
	at("hangup", "laptop/wg").want(t, ops.ExitDone, "nothing leads to laptop/wg any more")
	at("dial", "laptop/wg=udp://127.0.0.1:51821").want(t, ops.ExitDone)
	at("dial", "laptop/wg=tcp://127.0.0.1:51821").want(t, ops.ExitDone)
	at("hangup", "laptop/wg").want(t, ops.ExitFailed, "tcp://127.0.0.1:51821, udp://127.0.0.1:51821; say which")
	at("hangup", "laptop/wg=udp://127.0.0.1:51820").want(t, ops.ExitFailed, "but at tcp://127.0.0.1:51821, udp")
	at("hangup", "laptop/wg=51820").want(t, ops.ExitUsage, "is not udp://IP:PORT")
	at("hangup", "laptop/wg=udp://127.0.0.1:51821").want(t, ops.ExitDone, "udp://127.0.0.1:51821 does not lead to laptop/wg any more")
	at("hangup", "laptop/wg").want(t, ops.ExitDone, "nothing leads to laptop/wg any more")

	at("pending").want(t, ops.ExitDone, "nobody waits to be admitted")
	joined := runCommand(t, "join", "--state", laptop, "--name", "laptop", link)
	joined.want(t, ops.ExitDone, "agent approve laptop")
	_, rest, _ := strings.Cut(joined.out, "fingerprint")
	fingerprint := strings.Fields(rest)[0]
	at("pending").want(t, ops.ExitDone, "laptop", fingerprint)
	at("approve", "nobody").want(t, ops.ExitFailed, `no agent called "nobody" waits to be admitted; those who do are laptop`)
	at("approve", "laptop").want(t, ops.ExitDone, fingerprint, "this agent", "laptop is admitted")

	invite := at("invite", "--expires", "1h")
	invite.want(t, ops.ExitDone, "rdv://")
	made, err := proto.ParseLink(invite.out)
	if err != nil || made.Secret == nil || strings.Count(invite.out, "\n") != 1 {
		t.Fatalf("invite: %q, %v", invite.out, err)
	}
	runCommand(t, "join", "--state", office, "--name", "office", strings.TrimSpace(invite.out)).want(t, ops.ExitDone, "as office")
	runCommand(t, "join", "--state", filepath.Join(t.TempDir(), "x"), "--name", "x", strings.TrimSpace(invite.out)).want(t, ops.ExitFailed, "used")

	at("revoke", "office").want(t, ops.ExitDone, "office is removed")
	at("revoke", "nobody").want(t, ops.ExitFailed, "nobody")
}

// What stands in the config now wins over what was once added by a command,
// and nothing keeps the agent from starting.
func TestConfigReplacesWhatWasAdded(t *testing.T) {
	s, err := agent.NewState(filepath.Join(t.TempDir(), "s"), "home", agent.Coordinator{Addr: "h:1"})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(arg string) agent.Dial {
		d, err := agent.ParseDialFlag(arg)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	service := agent.Service{Name: "wg", Target: forward.Target{Scheme: "udp", Host: "h", Port: 1}}
	other := agent.Service{Name: "dns", Target: forward.Target{Scheme: "udp", Host: "h", Port: 1}}
	for _, err := range []error{
		s.PutService(service), s.PutService(other),
		s.PutDial(dial("a/same=udp://127.0.0.1:9?paths=relay-udp")),
		s.PutDial(dial("x/y=tcp://127.0.0.1:2")),
		s.PutDial(dial("a/same=udp://127.0.0.1:1")),
		s.PutDial(dial("b/port=udp://127.0.0.1:2")),
		s.PutDial(dial("c/free=udp://127.0.0.1:0")),
		s.PutDial(dial("d/else=udp://127.0.0.1:4")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg := agent.DefaultConfig()
	cfg.State = s
	cfg.Expose = []agent.Service{{Name: "wg", Target: forward.Target{Scheme: "udp", Host: "h", Port: 2}}}
	cfg.Dial = []agent.Dial{dial("a/same=udp://127.0.0.1:9"), dial("x/y=udp://127.0.0.1:2"), dial("z/z=udp://127.0.0.1:0")}
	if err := forgetReplaced(cfg, zerolog.New(io.Discard)); err != nil {
		t.Fatal(err)
	}
	if services, err := s.Services(); err != nil || len(services) != 1 || services[0] != other {
		t.Errorf("services %v, %v", services, err)
	}
	dials, err := s.Dials()
	if err != nil || len(dials) != 4 || !dials[0].TCP || dials[1].Port != 1 || dials[2].Peer != "c" || dials[3].Peer != "d" {
		t.Errorf("dials %v, %v", dials, err)
	}
}

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, "Yes\n": true, "\n": false, "no\n": false, "": false, "y": false} {
		term := &terminal{in: strings.NewReader(answer), err: io.Discard}
		if got := term.confirm("Sure?"); got != want {
			t.Errorf("%q: %v", answer, got)
		}
	}
}
