package portmap

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// maxEndless bounds how many mappings without an end are remembered.
const maxEndless = 32

// Endless is a mapping of ours that a gateway keeps until it is told
// otherwise, as some speakers of UPnP do with all.
type Endless struct {
	Gateway   netip.Addr     `json:"gateway"`
	Transport Transport      `json:"transport"` // its number in IP
	Internal  netip.AddrPort `json:"internal"`
	External  uint16         `json:"external"`
}

// unended are the ones that we hold, and that this run or one before it could
// not take back: its host lost power, or had left the gateway's network.
type unended struct {
	mu   sync.Mutex
	list []Endless
}

func endlessOf(m Mapping) Endless {
	return Endless{Gateway: m.Gateway, Transport: m.Port.Transport, Internal: m.Internal, External: m.External.Port()}
}

// noteEndless notes whether the gateway has this mapping. The oldest is
// forgotten where there are too many.
func (m *Mapper) noteEndless(e Endless, has bool) {
	m.endless.mu.Lock()
	defer m.endless.mu.Unlock() // what Config.Endless is told stays in order
	at := slices.Index(m.endless.list, e)
	switch {
	case has == (at >= 0):
		return
	case has:
		m.endless.list = append(m.endless.list, e)
		m.endless.list = slices.Clone(m.endless.list[max(0, len(m.endless.list)-maxEndless):])
	default:
		m.endless.list = slices.Concat(m.endless.list[:at], m.endless.list[at+1:])
	}
	if m.cfg.Endless != nil {
		m.cfg.Endless(m.endless.list)
	}
}

// endlessOn are those on one gateway.
func (m *Mapper) endlessOn(gateway netip.Addr) []Endless {
	m.endless.mu.Lock()
	defer m.endless.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.endless.list), func(e Endless) bool { return e.Gateway != gateway })
}

// sweep takes back what nobody wants any more of the mappings without an end
// on this gateway, once after each search that found UPnP.
func (k *keeper) sweep(ctx context.Context, wanted []Port) {
	k.mu.Lock()
	var c *upnpClient
	for _, o := range k.clients {
		if u, ok := o.(*upnpClient); ok && !k.swept {
			c, k.swept = u, true
		}
	}
	k.mu.Unlock()
	if c == nil {
		return
	}
	for _, e := range k.m.endlessOn(k.road.gateway) {
		if e.Internal.Addr() == k.road.source && slices.ContainsFunc(wanted, func(p Port) bool {
			return p.Transport == e.Transport && p.Number == e.Internal.Port()
		}) {
			continue // it is about to be had again
		}
		if err := c.drop(ctx, e); err != nil {
			k.m.failed(k.road.gateway, UPnP, err)
			if isSilence(err) || ctx.Err() != nil {
				return
			}
			continue
		}
		k.m.noteEndless(e, false)
	}
}

// drop deletes a mapping if the gateway tells it as ours; who answers at the
// address of the gateway may be another than the one that made it.
func (c *upnpClient) drop(ctx context.Context, e Endless) error {
	held, err := c.entryOf(ctx, e.Transport, e.External)
	if err != nil || held == nil || *held != (entry{e.Internal.Addr(), e.Internal.Port(), description}) {
		return err
	}
	return c.release(ctx, Port{Transport: e.Transport}, netip.AddrPortFrom(c.at, e.External))
}
