package natlab

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// The delays of links whose option does not say: of a link to the internet,
// and of one to a NAT's network.
const (
	DefaultDelay    = 5 * time.Millisecond
	DefaultLANDelay = 200 * time.Microsecond
)

// conditions of a link, the same in both directions.
type conditions struct {
	delay     time.Duration
	jitter    time.Duration
	loss      float64
	reorder   float64
	behind    time.Duration
	duplicate float64
	bandwidth float64       // bits a second, 0: unlimited
	queue     time.Duration // how long the bandwidth's queue may get
	mtu       int           // bytes of IP packet
	udp       udpConditions
	wall      wall
}

// udpConditions befall UDP alone.
type udpConditions struct {
	loss      float64
	bandwidth float64 // bits a second, 0: unlimited
	queue     time.Duration
}

// wall is a firewall that knows TCP from UDP.
type wall struct {
	noUDP bool
	noSYN bool
	ports []uint16 // remote ports that TCP may use; nil: all
	// until is how long what comes from a remote address is taken for an answer.
	until map[pair]time.Time
}

// wallRemembers is how long a firewall knows a connection that is silent: what
// RFC 5382 (REQ-5) wants of a NAT.
const wallRemembers = 2*time.Hour + 4*time.Minute

// setup is what options write into.
type setup struct {
	conditions
	also       []string
	prefixes   []string
	interfaces []localInterface
}

type localInterface struct{ name, addr string }

// Option says how a host or NAT is attached. Those that concern its link may
// also be given later, to its Set.
type Option func(*setup)

// Delay is the link's one-way delay. Between two hosts, those of all links
// on the way add up.
func Delay(d time.Duration) Option { return func(s *setup) { s.delay = d } }

// Jitter adds up to d to each delay; it doesn't reorder.
func Jitter(d time.Duration) Option { return func(s *setup) { s.jitter = d } }

// Loss drops that share (0 to 1) of the datagrams, in each direction.
func Loss(share float64) Option { return func(s *setup) { s.loss = share } }

// Reorder holds that share of the datagrams back by d, so that later ones
// overtake them.
func Reorder(share float64, d time.Duration) Option {
	return func(s *setup) { s.reorder, s.behind = share, d }
}

// Duplicate delivers that share of the datagrams twice.
func Duplicate(share float64) Option { return func(s *setup) { s.duplicate = share } }

// Bandwidth limits each direction to that many bits a second, with a queue of
// that length in time before what comes is dropped. Bursts then arrive one
// datagram at a time. 0 bits is no limit.
func Bandwidth(bits float64, queue time.Duration) Option {
	return func(s *setup) { s.bandwidth, s.queue = bits, queue }
}

// NoUDP lets no UDP through, in either direction, or lets it through again.
func NoUDP(on bool) Option { return func(s *setup) { s.wall.noUDP = on } }

// TCPPorts lets TCP through only to these ports of the other side, and what
// comes back on such a connection: a SYN too, which is how two sides open at
// once. Nobody outside begins one, from whichever port. UDP is another matter
// (NoUDP). No port at all lifts it.
func TCPPorts(ports ...uint16) Option { return func(s *setup) { s.wall.ports = ports } }

// NoInboundSYN lets no SYN in, not even one that a hole was punched for, so
// that connections are made outwards only.
func NoInboundSYN(on bool) Option { return func(s *setup) { s.wall.noSYN = on } }

// UDPLoss drops that share (0 to 1) of UDP's datagrams, in each direction;
// TCP, fake TCP too, is spared.
func UDPLoss(share float64) Option { return func(s *setup) { s.udp.loss = share } }

// UDPBandwidth limits UDP alone, as Bandwidth does all.
func UDPBandwidth(bits float64, queue time.Duration) Option {
	return func(s *setup) { s.udp.bandwidth, s.udp.queue = bits, queue }
}

// MTU is the largest IP packet in bytes; the default is 1500. A larger one is
// dropped, without an ICMP that anybody hears; only on the sender's own link
// does its Write say so.
func MTU(n int) Option { return func(s *setup) { s.mtu = n } }

// Also gives further addresses: a second IPv4 address, IPv6 ones. Those of a
// NAT are its pool (see Behaviour.Pooling).
func Also(addrs ...string) Option {
	return func(s *setup) { s.also = append(s.also, addrs...) }
}

// Prefix routes an IPv6 prefix to a NAT, which passes it on untranslated, as
// a firewall.
func Prefix(prefix string) Option {
	return func(s *setup) { s.prefixes = append(s.prefixes, prefix) }
}

// Interface gives a host another interface, such as a bridge of containers,
// that leads nowhere.
func Interface(name, addr string) Option {
	return func(s *setup) { s.interfaces = append(s.interfaces, localInterface{name, addr}) }
}

// Drop says which datagrams to drop. Its addresses are those on the wire
// where it is asked. It is called with the lab locked and must call nothing
// of it. It is asked about TCP segments too: those of fake TCP look as their
// datagrams do, and what has no payload is an empty datagram.
type Drop func(from, to netip.AddrPort, datagram []byte) bool

// link joins a host or NAT to its network.
type link struct {
	lab  *Lab
	of   *attachment
	name string
	conditions
	rand  *rand.Rand
	cut   bool
	drop  Drop
	lanes [2]lane
}

// lane is one direction of a link.
type lane struct {
	free    time.Time // when the last bit of the queue will have left
	freeUDP time.Time // the same for the limit of UDP
	// last is when the last datagram in order arrives, by who is at the other
	// end: one to a place far away holds up none to a near one.
	last map[*attachment]time.Time
}

type direction int

const (
	up direction = iota
	down
)

