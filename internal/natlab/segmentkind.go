package natlab

// TCPKind is what a TCP segment is for; NotTCP stands for UDP.
type TCPKind uint8

// The kinds.
const (
	NotTCP TCPKind = iota
	TCPSyn
	TCPSynAck
	TCPAck // nothing but an acknowledgment
	TCPData
	TCPFin
	TCPReset
)

// String is the word in a diagram.
func (k TCPKind) String() string {
	return [...]string{"UDP", "SYN", "SYN/ACK", "ACK", "data", "FIN", "RST"}[k%7]
}

// Label says whether a burst travels as UDP, which is the zero Label, or as
// what TCP segment.
type Label struct {
	TCP TCPKind
	// Fake marks the segments of fake TCP, which the kernels at both ends leave
	// alone (DESIGN.md: told apart by options and windows). NATs and links
	// don't look at it.
	Fake bool
}

// header is what a parcel has of TCP's. Copies of a parcel share it.
type header struct {
	Label
	seq, ack uint64 // as RFC 9293's, but they don't wrap
	got      uint64 // the segment that made the receiver send this: a selective acknowledgment (RFC 2018)
	window   int    // bytes from ack on that the sender of this takes
	push     bool   // PSH: what was written at one instant ends here
}

// label of what p is.
func (p *parcel) label() Label {
	if p.tcp == nil {
		return Label{}
	}
	return p.tcp.Label
}

// answer is what a host or NAT without a socket says to a segment: RFC 9293
// section 3.10.7.1.
func (p *parcel) answer(by string) *parcel {
	h := &header{Label: Label{TCP: TCPReset}, seq: p.tcp.ack}
	if p.tcp.TCP == TCPSyn {
		h.seq, h.ack = 0, p.tcp.seq+1
	}
	return &parcel{from: p.to, to: p.from, ttl: DefaultTTL, last: by, tcp: h}
}
