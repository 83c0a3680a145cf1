package portmap

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/natlab/gateway"
)

// notebook is what the agent's state folder is to a Mapper.
type notebook struct {
	mu   sync.Mutex
	list []Endless
}

func (n *notebook) write(list []Endless) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = list
}

func (n *notebook) read() []Endless {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.list
}

// deaf is a gateway's page that takes no deletions, as if whoever sends them
// had died before.
func deaf(w http.ResponseWriter, r *http.Request) bool {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	if !bytes.Contains(body, []byte("DeletePortMapping")) {
		return false
	}
	w.WriteHeader(http.StatusInternalServerError)
	return true
}

// runWith runs a Mapper for some seconds that begins with what a notebook has.
func (w *world) runWith(n *notebook, p Port) {
	w.t.Helper()
	cfg := w.config()
	cfg.Left, cfg.Endless = n.read(), n.write
	m := New(cfg)
	m.Map(p)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m.Run(ctx)
}

// What a run that was killed left on a router for ever is gone after the next
// start, and nothing else is.
// S4-14
func TestEndlessMappingsOfAnEarlierRunAreTakenBack(t *testing.T) {
	t.Parallel()
	first, second := udpPortOf(port), udpPortOf(port+1)
	for name, c := range map[string]struct {
		next Port                        // that the next run wants
		came func(w *world, n *notebook) // between both runs
		held []uint16                    // at its end
	}{
		"another port":       {next: second},
		"the same port":      {next: first},
		"the gateway is new": {next: second, came: func(w *world, _ *notebook) { w.gw.Restart() }},
		"somebody has the port": {next: second, held: []uint16{port + 5}, came: func(w *world, n *notebook) {
			n.list = []Endless{{Gateway: netip.MustParseAddr(lanGW), Transport: UDP, External: port + 5, Internal: netip.AddrPortFrom(netip.MustParseAddr(lanPC), port+2)}}
			w.gw.Restart()
			other := w.config()
			other.Net, other.TCP = w.neighbour, w.neighbour
			m := New(other)
			m.Map(udpPortOf(port + 5))
			go m.Run(w.t.Context())
			time.Sleep(5 * time.Second)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, gateway.Options{UPnP: true, OnlyPermanent: true, Page: deaf})
				var n notebook
				w.runWith(&n, first)
				want := []Endless{{Gateway: netip.MustParseAddr(lanGW), Transport: UDP, External: port, Internal: netip.AddrPortFrom(netip.MustParseAddr(lanPC), port)}}
				if !slices.Equal(n.read(), want) {
					t.Fatalf("remembered %+v, want %+v", n.read(), want)
				}
				w.gw.Change(func(o *gateway.Options) { o.Page = nil })
				if c.came != nil {
					c.came(w, &n)
				}
				w.runWith(&n, c.next)
				var held []uint16
				for _, external := range w.gw.Held() {
					held = append(held, external)
				}
				if !slices.Equal(held, c.held) || len(n.read()) != 0 {
					t.Errorf("the gateway holds %v, want %v; remembered: %+v", held, c.held, n.read())
				}
			})
		})
	}
}

func TestEndlessMappingsAreBounded(t *testing.T) {
	t.Parallel()
	var n notebook
	m := New(Config{Endless: n.write})
	for i := range maxEndless + 5 {
		m.noteEndless(Endless{External: uint16(i)}, true)
		m.noteEndless(Endless{External: uint16(i)}, true)
	}
	if list := n.read(); len(list) != maxEndless || list[0].External != 5 {
		t.Errorf("%d are remembered, the first %+v", len(list), list[0])
	}
}
