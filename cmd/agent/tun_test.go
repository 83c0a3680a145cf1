package main

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

// S1-01
func TestTunFlags(t *testing.T) {
	t.Parallel()
	for args, want := range map[string][]string{
		"":                            {"say --peer PEER, --expose, or --listen-port and --bind-to-interface"},
		"--listen-port 4000":          {"--interface is missing", "--bind-to-interface is missing"},
		"--bind-to-interface wwan1":   {"--interface is missing", "--listen-port is missing"},
		"--endpoint-port 4000":        {"--listen-port is missing", "--bind-to-interface is missing"},
		"--peer home --expose":        {"--peer and --expose are two devices"},
		"--peer home --listen-port 4": {"choose one", "--interface is missing", "--bind-to-interface is missing"},
		"--peer home --raw":           {"--raw goes with --expose"},
		"--peer Home":                 {`"Home" may hold only`},
		"--expose=Tun":                {`"Tun" may hold only`},
		"--expose tcp more":           {"unknown command", "one argument too many"},
		"--peer home more":            {"one argument too many"},
		"--peer home --mtu 576":       {"--mtu 576 is not between 1280 and 65535"},
		"--peer home --interface a-name-of-16-let":                            {"at most 15 letters"},
		"--peer home --addresses 10.0.0.0/8,10.1.0.0/16":                      {"a second range of its family"},
		"--peer home --addresses 10.0.0.0/31":                                 {"no room"},
		"--peer home --addresses nonsense --route more --mtu 1 --interface /": {"--addresses", "--route", "--mtu", "--interface"},
	} {
		r := runCommand(t, append([]string{"tun"}, strings.Fields(args)...)...)
		if r.code != ops.ExitUsage {
			t.Errorf("%q: exit %d: %s", args, r.code, r.err)
		}
		found := slices.ContainsFunc(want, func(w string) bool { return strings.Contains(r.err, w) })
		all := !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(r.err, w) })
		if !found || !all && !strings.Contains(args, "more") {
			t.Errorf("%q: %s, want %q", args, r.err, want)
		}
	}
	if r := runCommand(t, "tun", "--peer", "home", "--state", t.TempDir()); r.code != ops.ExitNoDaemon {
		t.Errorf("without an agent: exit %d: %s", r.code, r.err)
	}
}

// The MTU follows what crosses, and does not drop for a path that is still
// being measured.
func TestTunSize(t *testing.T) {
	t.Parallel()
	s := tunSize{mtu: 1472}
	now := time.Unix(1_800_000_000, 0)
	for i, step := range []struct {
		after time.Duration
		room  int
		want  int
	}{
		{0, 0, 1472},                  // no path yet
		{time.Second, 1180, 1472},     // a new one
		{2 * time.Second, 1452, 1472}, // measured
		{time.Minute, 1180, 1472},     // another new one
		{9 * time.Second, 1180, 1472},
		{2 * time.Second, 1180, 1280}, // that is what it takes
		{time.Second, 1432, 1452},     // a better one
		{time.Second, 0, 1452},
	} {
		now = now.Add(step.after)
		before := s.mtu
		mtu, changed := s.see(now, step.room)
		if mtu != step.want || changed != (mtu != before) {
			t.Errorf("step %d: %d, changed %t; want %d", i, mtu, changed, step.want)
		}
	}
}

// tunDaemon notes what it is asked for, and may forget it as one does that was
// started again.
type tunDaemon struct {
	agent.Daemon
	mu       sync.Mutex
	services map[string]string
	dials    map[string]string
	asked    int
}

func (d *tunDaemon) Status() agent.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := agent.Status{Name: "home", Peers: []agent.PeerStatus{
		{Name: "laptop", Path: "direct-udp", ServiceMTU: 1432}, {Name: "office", Path: "relay-udp", ServiceMTU: 1380}, {Name: "gone", ServiceMTU: 1180},
	}}
	for name, url := range d.services {
		s.Services = append(s.Services, agent.ServiceStatus{Name: name, URL: url})
	}
	for target, url := range d.dials {
		peer, service, _ := strings.Cut(target, "/")
		s.Dials = append(s.Dials, agent.DialStatus{Peer: peer, Service: service, Listen: url})
	}
	return s
}

