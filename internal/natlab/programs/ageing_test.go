//go:build linux

package programs_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// transferFor is how long is transferred behind a NAT that ends mappings at an
// age: RENDEZVOUS_AGEING_S, in seconds, with mappings that last a minute; else
// what shows as much in short.
func transferFor(t *testing.T) (transfer, lifetime time.Duration) {
	t.Helper()
	text := os.Getenv("RENDEZVOUS_AGEING_S")
	if text == "" {
		return 75 * time.Second, 24 * time.Second
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("RENDEZVOUS_AGEING_S is %q, and must be a number of seconds", text)
	}
	return time.Duration(n) * time.Second, time.Minute
}

// Nothing is lost where a carrier ends each mapping at an age, however busy it
// is; not the first time either, when nobody knows that it does.
//
// S4-20
func TestMappingsEndAtAnAge(t *testing.T) {
	netns.Require(t)
	t.Parallel()
	transfer, lifetime := transferFor(t)
	for name, far := range map[string]bool{"at the laptop": false, "at home": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := netns.DefaultOptions()
			o.CarrierNAT, o.LaptopNAT = netns.CarrierGrade(20000, 29999), netns.CarrierGrade(20000, 29999)
			n := programs.Start(t, o, exposeEcho, dialEcho)
			router := n.LaptopRouter
			if far {
				router = n.Carrier
			}
			ageing := router.EndMappings(lifetime)
			programs.Sink(n.Scene.Home, sinkAddr)
			var first, p programs.Pings
			programs.Load(t, n.Scene.Laptop, &first, "ping", "-to", loadAddr, "-size", "100", "-n", "100", "-interval", "5ms")
			n.Laptop.WaitPath("home", "direct-udp", 3*time.Second)
			n.Home.WaitPath("laptop", "direct-udp", 3*time.Second)
			const each = 20 * time.Millisecond
			load := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "1000",
				"-n", fmt.Sprint(int(transfer/each)), "-interval", each.String())
			load.Result(&p, transfer+15*time.Second)
			ended, err := ageing.Ended()
			t.Logf("in %v %d mappings ended; %d of %d were answered, the longest pause was %.0f ms", transfer, ended, p.Answered, p.Sent, p.LongestGap)
			if err != nil || ended < int(transfer/lifetime) {
				t.Errorf("the router has ended %d mappings: %v", ended, err)
			}
			if p.Answered != p.Sent {
				t.Errorf("%d datagrams were lost", p.Sent-p.Answered)
			}
			n.Laptop.WaitPath("home", "direct-udp", 0)
		})
	}
}
