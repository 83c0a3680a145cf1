package portmap

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/natlab/gateway"
)

// One external port alone is of use: it leads to another port of ours, or
// nothing is held, and nobody else's is taken. A port that was refused and is
// given up leaves nothing to do.
func TestOneExternalPortAlone(t *testing.T) {
	wanted := Port{Transport: TCP, Number: 40001, External: 443}
	for name, o := range map[string]gateway.Options{"pcp": {PCP: true}, "nat-pmp": {NATPMP: true}, "upnp": {UPnP: true}} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, o)
				m, stop := w.run(wanted)
				held, ok := m.Await(t.Context(), wanted)
				if !ok || held.External.Port() != 443 || held.Internal.Port() != 40001 {
					t.Fatalf("%+v, %v", held, ok)
				}
				time.Sleep(3 * time.Hour)
				if got := only(t, m); got.External != held.External {
					t.Errorf("renewed as %+v", got)
				}
				stop()
				if all := w.gw.Held(); len(all) != 0 {
					t.Errorf("left: %v", all)
				}
			})
		})
		t.Run(name+", taken", func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				o := o
				o.Taken = []uint16{443}
				w := newWorld(t, o)
				m, stop := w.run(wanted)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if held, ok := m.Await(ctx, wanted); ok || ctx.Err() != nil {
					t.Errorf("%+v, %v", held, ctx.Err())
				}
				time.Sleep(time.Second)
				if all := w.gw.Held(); len(all) != 0 {
					t.Errorf("held in vain: %v", all)
				}
				m.Unmap(wanted)
				time.Sleep(3 * time.Hour)
				stop()
			})
		})
	}
}

// A gateway has each host replace its own mappings by UPnP: one that another
// program of this host made for a service is left alone.
func TestNoOthersMappingIsReplaced(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, gateway.Options{UPnP: true})
		service := Port{Transport: TCP, Number: 443}
		m, _ := w.run(service)
		if _, ok := m.Await(t.Context(), service); !ok {
			t.Fatal("the service has no mapping")
		}
		wanted := Port{Transport: TCP, Number: 40001, External: 443}
		m.Map(wanted)
		if held, ok := m.Await(t.Context(), wanted); ok {
			t.Errorf("%+v", held)
		}
		if all := w.gw.Held(); len(all) != 1 || all[netip.MustParseAddrPort(lanPC+":443")] != 443 {
			t.Errorf("%v", all)
		}
		if w.gw.Count("upnp conflict")+w.gw.Count("upnp add") != 1 {
			t.Errorf("the gateway was asked %v", w.gw.Asked())
		}
	})
}
