package natlab

import (
	"net/netip"
	"time"
)

// choose finds the external address of a new mapping.
func (t *table) choose(now time.Time, inside, remote netip.AddrPort) (netip.AddrPort, bool) {
	if len(t.addrs) == 0 {
		return inside, true
	}
	addr := t.pooled(inside)
	p := t.behaviour.Ports
	if p.way == preserved {
		if ext := netip.AddrPortFrom(addr, inside.Port()); t.available(now, ext, remote) {
			return ext, true
		}
	}
	span := int(p.high) - int(p.low) + 1
	at := t.rand.IntN(span)
	if p.way == sequential {
		t.next += p.step * t.taken(now)
		at = t.next
	}
	for range span {
		at = (at%span + span) % span
		ext := netip.AddrPortFrom(addr, p.low+uint16(at))
		if t.available(now, ext, remote) {
			t.next = at + p.step
			return ext, true
		}
		at++ // the next free one
	}
	return netip.AddrPort{}, false
}

// taken is how many ports others behind the NAT have taken since it was last
// asked. Their mappings are not kept: it is the ports in between that count.
func (t *table) taken(now time.Time) (n int) {
	if t.behaviour.Traffic <= 0 {
		return 0
	}
	since := now.Sub(t.others)
	if t.others.IsZero() {
		since = 0
	}
	t.others = now
	// The gaps of a Poisson process are exponential.
	for at := t.rand.ExpFloat64(); at < t.behaviour.Traffic*min(since, time.Minute).Seconds(); at += t.rand.ExpFloat64() {
		n++
	}
	return n
}

// pooled is the external address for a new mapping.
func (t *table) pooled(inside netip.AddrPort) netip.Addr {
	if len(t.addrs) == 1 {
		return t.addrs[0]
	}
	if t.behaviour.Pooling {
		return t.addrs[t.rand.IntN(len(t.addrs))]
	}
	raw := inside.Addr().As16()
	return t.addrs[int(raw[15])%len(t.addrs)]
}

// available says whether a new mapping may have ext.
func (t *table) available(now time.Time, ext, remote netip.AddrPort) bool {
	if !t.free(now, ext, remote) {
		return false
	}
	for _, m := range t.byExt[placeOf(ext)] {
		if m.explicit || !t.behaviour.Overload && m.alive(now) {
			return false
		}
	}
	return true
}
