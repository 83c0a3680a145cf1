package natlab

import (
	"net/netip"
	"time"

	"rendezvous/proto"
)

// Reason is why a datagram was dropped.
type Reason string

// The reasons.
const (
	DropLoss       Reason = "lost"                       // the link's loss
	DropTTL        Reason = "ttl expired"                // died on the way
	DropOption     Reason = "timestamp option overflow"  // likewise, though a router was its end
	DropMTU        Reason = "larger than the MTU"        // of a link, with "don't fragment" set
	DropQueue      Reason = "queue full"                 // the link's bandwidth
	DropLinkDown   Reason = "link down"                  // the cable is pulled
	DropNoRoute    Reason = "no route"                   // nobody has that address
	DropNoSocket   Reason = "no socket"                  // the host has no socket there
	DropSocketFull Reason = "socket full"                // its reader is too slow
	DropFiltered   Reason = "filtered"                   // the NAT lets no such sender in
	DropRejected   Reason = "rejected"                   // the same, with an ICMP answer
	DropAccepted   Reason = "accepted by the NAT itself" // and holds the port from now on
	DropHairpin    Reason = "no hairpin"                 // to the own external address
	DropNoPort     Reason = "no port free"               // the NAT's range is exhausted
	DropSessions   Reason = "too many sessions"          // of one host inside
	DropMappings   Reason = "too many mappings"          // of one host inside
	DropBlocked    Reason = "blocked"                    // a test's Drop
	DropUDP        Reason = "UDP blocked"                // option NoUDP
	DropTCPPort    Reason = "TCP port blocked"           // option TCPPorts
	DropSYN        Reason = "inbound SYN blocked"        // option NoInboundSYN
	DropInvalid    Reason = "invalid"                    // TCP that fits no connection: Linux's INVALID
	DropReset      Reason = "answered by RST"            // TCP to where nobody listens
	DropForeign    Reason = "not its own"                // a socket of fake TCP met a kernel's, or the reverse
)

// Event is what happened to a datagram.
type Event uint8

// The events.
const (
	Sent Event = iota
	Translated
	Delivered
	Dropped
)

// Record is one event in the life of a burst of datagrams.
type Record struct {
	At       time.Time
	ID       uint64 // the same for all events of one burst
	Event    Event
	Place    string         // the host, NAT or network where it happened
	Last     string         // the host or NAT that it had left last
	From, To netip.AddrPort // as they arrived there
	Translation
	Label
	Kind   proto.Kind // of the first datagram
	Count  int        // datagrams
	Bytes  int        // of UDP payload
	TTL    int
	Reason Reason // of a drop
}

// Translation is what a NAT made of a burst's addresses.
type Translation struct{ NewFrom, NewTo netip.AddrPort }

// recorder keeps the last records and counts all.
type recorder struct {
	ring    []Record
	size    int
	next    int
	start   time.Time
	lanes   []string
	sentTo  map[netip.AddrPort]int
	first   map[firstKey]time.Time
	counts  map[countKey]int
	drops   map[Reason]int
	tcp     map[segmentKey]int
	watches []func(Record)
}

type firstKey struct {
	event Event
	place string
	kind  proto.Kind
}

type segmentKey struct {
	countKey
	kind TCPKind
}

type countKey struct {
	event Event
	place string
}

func newRecorder(size int) *recorder {
	return &recorder{
		size:   size,
		start:  time.Now(),
		sentTo: map[netip.AddrPort]int{},
		first:  map[firstKey]time.Time{},
		counts: map[countKey]int{},
		drops:  map[Reason]int{},
		tcp:    map[segmentKey]int{},
	}
}

// lane makes a column of the diagram.
func (r *recorder) lane(name string) { r.lanes = append(r.lanes, name) }

