//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ageingEvery is how often a router's mappings are looked at.
const ageingEvery = 200 * time.Millisecond

// Ageing is a router whose mappings of UDP end at an age, whatever is sent.
// nftables has no such NAT: what connection tracking knows of a source's flows
// is taken away when the first of them is that old.
type Ageing struct {
	after time.Duration
	first map[netip.AddrPort]time.Time // of each source behind the router

	mu    sync.Mutex
	ended int
	err   error
}

// EndMappings makes the host end its mappings at an age, until the lab ends.
func (h *Host) EndMappings(after time.Duration) *Ageing {
	h.lab.t.Helper()
	g := &Ageing{after: after, first: make(map[netip.AddrPort]time.Time)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(ageingEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				err := h.Do(func() error { return g.look(now) })
				g.mu.Lock()
				g.err = errors.Join(g.err, err)
				g.mu.Unlock()
				if err != nil {
					return
				}
			}
		}
	}()
	h.lab.t.Cleanup(func() { cancel(); <-done })
	return g
}

// Ended is how many mappings were ended so far.
func (g *Ageing) Ended() (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended, g.err
}

// look ends what is old enough. It runs in the router's namespace.
func (g *Ageing) look(now time.Time) error {
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list connection tracking's flows: %w", err)
	}
	there := make(map[netip.AddrPort]uint16) // and their outside port
	for _, f := range flows {
		if source, ok := sourceOf(f); ok {
			there[source] = f.Reverse.DstPort
		}
	}
	for source := range g.first {
		if _, ok := there[source]; !ok {
			delete(g.first, source)
		}
	}
	for source, port := range there {
		began, known := g.first[source]
		if !known {
			g.first[source] = now
			continue
		}
		if now.Sub(began) < g.after {
			continue
		}
		delete(g.first, source)
		if err := g.end(source, port); err != nil {
			return err
		}
	}
	return nil
}

// end deletes the flows of a source until none has the outside port any more: a
// datagram that crosses meanwhile would hand it on to a new flow.
func (g *Ageing) end(source netip.AddrPort, port uint16) error {
	for {
		n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, flowsOf{source, port})
		if err != nil {
			return fmt.Errorf("end the flows of %v: %w", source, err)
		}
		if n == 0 {
			break
		}
	}
	g.mu.Lock()
	g.ended++
	g.mu.Unlock()
	return nil
}

// flowsOf are the flows of a source that have one outside port.
type flowsOf struct {
	source netip.AddrPort
	port   uint16
}

// MatchConntrackFlow says whether a flow is one of them.
func (m flowsOf) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	source, ok := sourceOf(f)
	return ok && source == m.source && f.Reverse.DstPort == m.port
}

// sourceOf is the source of a flow of UDP that is translated.
func sourceOf(f *netlink.ConntrackFlow) (netip.AddrPort, bool) {
	ip, ok := netip.AddrFromSlice(f.Forward.SrcIP)
	return netip.AddrPortFrom(ip.Unmap(), f.Forward.SrcPort), ok && f.Forward.Protocol == unix.IPPROTO_UDP && !f.Reverse.DstIP.Equal(f.Forward.SrcIP)
}
