package main

import (
	"net/netip"
	"strings"
	"testing"
)

// All faults of `stripe:` come at once.
// S2-02
func TestStripingFaults(t *testing.T) {
	s := striping{Addresses: []string{"vps.example.org"}, Exclude: []string{"ssh"}, Reserved: []string{"9-8"}, UDP: 70000, TCP: -2}
	_, err := s.check()
	if err == nil {
		t.Fatal("no fault")
	}
	for _, want := range []string{"vps.example.org", `exclude: "ssh"`, `reserved: "9-8"`, "udp: 70000", "tcp: -2"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

// What is striped leads to the main port, to one that is open where that is not,
// or to the one that was set; our own other ports and those of `publish:` are
// left out.
// S2-01, S2-02
func TestStripedConfig(t *testing.T) {
	at := func(all ...string) (out []netip.AddrPort) {
		for _, a := range all {
			out = append(out, netip.MustParseAddrPort(a))
		}
		return out
	}
	s := defaultSettings()
	s.Ports, s.Publish = []int{80}, []publishing{{Ports: []string{"51820", "30000-30100"}}}
	s.Stripe.Addresses = []string{"203.0.113.10"}
	p, err := s.Check()
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.stripe.config(p, listening{at("0.0.0.0:443", "0.0.0.0:3478"), at("0.0.0.0:3478")})
	if err != nil || c.UDP != 443 || c.TCP != 3478 || c.Addrs[0] != netip.MustParseAddr("203.0.113.10") {
		t.Errorf("%+v, %v", c, err)
	}
	for _, port := range []uint16{80, 3478, 51820, 30000, 30100} {
		if !c.Exclude.Has(port) {
			t.Errorf("%d is not left out: %v", port, c.Exclude)
		}
	}
	p.stripe.udp, p.stripe.tcp = 8443, -1
	if c, err = p.stripe.config(p, listening{at("0.0.0.0:443"), at("0.0.0.0:443")}); err != nil || c.UDP != 8443 || c.TCP != 0 {
		t.Errorf("as set: %+v, %v", c, err)
	}
}
