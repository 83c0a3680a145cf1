package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// unbidden counts what a host sends to the other side's addresses before anything
// came from there, and its SYNs. A datagram to a port of theirs that it has not
// heard of is unbidden too.
type unbidden struct{ datagrams, syns int }

// watch counts for a host towards an address from now on.
func (u *unbidden) watch(lab *natlab.Lab, host string, to netip.Addr) {
	heard := map[netip.AddrPort]bool{}
	lab.Watch(func(r natlab.Record) {
		switch {
		case r.Place != host:
		case r.Event == natlab.Delivered:
			heard[r.From] = true
		case r.Event != natlab.Sent || r.To.Addr() != to:
		case r.TCP == natlab.TCPSyn:
			u.syns++
		case r.TCP == natlab.NotTCP && !heard[r.To]:
			u.datagrams++
		}
	})
}

// S4-13: one side is reached as it is, so the other one alone dials. The side
// that is reached sends nothing unbidden, whichever of them begins, and whatever
// the other's NAT does with ports; nobody sprays.
func TestConnectionReversal(t *testing.T) {
	for name, c := range map[string]struct {
		nat   natlab.Behaviour
		kind  path.Kind
		begun string // by whom
	}{
		"udp, home router, it dials":        {natlab.Home(), path.DirectUDP, "natted"},
		"udp, home router, it is dialed":    {natlab.Home(), path.DirectUDP, "public"},
		"udp, ports at random, it dials":    {natlab.Cellular(), path.DirectUDP, "natted"},
		"udp, ports at random, dialed":      {natlab.Cellular(), path.DirectUDP, "public"},
		"fake TCP, home router, it dials":   {natlab.Home(), path.DirectFakeTCP, "natted"},
		"fake TCP, home router, dialed":     {natlab.Home(), path.DirectFakeTCP, "public"},
		"fake TCP, ports at random":         {natlab.Cellular(), path.DirectFakeTCP, "natted"},
		"fake TCP, ports at random, dialed": {natlab.Cellular(), path.DirectFakeTCP, "public"},
		"TCP, home router, it dials":        {natlab.Home(), path.DirectTCP, "natted"},
		"TCP, home router, dialed":          {natlab.Home(), path.DirectTCP, "public"},
		"TCP, ports at random":              {natlab.Cellular(), path.DirectTCP, "natted"},
		"TCP, ports at random, dialed":      {natlab.Cellular(), path.DirectTCP, "public"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				w := newWorld(t)
				cafe := w.lab.NAT("cafe", "198.51.100.129", c.nat)
				hosts := map[string]*natlab.Host{"public": w.lab.Host("public", "45.1.1.2"), "natted": cafe.Host("natted", "192.168.2.2")}
				kinds := only(c.kind, path.RelayUDP)
				agents := map[string]*running{}
				for who, host := range hosts {
					agents[who] = w.agent(host, who, all(everything(host), kinds))
				}
				w.settle()
				time.Sleep(5 * time.Second)
				var u unbidden
				u.watch(w.lab, "public", cafe.Addr())
				other := map[string]string{"public": "natted", "natted": "public"}[c.begun]
				took := reach(t, agents[c.begun], other, c.kind.String(), 3*time.Second)
				time.Sleep(20 * time.Second)
				t.Logf("%s after %v", c.kind, took)
				if u != (unbidden{}) {
					t.Errorf("the public side sent %+v", u)
				}
				for who, a := range agents {
					if n := a.ration.Sent.Load(); n != 0 {
						t.Errorf("%s sprayed %d datagrams", who, n)
					}
				}
			})
		})
	}
}

// A firewall that lets in what the coordinator's other address answers, but
// nothing of the peer's, is no reason to give up: after the peer had its time,
// the side that took itself for reachable begins as well.
//
// S4-18
func TestReversalThatComesToNothingIsFollowedByAPunch(t *testing.T) {
	for _, kind := range []path.Kind{path.DirectUDP, path.DirectFakeTCP, path.DirectTCP} {
		t.Run(kind.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				w := newWorld(t)
				cafe := w.lab.NAT("cafe", "198.51.100.129", natlab.Home())
				public := w.lab.Host("public", "45.1.1.2")
				begun := map[netip.AddrPort]bool{}
				w.lab.Watch(func(r natlab.Record) {
					if r.Event == natlab.Sent && r.Place == "public" {
						begun[r.To] = true
					}
				})
				outside := cafe.Addr()
				public.DropWhen(func(from, _ netip.AddrPort, _ []byte) bool { return from.Addr() == outside && !begun[from] })
				a := w.agent(public, "public", all(everything(public), only(kind, path.RelayUDP)))
				road := cafe.Host("natted", "192.168.2.2")
				b := w.agent(road, "natted", all(everything(road), only(kind, path.RelayUDP)))
				w.settle()
				time.Sleep(5 * time.Second)
				if !reachable(asCandidates(a), a.here.Load().behaviour, proto.Transport_TRANSPORT_UDP) {
					t.Fatal("it does not take itself for reachable")
				}
				took := reach(t, b, "public", kind.String(), 5*time.Second)
				t.Logf("%s after %v", kind, took)
			})
		})
	}
}

func asCandidates(a *running) []candidate { return slices.Clone(a.here.Load().candidates) }
