package agent

import (
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/gateway"
)

// A host from which TCP passes to port 443 alone reaches a peer whose NAT shows
// any port, when the router there leads 443 outside to the port that the attempt
// has. It is given back when nothing uses it, and at the end.
func TestOnlyPort443PassesAndTheRouterMapsIt(t *testing.T) {
	for name, c := range map[string]struct {
		o          gateway.Options
		home, road func(*Config)
		want       string
	}{
		"pcp":              {gateway.Options{PCP: true}, nil, nil, "direct-faketcp"},
		"nat-pmp, TCP":     {gateway.Options{NATPMP: true}, unprivileged, nil, "direct-tcp"},
		"upnp, TCP":        {gateway.Options{UPnP: true}, unprivileged, unprivileged, "direct-tcp"},
		"upnp for ever":    {gateway.Options{UPnP: true, OnlyPermanent: true}, nil, nil, "direct-faketcp"},
		"another has it":   {gateway.Options{PCP: true, UPnP: true, Taken: []uint16{443}}, nil, nil, "relay-faketcp"},
		"it is turned off": {gateway.Options{PCP: true}, func(c *Config) { c.Portmap = false }, nil, "relay-faketcp"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				var gw *gateway.Gateway
				p := only443(t, all(behind("192.168.1.1"), c.home), c.road, func(w *world) (host *natlab.Host) {
					host, gw, _ = w.randomHome(c.o)
					return host
				})
				p.goes(t, c.want)
				time.Sleep(30 * time.Second) // the attempts are over
				if n := led(gw, 443); (n > 0) != (c.want != "relay-faketcp") {
					t.Errorf("the router leads %v", gw.Held())
				}
				p.laptop.stop()
				time.Sleep(5 * time.Minute)
				if n := led(gw, 443); n > 0 {
					t.Errorf("nobody uses it any more, and the router leads %v", gw.Held())
				}
				p.far.stop()
				if held := gw.Held(); len(held) != 0 {
					t.Errorf("after the end the router still has %v", held)
				}
			})
		})
	}
}

// led is how many mappings have an external port.
func led(gw *gateway.Gateway, external uint16) (n int) {
	for _, e := range gw.Held() {
		if e == external {
			n++
		}
	}
	return n
}
