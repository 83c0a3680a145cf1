package agent

import (
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// A member that signs candidates of forbidden ranges, and far too many of them,
// has nobody send there: what is refused is counted, and the true one still
// serves.
//
// S4-04, S4-19
func TestForbiddenCandidatesAreRefusedAndCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		far := w.agent(home, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		forbidden := []string{"127.0.0.1:9", "[::1]:9", "224.0.0.251:5353", "[ff02::fb]:5353", "255.255.255.255:9", "240.1.1.1:9", "0.0.0.0:9",
			"169.254.1.1:9", "[fe80::1]:9", "[64:ff9b::7f00:1]:9", "[2002:7f00:1::]:9", "[2001::1]:9"}
		evil := *far.here.Load()
		add := func(at netip.AddrPort) {
			evil.candidates = append(evil.candidates, candidate{proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE, at, proto.Transport_TRANSPORT_UDP})
		}
		for _, text := range forbidden {
			add(netip.MustParseAddrPort(text))
		}
		add(netip.MustParseAddrPort("172.16.3.4:9")) // another network's
		many := 0
		for ip := range byte(20) {
			for port := range uint16(10) {
				add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 100 + ip}), 9000+port))
				many++
			}
		}
		far.here.Store(&evil)
		var sent = map[netip.AddrPort]bool{}
		road.Meter(func(to netip.AddrPort, _ int) { sent[to] = true })
		reach(t, laptop, "home", "direct-udp", 3*time.Second)
		time.Sleep(10 * time.Second)
		road.Meter(nil)
		ports := map[netip.Addr]int{}
		for at := range sent {
			if path.Refuse(at, false) != "" {
				t.Errorf("something was sent to %v", at)
			}
			if at.Addr().Is4() && at.Addr().As4()[0] == 192 {
				ports[at.Addr()]++
			}
		}
		if len(ports) > path.DefaultBudget.Addrs {
			t.Errorf("%d addresses were probed", len(ports))
		}
		for ip, n := range ports {
			if n > path.DefaultBudget.Ports {
				t.Errorf("%d ports of %v were probed", n, ip)
			}
		}
		if n := laptop.Status().Counters["candidate-refused"]; n < uint64(len(forbidden)+many/2) {
			t.Errorf("%d candidates are counted as refused", n)
		}
		if n := far.Status().Counters["candidate-refused"]; n != 0 {
			t.Errorf("home counts %d of an honest peer", n)
		}
	})
}
