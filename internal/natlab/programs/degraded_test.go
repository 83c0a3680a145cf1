//go:build linux

package programs_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// UDP that passes but badly loses to a lower rung that is clean, and explain
// says so with numbers.
// S0-19
func TestDegradedUDPLosesToFakeTCP(t *testing.T) {
	for name, box := range map[string]hop.Box{
		"20 % loss": hop.Lose{Protocol: hop.OnlyUDP, Share: 0.2},
		"1 Mbit/s":  &hop.Police{Protocol: hop.OnlyUDP, Rate: 1_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := programs.Situation{Options: netns.DefaultOptions()}.Start(t, exposeEcho, dialEcho)
			n.Reach(t, sinkAddr, loadAddr, "direct-udp")
			n.SetBoxes("laptoprouter", box)
			begin := time.Now()
			load := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "1000", "-n", "15000", "-interval", "2ms")
			n.Laptop.WaitPath("home", fakeTCP, 20*time.Second)
			t.Logf("on %s after %v", fakeTCP, time.Since(begin).Round(100*time.Millisecond))
			netns.Eventually(t, 3*time.Second, "a reason with numbers", func() error { return degraded(n.Laptop.Explain("home")) })
			n.Home.WaitPath("laptop", fakeTCP, 20*time.Second)
			load.Kill()
			var p programs.Pings
			programs.Load(t, n.Scene.Laptop, &p, "ping", "-to", loadAddr, "-size", "1000", "-n", "500", "-interval", "2ms")
			if p.Answered < 490 {
				t.Errorf("on the new path %d of 500 were answered", p.Answered)
			}
		})
	}
}

var figure = regexp.MustCompile(`[0-9]`)

func degraded(attempts []programs.Attempt) error {
	var got []string
	for _, a := range attempts {
		got = append(got, fmt.Sprintf("%s %s %s (%s)", a.Path, a.Result, a.Reason, a.Evidence))
		if a.Path == "direct-udp" && strings.Contains(a.Reason+a.Evidence, "degraded") && figure.MatchString(a.Evidence) {
			return nil
		}
	}
	return errors.New("none among: " + strings.Join(got, "; "))
}

// A NAT that lets no SYN in, whatever was sent before, makes TCP punching
// impossible: it is recognised, and the relay carries the data.
// S4-11
func TestSYNBlockedIsRecognised(t *testing.T) {
	t.Parallel()
	x := programs.WithoutRawSockets(netns.Masquerade().DropUDP().DropSYN())
	n, j := x.Travel(t, 0)
	if err := x.Arrived(j); err != nil {
		t.Error(err)
	}
	netns.Eventually(t, 15*time.Second, "the reason", func() error {
		var got []string
		for _, a := range n.Laptop.Explain("home") {
			if a.Path == "direct-tcp" && a.Reason == "syn-blocked" {
				return nil
			}
			got = append(got, a.Path+" "+a.Result+" "+a.Reason)
		}
		return errors.New("no attempt at direct-tcp ended as syn-blocked: " + strings.Join(got, "; "))
	})
}