// carry takes p across the link, to or from other where that is known; delay
// is the link's own or the override for this pair of places.
func (l *link) carry(d direction, p *parcel, other *attachment, delay time.Duration) {
	if p = l.admit(d, p); p == nil {
		return
	}
	if l.bandwidth > 0 || p.tcp == nil && l.udp.bandwidth > 0 {
		p.each(func(q *parcel) { l.queueUp(d, q, other, delay) })
		return
	}
	l.fly(d, p, other, time.Now().Add(delay))
}

// admit drops what does not enter the link, and returns the rest.
func (l *link) admit(d direction, p *parcel) *parcel {
	if l.cut {
		l.lab.dropped(p, l.name, DropLinkDown)
		return nil
	}
	if why := l.wall.stops(d, p); why != "" {
		l.lab.dropped(p, l.name, why)
		return nil
	}
	p = l.clamp(p)
	for _, c := range l.checks(p) {
		rest, gone := p.split(c.test)
		if gone != nil {
			l.lab.dropped(gone, l.name, c.why)
		}
		if rest == nil {
			return nil
		}
		p = rest
	}
	return p
}

// check finds the datagrams that a link does not take.
type check struct {
	why  Reason
	test func(datagram []byte) bool
}

// checks are those that may find something of p.
func (l *link) checks(p *parcel) (all []check) {
	if headers := p.headers(); p.largest()+headers > l.mtu {
		all = append(all, check{DropMTU, func(b []byte) bool { return len(b)+headers > l.mtu }})
	}
	if l.drop != nil {
		all = append(all, check{DropBlocked, func(b []byte) bool { return l.drop(p.from, p.to, b) }})
	}
	if loss := l.lossOf(p); loss > 0 {
		all = append(all, check{DropLoss, func([]byte) bool { return l.rand.Float64() < loss }})
	}
	return all
}

func (l *link) queueUp(d direction, p *parcel, other *attachment, delay time.Duration) {
	lane, bits, at, fits := &l.lanes[d], float64(8*(len(p.buf)+p.headers())), time.Now(), true
	if p.tcp == nil {
		at, fits = passes(at, &lane.freeUDP, bits, l.udp.bandwidth, l.udp.queue)
	}
	if fits {
		at, fits = passes(at, &lane.free, bits, l.bandwidth, l.queue)
	}
	if !fits {
		l.lab.dropped(p, l.name, DropQueue)
		return
	}
	l.fly(d, p, other, at.Add(delay))
}

// passes is when that many bits, which come at the given time, have passed a
// limit that is busy until *free; false when its queue is full.
func passes(at time.Time, free *time.Time, bits, limit float64, queue time.Duration) (time.Time, bool) {
	if limit <= 0 {
		return at, true
	}
	begin := later(at, *free)
	if begin.Sub(at) > queue {
		return at, false
	}
	*free = begin.Add(time.Duration(bits / limit * float64(time.Second)))
	return *free, true
}

func (l *link) fly(d direction, p *parcel, other *attachment, at time.Time) {
	if l.jitter > 0 {
		at = at.Add(time.Duration(l.rand.Int64N(int64(l.jitter))))
	}
	if l.duplicate > 0 {
		if _, copies := p.split(func([]byte) bool { return l.rand.Float64() < l.duplicate }); copies != nil {
			l.land(d, copies.with(copies.buf), at)
		}
	}
	if l.reorder > 0 {
		onTime, behind := p.split(func([]byte) bool { return l.rand.Float64() < l.reorder })
		if behind != nil {
			l.land(d, behind, at.Add(l.behind))
		}
		if p = onTime; p == nil {
			return
		}
	}
	lane := &l.lanes[d]
	if last := lane.last[other]; at.Before(last) {
		at = last
	}
	if lane.last == nil {
		lane.last = make(map[*attachment]time.Time)
	}
	lane.last[other] = at
	l.land(d, p, at)
}

func (l *link) land(d direction, p *parcel, at time.Time) {
	p.on, p.way = l, d
	l.lab.agenda.land(at, p)
}

// arrive is p at the link's other end: in the network, or at the station.
func (l *link) arrive(p *parcel) {
	a := l.of
	switch {
	case l.cut:
		l.lab.dropped(p, l.name, DropLinkDown)
	case p.way == up:
		a.segment.deliver(p, a)
	case a.gone:
		l.lab.dropped(p, a.segment.name, DropNoRoute)
	default:
		a.owner.arrive(p)
	}
}

// stops says why p may not pass, if it may not.
func (w *wall) stops(d direction, p *parcel) Reason {
	if p.tcp == nil {
		if w.noUDP {
			return DropUDP
		}
		return ""
	}
	switch {
	case w.ports != nil && !w.knows(d, p):
		return DropTCPPort
	case w.noSYN && d == down && p.tcp.TCP == TCPSyn:
		return DropSYN
	}
	return ""
}

// knows says whether p belongs to a connection that was begun from inside to one
// of the ports that pass.
func (w *wall) knows(d direction, p *parcel) bool {
	now, flow := time.Now(), pair{p.from, p.to}
	if d == down {
		flow = pair{p.to, p.from}
	}
	if !slices.Contains(w.ports, flow.remote.Port()) || d == down && !now.Before(w.until[flow]) {
		return false
	}
	if w.until == nil {
		w.until = make(map[pair]time.Time)
	}
	w.until[flow] = now.Add(wallRemembers)
	return true
}

// clamp lowers the segment size that a SYN announces to what the link carries,
// as routers do.
func (l *link) clamp(p *parcel) *parcel {
	if most := l.mtu - p.headers(); p.mss > most {
		q := *p
		q.mss = most
		return &q
	}
	return p
}

func (l *link) lossOf(p *parcel) float64 {
	if p.tcp == nil && l.udp.loss > 0 {
		return 1 - (1-l.loss)*(1-l.udp.loss)
	}
	return l.loss
}
