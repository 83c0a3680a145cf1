//go:build linux

package programs_test

import (
	"fmt"
	"os"
	"testing"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

func TestMain(m *testing.M) { os.Exit(netns.TestMain(m.Run, programs.Packages()...)) }

// The baseline works between two NATs, or a comparison with it would mean
// nothing.
func TestPlainPairCarriesTheLoad(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true, CarrierNAT: netns.Masquerade()})
	programs.Sink(s.Home, "127.0.0.1:9000")
	near, far := programs.PlainPair(s, "127.0.0.1:9001", "127.0.0.1:9000")
	programs.SealedPair(s, "127.0.0.1:9002", "127.0.0.1:9000")

	for _, to := range []string{"127.0.0.1:9001", "127.0.0.1:9002"} {
		carries(t, s, to, near, far)
	}
}

func carries(t *testing.T, s *netns.Scene, to string, near, far *netns.Process) {
	t.Helper()
	var pings programs.Pings
	programs.Load(t, s.Laptop, &pings, "ping", "-to", to, "-n", "100", "-size", "100")
	if pings.Answered != 100 || pings.Duplicates != 0 || pings.P50 > 5000 {
		t.Errorf("pings: %+v", pings)
	}
	var rate programs.Rate
	programs.Load(t, s.Laptop, &rate, "rate", "-to", to, "-rate", "5000", "-check", "-burst", "16",
		"-pids", fmt.Sprintf("%d,%d", near.PID(), far.PID()))
	if rate.Loss > 0.01 || rate.Wrong != 0 || rate.Rate == 0 || rate.RSS == 0 || len(rate.CPUEach) != 2 {
		t.Errorf("rate: %+v", rate)
	}
}

// The baselines of public ports: a plain client on the laptop reaches home by
// way of the VPS.
func TestBaselinesByVPS(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true, CarrierNAT: netns.Masquerade()})
	programs.Sink(s.Home, "127.0.0.1:9000")
	programs.PlainPairByVPS(s, netns.VPSAddr+":9001", "127.0.0.1:9000")
	relayed, _, _ := programs.TURNRelay(s, 3479, "127.0.0.1:9000")
	for _, to := range []string{netns.VPSAddr + ":9001", relayed} {
		var p programs.Pings
		programs.Load(t, s.Laptop, &p, "ping", "-to", to, "-n", "50")
		if p.Answered < p.Sent-1 {
			t.Errorf("%s: %d of %d answered", to, p.Answered, p.Sent)
		}
		var r programs.Rate
		programs.Load(t, s.Laptop, &r, "rate", "-to", to, "-rate", "2000", "-burst", "16", "-check")
		if r.Loss > 0 || r.Wrong > 0 || r.Duplicates > 0 {
			t.Errorf("%s: %+v", to, r)
		}
	}
}
