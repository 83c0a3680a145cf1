package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/ops"
	"rendezvous/internal/rendezvous"
	"rendezvous/proto"
)

// asCommand makes the test binary the command itself.
const asCommand = "RENDEZVOUS_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// command is the command as a process of its own.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	// A binary with the race detector sleeps a second before it exits.
	cmd.Env = append(os.Environ(), asCommand+"=1", "XDG_STATE_HOME=", "NOTIFY_SOCKET=", "WATCHDOG_USEC=", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// outcome runs the command to its end.
func outcome(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	config := func(text string) string {
		f := filepath.Join(t.TempDir(), "rendezvous.yaml")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	for _, c := range []struct {
		args   string
		exit   int
		stdout string // a regular expression; empty: nothing
		stderr string // likewise
	}{
		{"", 2, "", "give a command"},
		{"--help", 0, "(?s)serve.*status", ""},
		{"serve --help", 0, "(?s)--public-addr.*RFC 5780|RFC 5780.*--public-addr", ""},
		{"--version", 0, `^\S+\n$`, ""},
		{"stauts", 2, "", "did you mean status"},
		{"serve now", 2, "", "one argument too many"},
		{"--nope", 2, "", "unknown flag: --nope; see"},
		{"invite --state " + empty, 3, "", "no daemon is running.*--state"},
		{"invite --uses 0", 2, "", "1 to 10000 uses"},
		{"invite --expires 1s", 2, "", "valid for 1m0s to"},
		{"invite --expires soon", 2, "", "invalid"},
		{"status --state " + empty, 3, "", "no daemon is running with the state folder"},
		{"serve --state " + file, 1, "", "state folder .*file"},
		{"serve --state /" + strings.Repeat("d", 120), 2, "", "name a shorter folder"},
		{"serve --listen 443 --state " + empty, 2, "", `"443" is neither :PORT nor IP:PORT`},
		{"serve --listen vps:443 --state " + empty, 2, "", `"vps" .* is no IP address`},
		{"serve --listen 192.0.2.77:7443 --state " + empty, 1, "", "no such address"},
		{"serve --public-addr vps.example --state " + empty, 2, "", "no IP address; a DNS name belongs to host"},
		{"serve --host http://vps --state " + empty, 2, "", "host: "},
		{"serve --log loud --state " + empty, 2, "", "debug info warn error"},
		{"serve --config " + filepath.Join(dir, "none.yaml"), 2, "", "none.yaml.*--config"},
		{"serve --config " + config("listen: :443\nlimit: 3\n"), 2, "", `rendezvous.yaml:2: limit: unknown key; known here: alternate_port, faketcp, host, .*publish, .*stripe`},
		{"serve --config " + config("limits: {connections: -1}\nlisten: x\nhost: a b\nalternate_port: 99999\nmetrics: x\n"), 2, "",
			`^rendezvous: .*rendezvous.yaml:1: limits.connections: .*\n.*yaml:2: listen: .*\n.*yaml:3: host: .*\n.*yaml:4: alternate_port: .*\n.*yaml:5: metrics: .*\n$`},
		// S2-04: all ports that overlap or collide, in one message.
		{"serve --config " + config("listen: :443\nports: [8443]\npublish:\n- {ports: [400-500, 51820]}\n- {ports: \"51820,8000-9000,0,x\", members: [Home], max_clients: -1}\n"), 2, "",
			`(?s)yaml:4: publish.ports: 400-500 holds 443.*listen.*yaml:5: publish.ports: "0" is neither.*"x" is neither.*publish.members: "Home" is no name of an agent.*rendezvous status.*publish.max_clients.*8000-9000 holds 8443.*51820 and 51820 have ports in common`},
		// All that is wrong in one message: what the keys are, what the values are.
		{"serve --config " + config("publish:\n- ports: [x]\n  member: a\n- members: b\nshare:\n  tcp:\n  - {is: ssh, to: a}\nlog: loud\nports: [80, 0, many]\nstripe: {addresses: [vps], udp: -7}\n"), 2, "",
			`^rendezvous: .*yaml:2: publish.ports: "x" is neither .*\n.*yaml:3: publish.member: unknown key; .*\n.*yaml:4: publish: a rule without ports; .*\n.*yaml:7: share.tcp.to: there is no backend "a"; .*\n` +
				`.*yaml:8: log: there is no level "loud"; .*\n.*yaml:9: ports: it is "many", and must be a whole number\n.*yaml:9: ports: 0 is not .*\n.*yaml:10: stripe.addresses: "vps" .*\n.*yaml:10: stripe.udp: -7 is not .*\n$`},
		// A flag's fault is not the file's.
		{"serve --listen 443 --config " + config("listen: :443\nmetrics: x\n"), 2, "", `^rendezvous: --listen: "443" is neither .*\n.*yaml:2: metrics: .*\n$`},
		{"serve --publish 443", 2, "", `^rendezvous: --publish: 443 holds 443, which the coordinator itself`},
		{"serve --publish 51820,x --state " + empty, 2, "", `"x" is neither a port`},
	} {
		out, errs, exit := outcome(t, strings.Fields(c.args)...)
		if exit != c.exit || !fits(c.stdout, out) || !fits(c.stderr, errs) {
			t.Errorf("rendezvous %s: exit %d, want %d\nstdout %q, want %q\nstderr %q, want %q", c.args, exit, c.exit, out, c.stdout, errs, c.stderr)
		}
	}
}

func fits(pattern, got string) bool {
	if pattern == "" {
		return got == ""
	}
	return regexp.MustCompile(pattern).MatchString(got)
}

// daemon is a running `serve`.
type daemon struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	errs bytes.Buffer
}

// serving starts `serve` and waits until it tells the service manager that it
// is ready.
func serving(t *testing.T, dir string, args ...string) *daemon {
	t.Helper()
	notify := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	d := &daemon{t: t, dir: dir}
	d.cmd = command(context.Background(), append([]string{"serve", "--state", dir}, args...)...)
	d.cmd.Env = append(d.cmd.Env, "NOTIFY_SOCKET="+notify)
	d.cmd.Stderr = &d.errs
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.end(syscall.SIGKILL) })
	b := make([]byte, 256)
	if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := l.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "READY=1") {
		d.end(syscall.SIGKILL)
		t.Fatalf("the coordinator said %q, %v\n%s", b[:n], err, d.errs.String())
	}
	return d
}

