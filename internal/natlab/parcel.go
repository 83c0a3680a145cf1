package natlab

import (
	"net/netip"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// DefaultTTL is what a host's datagrams begin with.
const DefaultTTL = 64

// parcel is a burst on its way, as one IP packet per datagram.
type parcel struct {
	id       uint64
	from, to netip.AddrPort
	buf      []byte // never written to: copies of the parcel share it
	size     int
	ttl      int
	past     int     // routers that it may come to until one drops it; 0: any number
	last     string  // the host or NAT that it left last, for the diagram
	tcp      *header // nil: UDP
	on       *link   // that it is on
	way      direction
	mss      int // what the links so far leave to a segment, in bytes; of SYN and SYN/ACK
}

func (p *parcel) burst() dgram.Burst { return dgram.Burst{Addr: p.from, Buf: p.buf, Size: p.size} }

func (p *parcel) count() int { return p.burst().Len() }

// largest is the size of the largest datagram, in bytes of UDP payload.
func (p *parcel) largest() int { return min(p.size, len(p.buf)) }

// kind is that of the first datagram; a stream has none.
func (p *parcel) kind() proto.Kind {
	if p.tcp != nil && !p.tcp.Fake {
		return proto.KindUnknown
	}
	return proto.KindOf(p.buf[:p.largest()])
}

// headers is what IP and UDP or TCP add to a datagram, in bytes.
func (p *parcel) headers() int {
	n := 8
	if p.tcp != nil {
		n = 20
	}
	if p.to.Addr().Is4() {
		return 20 + n
	}
	return 40 + n
}

// with is p with other datagrams: of its own they are all the same size but
// the last.
func (p *parcel) with(buf []byte) *parcel {
	q := *p
	q.buf = buf
	q.size = min(p.size, len(buf))
	return &q
}

// chunks calls f for pieces as large as one visit to the kernel may be.
func (p *parcel) chunks(f func(*parcel)) {
	rest := p.buf
	for p.size > 0 {
		most := min(dgram.MaxSegments, dgram.MaxBytes/p.size) * p.size
		if len(rest) <= most {
			break
		}
		f(p.with(rest[:most:most]))
		rest = rest[most:]
	}
	if len(rest) < len(p.buf) {
		p = p.with(rest)
	}
	f(p)
}

// each calls f for each datagram as a parcel of its own.
func (p *parcel) each(f func(*parcel)) {
	for d := range p.burst().All() {
		f(p.with(d))
	}
}

// split sorts the datagrams by test: the first parcel holds those for which
// it is false, the second the others; nil stands for none.
func (p *parcel) split(test func(datagram []byte) bool) (rest, taken *parcel) {
	var out []byte
	var took [][]byte
	i := 0
	for d := range p.burst().All() {
		switch {
		case test(d):
			if len(took) == 0 { // so far all were kept
				out = append(out, p.buf[:min(i*p.size, len(p.buf))]...)
			}
			took = append(took, d)
		case len(took) > 0:
			out = append(out, d...)
		}
		i++
	}
	switch {
	case len(took) == 0:
		return p, nil
	case len(took) == i:
		return nil, p
	}
	var buf []byte
	for _, d := range took {
		buf = append(buf, d...)
	}
	return p.with(out), p.with(buf)
}

// passes says whether so many routers let it pass, and counts them.
func (p *parcel) passes(routers int) bool {
	switch {
	case p.past == 0:
		return true
	case p.past <= routers:
		return false
	}
	p.past -= routers
	return true
}
