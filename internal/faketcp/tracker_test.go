package faketcp

import (
	"net/netip"
	"slices"
)

// The states of Linux' connection tracking (nf_conntrack_proto_tcp.c).
const (
	sNO = iota
	sSS
	sSR
	sES
	sFW
	sCW
	sLA
	sTW
	sCL
	sS2
	sIV
	sIG
)

// tracker[direction][kind][state]; kinds: SYN, SYN/ACK, FIN, ACK, RST.
var tracker = [2][5][10]int{
	{
		{sSS, sSS, sIG, sIG, sIG, sIG, sIG, sSS, sSS, sS2},
		{sIV, sIV, sSR, sIV, sIV, sIV, sIV, sIV, sIV, sSR},
		{sIV, sIV, sFW, sFW, sLA, sLA, sLA, sTW, sCL, sIV},
		{sES, sIV, sES, sES, sCW, sCW, sTW, sTW, sCL, sIV},
		{sIV, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL},
	},
	{
		{sIV, sS2, sIV, sIV, sIV, sIV, sIV, sSS, sIV, sS2},
		{sIV, sSR, sIG, sIG, sIG, sIG, sIG, sIG, sIG, sSR},
		{sIV, sIV, sFW, sFW, sLA, sLA, sLA, sTW, sCL, sIV},
		{sIV, sIG, sSR, sES, sCW, sCW, sTW, sTW, sCL, sIG},
		{sIV, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL},
	},
}

// seen by a tracker of one side of a flow.
type side struct {
	end, maxend uint32
	maxwin      uint32
	scale       uint8
	scaled      bool
}

type entry struct {
	state  int
	first  bool // the inside was first
	simul  bool
	sides  [2]side // 0: who was first
	inside netip.AddrPort
	remote netip.AddrPort
}

// nat is a router that masquerades and tracks connections as Linux does,
// dropping what is INVALID. inside is the direction that leaves it.
type nat struct {
	outwards course
	outside  netip.Addr
	shift    uint16 // of the port
	answers  bool   // unsolicited SYNs get RST
	invalid  int
	late     int  // SYNs and SYN/ACKs that crossed the other side's, or a RST: INVALID as well, and no loss
	liberal  bool // no look at windows
	entries  []*entry
	log      func(string, *parcel, int)
}

func (n *nat) find(inside, remote netip.AddrPort) *entry {
	for _, e := range n.entries {
		if e.inside == inside && e.remote == remote {
			return e
		}
	}
	return nil
}

func (n *nat) pass(w *wire, at int, d course, p *parcel) *parcel {
	if d == n.outwards {
		return n.out(p)
	}
	inside, known := n.translate(p.remote, p.local)
	if !known {
		if n.answers && p.has(flagSYN) {
			r := &parcel{segment: segment{local: p.remote, remote: p.local, ack: p.seq + 1, flags: flagRST | flagACK, ttl: 64}}
			w.walk(at-int(d), -d, r)
		}
		return nil
	}
	e := n.find(inside, p.local)
	if !n.track(e, p, false) {
		return nil
	}
	q := *p
	q.remote = inside
	return &q
}

// translate finds the inside address of an outside one, for a known remote.
func (n *nat) translate(outside, remote netip.AddrPort) (netip.AddrPort, bool) {
	for _, e := range n.entries {
		if e.remote == remote && e.state != sCL && outside == netip.AddrPortFrom(n.outside, e.inside.Port()+n.shift) {
			return e.inside, true
		}
	}
	return netip.AddrPort{}, false
}

func (n *nat) out(p *parcel) *parcel {
	e := n.find(p.local, p.remote)
	if e != nil && e.state == sCL {
		n.entries = slices.DeleteFunc(n.entries, func(x *entry) bool { return x == e })
		e = nil
	}
	if e == nil {
		e = &entry{inside: p.local, remote: p.remote, first: true}
		if !n.track(e, p, true) {
			return nil
		}
		n.entries = append(n.entries, e)
	} else if !n.track(e, p, true) {
		return nil
	}
	q := *p
	q.local = netip.AddrPortFrom(n.outside, p.local.Port()+n.shift)
	return &q
}

func kindOf(p *parcel) int {
	switch {
	case p.has(flagRST):
		return 4
	case p.has(flagSYN) && p.has(flagACK):
		return 1
	case p.has(flagSYN):
		return 0
	case p.has(flagFIN):
		return 2
	}
	return 3
}

func (n *nat) track(e *entry, p *parcel, fromInside bool) bool {
	dir := 1
	if fromInside == e.first {
		dir = 0
	}
	kind := kindOf(p)
	next := tracker[dir][kind][e.state]
	if next == sIG {
		return true
	}
	if next == sIV {
		return n.refuse("state", p, e)
	}
	if kind == 3 && dir == 1 && e.state == sSR && e.simul {
		next = sES
	}
	if next == sS2 {
		e.simul = true
	}
	if !n.liberal && !inWindow(e, dir, p) {
		return n.refuse("window", p, e)
	}
	e.state = next
	return true
}

func (n *nat) refuse(why string, p *parcel, e *entry) bool {
	if p.has(flagSYN) {
		n.late++
		return false
	}
	n.invalid++
	if n.log != nil {
		n.log(why, p, e.state)
	}
	return false
}

// inWindow is tcp_in_window, without SACK and sequence adjustment.
func inWindow(e *entry, dir int, p *parcel) bool {
	s, r := &e.sides[dir], &e.sides[1-dir]
	seq, ack, end := p.seq, p.ack, p.seq+p.span()
	win := uint32(p.window)
	initSender := func() {
		*s = side{end: end, maxend: end, maxwin: max(win, 1)}
		for o := p.options; len(o) > 0; {
			if o[0] == 1 {
				o = o[1:]
				continue
			}
			if o[0] == 3 {
				s.scale, s.scaled = min(o[2], 14), true
			}
			o = o[min(int(o[1]), len(o)):]
		}
		if p.has(flagACK) && !(s.scaled && r.scaled) {
			s.scale, r.scale = 0, 0
		}
	}
	switch {
	case s.maxwin == 0 && p.has(flagSYN):
		initSender()
		if !p.has(flagACK) {
			return true
		}
	case s.maxwin == 0:
		s.end, s.maxwin = end, max(win<<s.scale, 1)
		s.maxend = end + s.maxwin
		if r.maxwin == 0 {
			r.end, r.maxend = ack, ack
		} else if ack == r.end+1 {
			r.end++
		}
	case p.has(flagSYN) && after(end, s.end):
		initSender()
		if dir == 1 && !p.has(flagACK) {
			return true
		}
	}
	if !p.has(flagACK) || p.has(flagRST) && ack == 0 {
		ack = r.end
	}
	if p.has(flagRST) && seq == 0 {
		seq, end = s.end, s.end
	}
	inRecv := r.maxwin == 0 || after(end, s.end-r.maxwin-1)
	if !after(s.maxend+1, seq) || !inRecv || !after(r.end+1, ack) || !after(ack, r.end-max(s.maxwin, 66000)-1) {
		return false
	}
	if !p.has(flagSYN) {
		win <<= s.scale
	}
	s.maxwin = max(s.maxwin, win)
	if after(end, s.end) {
		s.end = end
	}
	if r.maxwin != 0 && after(end, s.maxend) {
		r.maxwin += end - s.maxend
	}
	if after(ack+win, r.maxend-1) {
		r.maxend = ack + win
	}
	return true
}
