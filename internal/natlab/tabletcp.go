package natlab

import (
	"net/netip"
	"time"
)

// leaves is a parcel from inside: it gives the external source address. What
// fits no connection is invalid, by the states of Linux's
// nf_conntrack_proto_tcp.c as far as they show to hole punching.
func (t *table) leaves(now time.Time, k TCPKind, inside, remote netip.AddrPort) verdict {
	if k == NotTCP || k == TCPSyn {
		return t.outbound(now, inside, remote)
	}
	f := t.byInside[pair{inside, remote}.key()]
	switch known := f.alive(now); {
	case !known && (k == TCPReset || k == TCPSynAck):
		return verdict{why: DropInvalid}
	case known && !f.replied && k != TCPReset: // in SYN_SENT
		return verdict{why: DropInvalid}
	}
	v := t.outbound(now, inside, remote)
	if v.why != "" {
		return v
	}
	f = t.byInside[pair{inside, remote}.key()]
	if k == TCPReset {
		t.reset(now, f)
	} else {
		f.replied = true // a connection picked up in its midst (nf_conntrack_tcp_loose)
	}
	return v
}

// enters is a parcel from outside: it gives the inside destination.
func (t *table) enters(now time.Time, k TCPKind, remote, ext netip.AddrPort) verdict {
	if k == NotTCP {
		return t.inbound(now, remote, ext)
	}
	f := t.byOutside[pair{ext, remote}.key()]
	switch known := f.alive(now); {
	case known && k == TCPReset:
		v := verdict{addr: f.inside}
		t.reset(now, f)
		return v
	case known:
		return t.inbound(now, remote, ext)
	case k == TCPSyn:
		return t.stranger(now, remote, ext)
	case k == TCPSynAck && t.behaviour.Unsolicited != DropUnsolicited:
		return verdict{why: DropReset}
	}
	return verdict{why: DropFiltered}
}

// stranger is a SYN from outside that belongs to no flow.
func (t *table) stranger(now time.Time, remote, ext netip.AddrPort) verdict {
	for _, m := range t.byExt[placeOf(ext)] {
		if m.alive(now) && t.admits(now, m, remote) {
			t.add(t.answered(now, m, remote))
			return verdict{addr: m.key.near}
		}
	}
	if t.behaviour.Unsolicited != DropUnsolicited {
		return verdict{why: DropReset}
	}
	return verdict{why: DropFiltered}
}

// reset is an RST that passes a flow. One that has seen no answer ends, as in
// tcp_packet of nf_conntrack_proto_tcp.c; others by ResetForgets, and with the
// last of them their mapping, so that the next one gets another port.
func (t *table) reset(now time.Time, f *flow) {
	if f.replied && !t.behaviour.ResetForgets {
		return
	}
	t.remove(f)
	if !t.behaviour.ResetForgets || f.mapping == nil || f.mapping.explicit {
		return
	}
	for _, other := range t.byOutside {
		if other.mapping == f.mapping && other.alive(now) {
			return
		}
	}
	f.mapping.expires = now
}
