//go:build linux

package programs_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// event is a line of `agent punch --json`.
type event struct {
	Event string `json:"event"`
	Addr  string `json:"addr"`
	Local string `json:"local"`
}

func eventsOf(t *testing.T, p *netns.Process) (list []event) {
	t.Helper()
	for line := range strings.Lines(p.Log()) {
		var e event
		if json.Unmarshal([]byte(line), &e) == nil {
			list = append(list, e)
		}
	}
	return list
}

// happened waits for an event.
func happened(t *testing.T, p *netns.Process, what string, d time.Duration) event {
	t.Helper()
	for began := time.Now(); time.Since(began) < d; time.Sleep(20 * time.Millisecond) {
		for _, e := range eventsOf(t, p) {
			if e.Event == what {
				return e
			}
		}
	}
	t.Fatalf("no %q within %v:\n%s", what, d, p.Log())
	return event{}
}

const punchWord = "k7qy-3mfa-x2ce"

// twoRouters is home and laptop, each behind a router that masquerades.
func twoRouters(nat netns.NAT) netns.Options {
	return netns.Options{HomeNAT: nat, LaptopNAT: nat, NoCarrier: true,
		VPSHome: 10 * time.Millisecond, VPSLaptop: 15 * time.Millisecond, HomeLaptop: 20 * time.Millisecond}
}

// The two programs meet behind two masquerading routers without a coordinator,
// by clocks two seconds apart, and carry traffic. The server is asked for STUN
// alone. With routers that take what comes to them unasked for their own, too.
//
// S4-17
func TestPunchWithoutACoordinator(t *testing.T) {
	t.Parallel()
	for name, nat := range map[string]netns.NAT{"masquerade": netns.Masquerade(), "that accepts": netns.Masquerade().AcceptingInput()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := netns.Standard(t, twoRouters(nat))
			programs.Serve(t, s.VPS, filepath.Join(s.Dir(), "coordinator"), []string{netns.VPSAddr, netns.VPSOtherAddr})
			programs.Sink(s.Home, "127.0.0.1:9000")
			word := []string{"--secret", punchWord, "--json", "--stun", netns.VPSAddr, "--stun", netns.VPSOtherAddr}
			home := s.Home.Start("agent", append([]string{"punch", "--peer", netns.LaptopPublic + ":40001", "--local", ":40000", "--at", "+3s",
				"--expose", "echo=udp://127.0.0.1:9000"}, word...)...)
			laptop := s.Laptop.Start("agent", append([]string{"punch", "--peer", netns.HomePublic + ":40000", "--local", ":40001", "--at", "+5s",
				"--dial", "echo=udp://127.0.0.1:9001"}, word...)...)
			if e := happened(t, home, "outside", 10*time.Second); e.Addr != netns.HomePublic+":40000" {
				t.Errorf("seen at %s", e.Addr)
			}
			began := time.Now()
			happened(t, laptop, "open", 15*time.Second)
			happened(t, home, "open", time.Second)
			t.Logf("open after %v:\n%s", time.Since(began).Round(10*time.Millisecond), laptop.Log())

			var pings programs.Pings
			programs.Load(t, s.Laptop, &pings, "ping", "-to", "127.0.0.1:9001", "-n", "300", "-size", "1000", "-interval", "2ms")
			if pings.Answered < 299 || pings.Duplicates != 0 || pings.P50 > 200_000 {
				t.Errorf("pings: %+v", pings)
			}
			laptop.Stop()
			happened(t, home, "ended", 3*time.Second)
			<-home.Done()
		})
	}
}

// Nobody there, or another secret: exit code 1, with what was seen and what to
// do.
func TestPunchThatFails(t *testing.T) {
	t.Parallel()
	s := netns.Standard(t, twoRouters(netns.Masquerade()))
	other := s.Home.Start("agent", "punch", "--peer", netns.LaptopPublic+":40001", "--local", ":40000", "--secret", "another word")
	for _, c := range []struct{ peer, want string }{
		{netns.HomePublic + ":41000", "no-answer: nothing came from"},
		{netns.HomePublic + ":40000", "wrong-secret: "},
	} {
		out, err := s.Laptop.Try("agent", "punch", "--peer", c.peer, "--local", ":40001", "--secret", punchWord, "--for", "6s")
		if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\n%s", c.peer, err, out)
		}
	}
	other.Kill()
}

// The laptop waits behind a masquerading router, and knows nothing of who calls
// from a public address; connection tracking lets the call in, as an error about
// the echo request.
//
// S4-16
func TestPunchByICMP(t *testing.T) {
	t.Parallel()
	s := netns.Standard(t, twoRouters(netns.Masquerade()))
	caller := s.HomeRouter
	programs.Sink(caller, "127.0.0.1:9000")
	word := []string{"--secret", punchWord, "--json", "--icmp", "--at", "+2s"}
	laptop := s.Laptop.Start("agent", append([]string{"punch", "--local", ":40001", "--dial", "echo=udp://127.0.0.1:9001"}, word...)...)
	home := caller.Start("agent", append([]string{"punch", "--peer", netns.LaptopPublic + ":40001", "--local", ":40000",
		"--expose", "echo=udp://127.0.0.1:9000"}, word...)...)
	began := time.Now()
	happened(t, laptop, "open", 20*time.Second)
	happened(t, home, "open", time.Second)
	t.Logf("open after %v:\n%s", time.Since(began).Round(10*time.Millisecond), laptop.Log())
	var pings programs.Pings
	programs.Load(t, s.Laptop, &pings, "ping", "-to", "127.0.0.1:9001", "-n", "100", "-size", "1000", "-interval", "2ms")
	if pings.Answered < 98 {
		t.Errorf("pings: %+v", pings)
	}
}

// Who calls from behind a router of Linux's is not heard: that has no entry which
// the call could belong to. Both sides end with a reason.
//
// S4-16
func TestPunchByICMPFromBehindARouter(t *testing.T) {
	t.Parallel()
	s := netns.Standard(t, twoRouters(netns.Masquerade()))
	home := s.Home.Start("agent", "punch", "--icmp", "--peer", netns.LaptopPublic+":40001", "--local", ":40000", "--secret", punchWord, "--for", "6s")
	if _, err := s.Laptop.Try("agent", "punch", "--icmp", "--local", ":40001", "--secret", punchWord, "--for", "6s"); err == nil || !strings.Contains(err.Error(), "no-call: ") {
		t.Errorf("the side that waits: %v", err)
	}
	if code := home.Wait(5 * time.Second); code != 1 || !strings.Contains(home.Log(), "no-answer: ") {
		t.Errorf("the side that calls: %d, %s", code, home.Log())
	}
	if n := s.HomeRouter.Counter("invalid").Packets; n == 0 {
		t.Error("the router dropped nothing: the test tests nothing")
	}
}

// Without the privilege the reason and what to do are told.
func TestPunchByICMPWithoutPrivilege(t *testing.T) {
	t.Parallel()
	s := netns.Standard(t, twoRouters(netns.Masquerade()))
	out, err := s.Laptop.TryAs(netns.Guise{Unprivileged: true}, "agent", "punch", "--icmp", "--local", ":40001", "--secret", punchWord)
	if err == nil || !strings.Contains(err.Error(), "setcap cap_net_raw+ep") {
		t.Errorf("%v\n%s", err, out)
	}
}
