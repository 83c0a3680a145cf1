package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
)

// only443 puts the laptop behind a firewall that lets nothing but TCP to port
// 443 pass, and home where at says.
func only443(t *testing.T, homeConfig, roadConfig func(*Config), at func(w *world) *natlab.Host) *pair {
	t.Helper()
	p := &pair{world: newWorld(t)}
	p.home = at(p.world)
	p.road, p.cafe = p.world.road(natlab.Home())
	p.cafe.Set(natlab.NoUDP(true), natlab.TCPPorts(443))
	p.service = listen(t, p.home, serviceAt, true)
	p.far = p.agent(p.home, "home", all(everything(p.home), homeConfig, exposing(t, "wg", "udp://"+serviceAt)))
	p.laptop = p.agent(p.road, "laptop", all(everything(p.road), roadConfig, dialing(t, "home", "wg", "udp://"+dialAt)))
	time.Sleep(10 * time.Second)
	p.client = listen(t, p.road, "127.0.0.1:0", false)
	return p
}

func behindNAT(b natlab.Behaviour) func(*world) *natlab.Host {
	return func(w *world) *natlab.Host {
		return w.lab.NAT("far", "198.51.100.1", b).Host("home", "10.0.0.2")
	}
}

// A host that can send TCP to port 443 alone is joined by a peer that opens from
// its own port 443, wherever that is 443 outside.
func TestOnlyPort443Passes(t *testing.T) {
	kept := hard(natlab.AddressAndPortDependent, natlab.Preserved())
	rejects := natlab.Home()
	rejects.Unsolicited = natlab.RejectUnsolicited
	public := func(w *world) *natlab.Host { return w.lab.Host("home", "198.51.100.1") }
	for name, c := range map[string]struct {
		at         func(*world) *natlab.Host
		home, road func(*Config)
		want       string
	}{
		"home":                     {behindNAT(natlab.Home()), nil, nil, "direct-faketcp"},
		"home, unprivileged":       {behindNAT(natlab.Home()), nil, unprivileged, "direct-tcp"},
		"home rejects":             {behindNAT(rejects), nil, nil, "direct-faketcp"},
		"home keeps ports once":    {behindNAT(kept), nil, nil, "direct-faketcp"},
		"the same, unprivileged":   {behindNAT(kept), unprivileged, nil, "direct-tcp"},
		"public":                   {public, nil, nil, "direct-faketcp"},
		"public, unprivileged":     {public, unprivileged, unprivileged, "direct-tcp"},
		"both behind such a wall":  {walled, nil, nil, "direct-faketcp"},
		"the same, unprivileged 2": {walled, unprivileged, unprivileged, "direct-tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) { only443(t, c.home, c.road, c.at).goes(t, c.want) })
		})
	}
}

func walled(w *world) *natlab.Host {
	return w.lab.NAT("far", "198.51.100.1", natlab.Home(), natlab.NoUDP(true), natlab.TCPPorts(443)).Host("home", "10.0.0.2")
}

// Where port 443 is a service's, or is another outside, explain says so, and
// the service keeps it.
func TestPort443IsNotToBeHad(t *testing.T) {
	for name, c := range map[string]struct {
		at    func(*world) *natlab.Host
		taken bool
		want  string // of the laptop
		there string
	}{
		"a service has it":      {behindNAT(natlab.Home()), true, "failed port-blocked", "failed port-taken"},
		"the NAT translates it": {behindNAT(natlab.Carrier()), false, "failed port-blocked", "failed port-translated"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := only443(t, only(path.DirectFakeTCP, path.RelayUDP), nil, func(w *world) *natlab.Host {
					h := c.at(w)
					if c.taken {
						l, err := h.ListenTCP(netip.MustParseAddrPort("0.0.0.0:443"))
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { _ = l.Close() })
					}
					return h
				})
				p.settled()
				if got := p.why(t, "local")["direct-faketcp"]; got != c.want {
					t.Errorf("laptop: %q, want %q", got, c.want)
				}
				for _, a := range explained(t, p.far, "laptop") {
					if a.Path == "direct-faketcp" && a.Side == "local" {
						t.Logf("%s %s: %s (%s)", a.Result, a.Reason, a.Evidence, a.Advice)
						if got := strings.TrimSpace(a.Result + " " + a.Reason); got != c.there {
							t.Errorf("home: %q, want %q", got, c.there)
						}
					}
				}
			})
		})
	}
}
