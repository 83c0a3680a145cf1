package forward

import (
	"net/netip"

	"rendezvous/internal/path"
)

// Near tells a raw flow's socket on this side and its client or service, for who
// carries its datagrams past us over paths of a kind; ok is false where there is no
// such flow, or its rule forbids that.
func (t *Flows) Near(number uint16, instance uint64, k path.Kind) (local, remote netip.AddrPort, ok bool) {
	if !t.IsRaw(number, instance) {
		return local, remote, false
	}
	f := t.find(number)
	if f == nil {
		return local, remote, false
	}
	r := f.route.Load()
	if rule := f.rule(); r == nil || rule != 0 && !rule.Has(k) {
		return local, remote, false
	}
	return r.conn.LocalAddr(), r.to, true
}

// Passed notes that datagrams of a flow went past us: sent by the client or
// service, received from the peer.
func (t *Flows) Passed(number uint16, instance uint64, sent, received bool) {
	f := t.find(number)
	if f == nil || f.instance != instance || !sent && !received {
		return
	}
	t.touch(f)
	if f.out != nil && received || f.in != nil && sent {
		f.answered.Store(true)
	}
}
