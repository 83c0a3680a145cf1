package agent

import (
	"net/netip"
	"slices"

	"rendezvous/internal/path"
)

// refused counts what a peer offers that no rung will send to: addresses of
// forbidden ranges, and more of them, or of their ports, than anybody needs.
// Private ones of another network are not counted: every peer tells its own.
func (r *refusals) refused(o offered, sharedOutside bool) {
	for _, list := range [][]netip.AddrPort{o.addrs, o.tcp, o.fake} {
		list = slices.DeleteFunc(slices.Clone(list), func(a netip.AddrPort) bool { return !sharedOutside && path.Private(a.Addr()) })
		_, refused := path.Permitted(list, sharedOutside, path.DefaultBudget)
		r.candidates.Add(uint64(len(refused)))
	}
}