// end sends a signal and gives the exit code, -1 when the signal killed it.
func (d *daemon) end(s syscall.Signal) int {
	if d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Signal(s) // it may have ended by itself
		_ = d.cmd.Wait()            // the exit code says it
	}
	return d.cmd.ProcessState.ExitCode()
}

func (d *daemon) link(args ...string) proto.Link {
	d.t.Helper()
	out, errs, exit := outcome(d.t, append([]string{"invite", "--state", d.dir}, args...)...)
	link, err := proto.ParseLink(out)
	if exit != 0 || err != nil || errs != "" || strings.Count(out, "\n") != 1 {
		d.t.Fatalf("invite printed %q and %q, exit %d: %v", out, errs, exit, err)
	}
	return link
}

func (d *daemon) status() rendezvous.Status {
	d.t.Helper()
	out, errs, exit := outcome(d.t, "status", "--json", "--state", d.dir)
	var st rendezvous.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil || exit != 0 {
		d.t.Fatalf("status printed %q and %q, exit %d: %v", out, errs, exit, err)
	}
	return st
}

var anyPort = []string{"--listen", "127.0.0.1:0"}

func quiet(t *testing.T) []string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "rendezvous.yaml")
	if err := os.WriteFile(f, []byte("alternate_port: 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return append([]string{"--config", f}, anyPort...)
}

func TestServe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	d := serving(t, dir, quiet(t)...)
	st := d.status()
	if len(st.Listen) != 1 || st.PID != d.cmd.Process.Pid || len(st.Members) != 0 || st.Host != st.Listen[0] {
		t.Errorf("status %+v", st)
	}
	link := d.link("--uses", "3", "--expires", "90m")
	if link.Coordinator != st.Listen[0] || link.Secret != nil {
		t.Errorf("link %v", link)
	}
	out, errs, exit := outcome(t, "status", "--state", dir)
	if exit != 0 || errs != "" || !strings.Contains(out, st.Host) || !strings.Contains(out, "no members yet") {
		t.Errorf("status printed %q and %q, exit %d", out, errs, exit)
	}
	_, errs, exit = outcome(t, append([]string{"serve", "--state", dir}, quiet(t)...)...)
	if exit != 1 || !strings.Contains(errs, "another daemon already runs") || strings.Count(errs, "\n") != 1 {
		t.Errorf("a second one said %q, exit %d", errs, exit)
	}
	_, errs, exit = outcome(t, "serve", "--state", t.TempDir(), "--listen", st.Listen[0])
	if exit != 1 || !strings.Contains(errs, "the port is in use") || strings.Count(errs, "\n") != 1 {
		t.Errorf("on a port in use it said %q, exit %d", errs, exit)
	}
	if exit := d.end(syscall.SIGTERM); exit != 0 {
		t.Errorf("after SIGTERM it ended with %d:\n%s", exit, d.errs.String())
	}
	// invite works without it, status does not.
	if again := d.link(); again.Pin != link.Pin || again.Coordinator != link.Coordinator || again.Token == link.Token {
		t.Errorf("link %v, then %v", link, again)
	}
	if _, errs, exit := outcome(t, "status", "--state", dir); exit != 3 {
		t.Errorf("status without a coordinator: %q, exit %d", errs, exit)
	}
}

