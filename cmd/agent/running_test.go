package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

// fakeDaemon answers as an agent would that has one peer, home.
type fakeDaemon struct{ agent.Daemon }

func (fakeDaemon) Status() agent.Status { return agent.Status{Name: "laptop", Version: "v1"} }

func (fakeDaemon) Ping(_ context.Context, peer string) (agent.PingLine, error) {
	if peer != "home" {
		return agent.PingLine{}, fmt.Errorf("%s is offline", peer)
	}
	return agent.PingLine{Path: "direct-udp", Remote: "198.51.100.2:40112", RTT: 41}, nil
}

func (fakeDaemon) Explain(_ context.Context, peer string) (agent.Explain, error) {
	if peer != "home" {
		return agent.Explain{}, errors.New("no such peer")
	}
	return agent.Explain{Path: "direct-udp", Peer: peer}, nil
}

// serveFake is a state folder with a fakeDaemon.
func serveFake(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	control, err := ops.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, agent.NewHandler(fakeDaemon{})) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAskingARunningAgent(t *testing.T) {
	t.Parallel()
	dir := serveFake(t)
	tests := []struct {
		args string
		code int
		out  string
	}{
		{"status --json", ops.ExitDone, `{"name":"laptop","pid":0,"version":"v1","coordinator":{"connected":false,"transport":"","addr":"","rtt_ms":0},"services":[],"dials":[],"peers":[]}` + "\n"},
		{"explain home --json", ops.ExitDone, `{"peer":"home","path":"direct-udp","attempts":[]}` + "\n"},
		{"explain nobody", ops.ExitFailed, ""},
		{"ping home -c 1 --json", ops.ExitDone, `{"peer":"home","path":"direct-udp","remote":"198.51.100.2:40112","rtt_ms":41}` + "\n"},
		{"ping home -c 2", ops.ExitDone, strings.Repeat("home: direct-udp 198.51.100.2:40112 41.0 ms\n", 2) + "2 of 2 answered; round trip 41.0 ms least, 41.0 ms median, 41.0 ms most\n"},
		{"ping office -c 1 --json", ops.ExitFailed, `{"peer":"office","error":"office is offline"}` + "\n"},
	}
	for _, tt := range tests {
		r := runCommand(t, append(strings.Fields(tt.args), "--state", dir)...)
		if r.code != tt.code || r.out != tt.out {
			t.Errorf("%s: exit %d\n%s%s\nwant exit %d\n%s", tt.args, r.code, r.out, r.err, tt.code, tt.out)
		}
	}
}

func TestCtrlCEndsAPing(t *testing.T) {
	t.Parallel()
	c := command(t, "ping", "home", "--state", serveFake(t))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range 2 {
		lines.Scan()
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	lines.Scan()
	if !strings.HasPrefix(lines.Text(), "2 of 2 answered") {
		t.Errorf("the last line is %q", lines.Text())
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// The service manager hears that the agent is up, lives and stops.
func TestUpNotifies(t *testing.T) {
	t.Parallel()
	c := startCoordinator(t)
	dir := t.TempDir()
	runCommand(t, "join", "--state", dir, "--name", "home", c.link(t, time.Hour, 1).String()).want(t, ops.ExitDone)
	name := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		for buf := make([]byte, 4096); ; {
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatalf("%s: %v", want, err)
			}
			if strings.Contains(string(buf[:n]), want) {
				return
			}
		}
	}
	up := command(t, "up", "--state", dir)
	up.Env = append(up.Env, "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=100000")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	expect("READY=1\nSTATUS=home, coordinator " + c.addr.String() + " over quic")
	expect("WATCHDOG=1")
	if err := up.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
	if err := up.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