func (d *tunDaemon) put(in map[string]string, name, url string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	in[name] = url
	d.asked++
	return nil
}

func (d *tunDaemon) remove(from map[string]string, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(from, name)
	return nil
}

func (d *tunDaemon) Expose(name, url string) error { return d.put(d.services, name, url) }
func (d *tunDaemon) Unexpose(name string) error    { return d.remove(d.services, name) }
func (d *tunDaemon) Dial(peer, service, url string) error {
	return d.put(d.dials, peer+"/"+service, url)
}
func (d *tunDaemon) Hangup(peer, service, _ string) error {
	return d.remove(d.dials, peer+"/"+service)
}

// The agent is asked again when it has forgotten, and in the end our part is
// taken back.
func TestTunKeepsTheAgentAtIt(t *testing.T) {
	t.Parallel()
	d := &tunDaemon{services: map[string]string{}, dials: map[string]string{}}
	dir := t.TempDir()
	control, err := ops.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, agent.NewHandler(d)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	service := agent.Service{Name: "tun"}
	service.Scheme, service.Host, service.Port, service.Alias = "udp", "127.0.0.1", 7000, true
	k := &upkeep{client: agent.NewClient(dir), log: zerolog.Nop(), size: tunSize{mtu: 1472}}
	k.offer(service)
	mtu := 0
	for range 3 {
		k.look(ctx, time.Now(), func(n int) { mtu = n })
	}
	if got := d.Status().Services; d.asked != 1 || len(got) != 1 || got[0].URL != service.URL() {
		t.Errorf("asked %d times; offers %v", d.asked, got)
	}
	_ = d.Unexpose("tun")
	k.look(ctx, time.Now().Add(time.Minute), func(n int) { mtu = n })
	if len(d.Status().Services) != 1 {
		t.Error("an agent that has forgotten is not asked again")
	}
	if mtu != 1400 {
		t.Errorf("the MTU is %d, want 1400 for the narrowest of the paths that there are", mtu)
	}
	k.call(agent.Dial{Peer: "laptop", Service: "tun", Host: "127.0.0.1", Port: 7001})
	k.look(ctx, time.Now(), func(n int) { mtu = n })
	if got := d.Status().Dials; len(got) != 1 || got[0].Listen != "udp://127.0.0.1:7001" || mtu != 1452 {
		t.Errorf("dials %v; the MTU is %d, want 1452 for the laptop's path", got, mtu)
	}
	ended, end := context.WithCancel(ctx)
	end()
	k.keep(ended, func(int) {})
	if got := d.Status().Dials; len(got) != 0 {
		t.Errorf("dials %v at the end", got)
	}
}

// A service of a program that was killed is taken over; one that is somebody's
// is not.
func TestTunTakesNoServiceAway(t *testing.T) {
	t.Parallel()
	conn, err := loopback(0)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), conn.LocalAddr().Port())
	status := func(url string) agent.Status {
		return agent.Status{Services: []agent.ServiceStatus{{Name: "other", URL: "udp://127.0.0.1:1"}, {Name: "tun", URL: url}}}
	}
	held := "udp://" + at.String() + "?alias"
	for _, url := range []string{held, "udp://192.0.2.1:7", "tcp://tun.example:7"} {
		if err := checkFree("tun", status(url)); err == nil || !strings.Contains(err.Error(), "--expose=NAME") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "linux" { // elsewhere the port may be somebody's by now
		if err := checkFree("tun", status(held)); err != nil {
			t.Errorf("of a program that is gone: %v", err)
		}
	}
	if err := checkFree("mine", status(held)); err != nil {
		t.Errorf("a name that nobody has: %v", err)
	}
}