func TestServeAfterKill(t *testing.T) {
	dir := t.TempDir()
	d := serving(t, dir, append(quiet(t), "--host", "vps.example")...)
	first := d.link()
	if !strings.HasPrefix(first.Coordinator, "vps.example:") {
		t.Errorf("link %v", first)
	}
	d.end(syscall.SIGKILL)
	again := serving(t, dir, append(quiet(t), "--host", "vps.example:7443")...)
	if link := again.link(); link.Pin != first.Pin || link.Coordinator != "vps.example:7443" {
		t.Errorf("link %v, then %v", first, link)
	}
}

func TestRender(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	since := now.Add(-90 * time.Second)
	got := render(rendezvous.Status{
		PID: 7, Version: "v1", Since: now.Add(-time.Hour), Host: "vps.example:443",
		PortStatus: rendezvous.PortStatus{Listen: []string{"0.0.0.0:443"}, Public: []rendezvous.PublicPortStatus{
			{Port: 51820, Transport: "udp", Service: "wg", Member: "home", Clients: 3, Ready: 4, Drops: map[string]uint64{"full": 2}},
		}},
		Members: []rendezvous.MemberStatus{
			{Name: "home", Admitted: true, Online: true, Addr: "198.51.100.2:40112", RTT: 40.25, Transport: "quic", Since: &since, Version: "v1", Fingerprint: "abcd"},
			{Name: "laptop", Fingerprint: "efgh"},
		},
		Relay: rendezvous.RelayStatus{Bytes: 12_300_000},
		Drops: map[string]uint64{"unknown-kind": 3, "flood": 0},
	}, now)
	for _, want := range []string{
		"coordinator v1, pid 7, up 1h0m0s, at vps.example:443",
		"home    online                 198.51.100.2:40112  40.2 ms  quic  1m30s",
		"laptop  offline, not approved", "12.3 MB", "dropped: unknown-kind 3\n", "stun: nothing",
		"public udp 51820: wg of home, 3 clients, 4 spares, its agent is not connected; dropped: full 2\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func TestAdvertise(t *testing.T) {
	for _, c := range []struct {
		host   string
		public string
		want   string
		fault  bool
	}{
		{"vps.example", "", "vps.example:443", false},
		{"vps.example:7443", "192.0.2.1", "vps.example:7443", false},
		{"2001:db8::1", "", "[2001:db8::1]:443", false},
		{"[2001:db8::1]:80", "", "[2001:db8::1]:80", false},
		{"", "192.0.2.1,192.0.2.2", "192.0.2.1:443", false},
		{"", "2001:db8::1", "[2001:db8::1]:443", false},
		{"", "", "10.0.0.1:443", false},
		{"vps:0", "", "", true},
		{"vps:70000", "", "", true},
		{"-vps", "", "", true},
		{"vps..example", "", "", true},
		{"rdv://vps", "", "", true},
	} {
		s := defaultSettings()
		s.Host, s.PublicAddr, s.Listen = c.host, ops.SplitList(c.public), "10.0.0.1:443"
		p, err := s.Check()
		if (err != nil) != c.fault {
			t.Errorf("%+v gave %v", c, err)
		}
		if err != nil {
			continue
		}
		if got := advertise(p, p.listen, zerolog.Nop()); got != c.want {
			t.Errorf("%+v is advertised as %s", c, got)
		}
	}
}
