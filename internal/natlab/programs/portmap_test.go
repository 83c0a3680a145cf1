//go:build linux

package programs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// netcheck is the part of `agent netcheck --json` that tells of routers.
type netcheck struct {
	Portmap []string `json:"portmap"`
	Routers []struct {
		Gateway  string `json:"gateway"`
		Mappings []struct {
			Protocol string `json:"protocol"`
			Internal string `json:"internal"`
			External string `json:"external"`
		} `json:"mappings"`
	} `json:"routers"`
}

// Debian's miniupnpd on the home's router, whose NAT gives each destination a
// random port, as the laptop's does: nothing can be punched, and the mapped
// port makes it direct at the first try. The port is closed when the agent
// stops.
//
// S4-14
func TestMiniupnpd(t *testing.T) {
	netns.Require(t)
	needsMiniupnpd(t)
	for name, c := range map[string]struct {
		mapping  netns.Mapping
		laptop   netns.NAT
		answered []string
		by       string
	}{
		"all":          {netns.Mapping{}, netns.RandomPorts(), []string{"pcp", "nat-pmp", "upnp"}, "pcp"},
		"nat-pmp only": {netns.Mapping{NoPCP: true, NoUPnP: true}, netns.RandomPorts(), []string{"nat-pmp"}, "nat-pmp"},
		"upnp only":    {netns.Mapping{NoPCP: true, NoNATPMP: true}, netns.RandomPorts(), []string{"upnp"}, "upnp"},
		// What home sends first would take the place of what comes to the mapped
		// port from the same address.
		"the laptop's port is foreseen": {netns.Mapping{}, netns.Masquerade(), []string{"pcp", "nat-pmp", "upnp"}, "pcp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := netns.Standard(t, behind(c.laptop))
			attic, router := s.MappingHome(netns.RandomPorts(), c.mapping)
			coordinator := programs.Serve(t, s.VPS, filepath.Join(s.Dir(), "coordinator"), []string{netns.VPSAddr, netns.VPSOtherAddr})
			home := programs.Join(t, attic, s.Dir(), "home", coordinator.Invite())

			var found netcheck
			if err := json.Unmarshal([]byte(home.Do("netcheck", "--json")), &found); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(found.Portmap, c.answered) {
				t.Errorf("netcheck says that %v answered, want %v", found.Portmap, c.answered)
			}
			if len(found.Routers) == 0 || len(found.Routers[0].Mappings) != 1 || found.Routers[0].Mappings[0].Protocol != c.by ||
				!strings.HasPrefix(found.Routers[0].Mappings[0].External, netns.MappedPublic+":") {
				t.Errorf("netcheck tells of %+v", found.Routers)
			}
			noneMapped(t, router)

			home.Up("--expose", "echo=udp://127.0.0.1:9000")
			netns.Eventually(t, 5*time.Second, "the router to map a port", func() error {
				if len(router.Mapped()) == 0 {
					return errors.New("it maps none")
				}
				return nil
			})
			laptop := programs.Join(t, s.Laptop, s.Dir(), "laptop", home.Do("invite"))
			laptop.Up("--dial", "home/echo=udp://127.0.0.1:9001")
			time.Sleep(time.Second) // home leaves its candidates at the coordinator
			programs.Sink(attic, "127.0.0.1:9000")
			load := programs.StartLoad(t, s.Laptop, "ping", "-to", "127.0.0.1:9001", "-size", "100", "-n", "500", "-interval", "10ms")
			began := time.Now()
			laptop.WaitPath("home", "direct-udp", time.Second)
			t.Logf("direct after %v; home's status:\n%s", time.Since(began), home.Do("status"))
			load.Kill()
			if p, err := laptop.Peer("home"); err != nil || !strings.HasPrefix(p.Remote, netns.MappedPublic+":") {
				t.Errorf("the laptop's path: %+v, %v", p, err)
			}
			var tries []programs.Attempt
			for _, a := range laptop.Explain("home") {
				if a.Path == "direct-udp" && a.Side == "local" {
					tries = append(tries, a)
				}
			}
			if len(tries) == 0 || tries[0].Result != "ok" {
				t.Errorf("the first try was not direct: %+v", tries)
			}
			home.Stop()
			noneMapped(t, router)
		})
	}
}

// S4-15: a pinhole in the firewall of IPv6, by PCP.
func TestMiniupnpdPinhole(t *testing.T) {
	netns.Require(t)
	needsMiniupnpd(t)
	o := behind(netns.RandomPorts())
	o.IPv6 = true
	s := netns.Standard(t, o)
	attic, router := s.MappingHome(netns.RandomPorts(), netns.Mapping{})
	coordinator := programs.Serve(t, s.VPS, filepath.Join(s.Dir(), "coordinator"), []string{netns.VPSAddr, netns.VPSIPv6})
	home := programs.Join(t, attic, s.Dir(), "home", coordinator.Invite())
	home.Up("--expose", "echo=udp://127.0.0.1:9000")
	netns.Eventually(t, 5*time.Second, "the router to open a pinhole", func() error {
		if rules := router.Mapped(); !slices.ContainsFunc(rules, func(r string) bool {
			return strings.Contains(r, strings.ReplaceAll("2001 0db8 0004 0000 0000 0000 0000 0002", " ", ""))
		}) {
			return fmt.Errorf("it has %q", rules)
		}
		return nil
	})
	home.Stop()
	noneMapped(t, router)
}

// noneMapped fails the test where the router still leads a port inside.
func noneMapped(t *testing.T, router *netns.Host) {
	t.Helper()
	if rules := router.Mapped(); len(rules) != 0 {
		t.Errorf("the router still has\n%s", strings.Join(rules, "\n"))
	}
}

// needsMiniupnpd skips the test where it is not installed. With CI=true the test
// fails.
func needsMiniupnpd(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("miniupnpd")
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("CAN'T RUN: %v; make deps installs miniupnpd", err)
	default:
		t.Skipf("SKIPPED: %v; make deps installs miniupnpd", err)
	}
}

// behind is the standard network with a NAT at the laptop.
func behind(n netns.NAT) netns.Options {
	o := netns.DefaultOptions()
	o.LaptopNAT = n
	return o
}
