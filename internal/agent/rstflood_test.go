package agent

import (
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
)

// Routers next door that answer every SYN by RST, and that no SYN can be aimed
// through: the SYNs get fewer, that is counted, explain says so, and the relay
// carries meanwhile.
func TestRSTFloodIsBackedAwayFrom(t *testing.T) {
	virtual(t, func(t *testing.T) {
		refusing := hard(natlab.AddressAndPortDependent, natlab.Random(1024, 65535))
		refusing.Unsolicited = natlab.RejectUnsolicited
		w := newWorld(t)
		far, cafe := w.lab.NAT("far", "198.51.100.1", refusing, natlab.NoUDP(true)), w.lab.NAT("cafe", "198.51.100.129", refusing, natlab.NoUDP(true))
		w.lab.Delay(far, cafe, 200*time.Microsecond)
		home, road := far.Host("home", "10.0.0.2"), cafe.Host("laptop", "192.168.2.2")
		listen(t, home, serviceAt, true)
		w.agent(home, "home", all(everything(home), unprivileged, exposing(t, "wg", "udp://"+serviceAt)))
		laptop := w.agent(road, "laptop", all(everything(road), unprivileged, dialing(t, "home", "wg", "udp://"+dialAt)))
		time.Sleep(10 * time.Second)
		before := w.lab.Segments(natlab.Sent, "laptop", natlab.TCPSyn)
		client := listen(t, road, "127.0.0.1:0", false)
		client.send(dialAt, stamped(1, 148))
		time.Sleep(4 * time.Second)
		if n := w.lab.Segments(natlab.Sent, "laptop", natlab.TCPSyn) - before; n > path.RefusalsAtOnce+200 || n < 100 {
			t.Errorf("%d SYNs left in one attempt", n)
		}
		time.Sleep(4 * time.Second)
		if len(client.arrivals()) == 0 {
			t.Errorf("the relay carries nothing: %s", pathsText(laptop, "home"))
		}
		if laptop.Status().Counters[path.RefusalsFlood] == 0 {
			t.Errorf("nothing is counted: %v", laptop.Status().Counters)
		}
		told := ""
		for _, a := range explained(t, laptop, "home") {
			if a.Path == "direct-tcp" && a.Side == "local" {
				told = a.Reason + ": " + a.Evidence
			}
		}
		if !strings.Contains(told, "the pace was lowered") {
			t.Errorf("explain: %q", told)
		}
	})
}