func (r *recorder) add(rec Record) {
	for _, w := range r.watches {
		w(rec)
	}
	if r.size < 0 {
		return // see idle
	}
	if len(r.ring) < r.size {
		r.ring = append(r.ring, rec)
	} else {
		r.ring[r.next] = rec
		r.next = (r.next + 1) % r.size
	}
	if k := (firstKey{rec.Event, rec.Place, rec.Kind}); r.first[k].IsZero() {
		r.first[k] = rec.At
	}
	r.counts[countKey{rec.Event, rec.Place}] += rec.Count
	if rec.TCP != NotTCP {
		r.tcp[segmentKey{countKey{rec.Event, rec.Place}, rec.TCP}] += rec.Count
	}
	switch rec.Event {
	case Sent:
		r.sentTo[rec.To] += rec.Count
	case Dropped:
		r.drops[rec.Reason] += rec.Count
	}
}

// idle says that nobody wants to know of events.
func (r *recorder) idle() bool { return r.size < 0 && len(r.watches) == 0 }

func (r *recorder) all() []Record {
	return append(append([]Record(nil), r.ring[r.next:]...), r.ring[:r.next]...)
}

func (l *Lab) note(p *parcel, e Event, place string) Record {
	return Record{
		At: time.Now(), ID: p.id, Event: e, Place: place, Last: p.last, From: p.from, To: p.to,
		Kind: p.kind(), Count: p.count(), Bytes: len(p.buf), TTL: p.ttl, Label: p.label(),
	}
}

// number makes p known as a burst of its own that leaves place.
func (l *Lab) number(p *parcel, place string) {
	l.lastID++
	p.id = l.lastID
	l.sent(p, place)
}

func (l *Lab) sent(p *parcel, place string) {
	if !l.recorder.idle() {
		l.recorder.add(l.note(p, Sent, place))
	}
}

func (l *Lab) delivered(p *parcel, place string) {
	if !l.recorder.idle() {
		l.recorder.add(l.note(p, Delivered, place))
	}
}

func (l *Lab) dropped(p *parcel, place string, why Reason) {
	if l.recorder.idle() {
		return
	}
	rec := l.note(p, Dropped, place)
	rec.Reason = why
	l.recorder.add(rec)
}

func (l *Lab) translated(p *parcel, place string, from, to netip.AddrPort) {
	if l.recorder.idle() {
		p.last = place
		return
	}
	rec := l.note(p, Translated, place)
	rec.NewFrom, rec.NewTo = from, to
	l.recorder.add(rec)
	p.last = place
}

// Watch calls f at each event from now on. It is called with the lab locked
// and must call nothing of it.
func (l *Lab) Watch(f func(Record)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recorder.watches = append(l.recorder.watches, f)
}

// Records are the last events, oldest first.
func (l *Lab) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recorder.all()
}

// SentTo is how many datagrams any host ever sent to addr, any port.
func (l *Lab) SentTo(addr netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for to, count := range l.recorder.sentTo {
		if to.Addr() == addr {
			n += count
		}
	}
	return n
}

// SentToPort is how many datagrams any host ever sent to that address and
// port.
func (l *Lab) SentToPort(to netip.AddrPort) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recorder.sentTo[to]
}

// Targets are the addresses and ports that any host ever sent to, and how
// often.
func (l *Lab) Targets() map[netip.AddrPort]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[netip.AddrPort]int, len(l.recorder.sentTo))
	for to, n := range l.recorder.sentTo {
		out[to] = n
	}
	return out
}

// Dropped is how many datagrams were dropped for that reason.
func (l *Lab) Dropped(why Reason) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recorder.drops[why]
}

// Count is how many datagrams met that event at the host or NAT of that name.
func (l *Lab) Count(e Event, place string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recorder.counts[countKey{e, place}]
}

// Segments is how many TCP segments of that kind, fake or a kernel's, met that
// event at the host or NAT of that name.
func (l *Lab) Segments(e Event, place string, k TCPKind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recorder.tcp[segmentKey{countKey{e, place}, k}]
}

// First is when that event first happened to a datagram of that kind at the
// host or NAT of that name; false when it never did.
func (l *Lab) First(e Event, place string, k proto.Kind) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.recorder.first[firstKey{e, place, k}]
	return at, !at.IsZero()
}
