package agent

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"rendezvous/internal/natlab"
)

// Without UDP on one side, TCP's ports of the other's NAT are foreseen as UDP's
// are, by what was measured of TCP apart.
//
// S4-12
func TestPortsOfTCPAreForeseen(t *testing.T) {
	const all = natlab.AddressAndPortDependent
	kept, step1, step2 := hard(all, natlab.Preserved()), hard(all, natlab.Sequential(1, 1024, 65535)), hard(all, natlab.Sequential(2, 1024, 65535))
	busy := step1
	busy.Traffic = 10
	apart := natlab.Home().WithTCP(func(b *natlab.Behaviour) {
		b.Mapping, b.Ports, b.Overload = all, natlab.Sequential(1, 1024, 65535), false
	})
	for name, c := range map[string]struct {
		behaviour natlab.Behaviour
		config    func(*Config)
		want      string
	}{
		"kept":                     {kept, nil, "direct-faketcp"},
		"kept, unprivileged":       {kept, unprivileged, "direct-tcp"},
		"step 1":                   {step1, nil, "direct-faketcp"},
		"step 1, unprivileged":     {step1, unprivileged, "direct-tcp"},
		"step 2":                   {step2, nil, "direct-faketcp"},
		"step 1, others too":       {busy, nil, "direct-faketcp"},
		"UDP apart":                {apart, nil, "direct-faketcp"},
		"UDP apart, unprivileged":  {apart, unprivileged, "direct-tcp"},
		"step 1, others, no privs": {busy, unprivileged, "direct-tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				newPair(t, c.behaviour, func(p *pair) { p.carrier.Behave(natlab.Home()); p.carrier.Set(natlab.NoUDP(true)) }, c.config, c.config).goes(t, c.want)
			})
		})
	}
}

// Any port for each connection can't be foreseen: little is sent, and explain
// says why.
func TestScatteredPortsOfTCPAreNotTried(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var sent atomic.Int64
		p := newPair(t, natlab.Cellular(), func(p *pair) { p.carrier.Behave(natlab.Home()); p.carrier.Set(natlab.NoUDP(true)) }, nil, nil)
		p.home.Meter(func(to netip.AddrPort, n int) {
			if to.Addr().String() != vpsAddr && to.Addr().String() != vpsOther {
				sent.Add(int64(n))
			}
		})
		p.settled()
		for _, kind := range []string{"direct-faketcp", "direct-tcp"} {
			if got := p.why(t, "local")[kind]; got != "failed own-mapping-varies" {
				t.Errorf("%s: %q", kind, got)
			}
		}
		t.Logf("%d datagrams and segments from home", sent.Load())
		if sent.Load() > 700 {
			t.Errorf("%d were sent in vain", sent.Load())
		}
	})
}
