package rendezvous

import "net"

// greeting is what a TCP connection begins with.
type greeting uint8

const (
	greetsNothing greeting = iota // nothing that we know
	greetsTLS
	greetsSTUN
	greetsHTTP
)

// classify tells by the first byte. A TLS record of a handshake has type 22
// (RFC 8446 section 5.1). A STUN request begins with two zero bits (RFC 8489
// section 5), and with a whole zero byte when it is a Binding request; so the
// two can share a port as RFC 7983 has it. A method of HTTP is in capitals.
func classify(first byte) greeting {
	switch {
	case first == 0x16:
		return greetsTLS
	case first == 0x00:
		return greetsSTUN
	case first >= 'A' && first <= 'Z':
		return greetsHTTP
	}
	return greetsNothing
}

// peeked is a connection whose first byte was looked at.
type peeked struct {
	net.Conn
	first []byte
}

// peek reads the first byte and puts it back.
func (p *peeked) peek() (byte, error) {
	one := make([]byte, 1)
	if _, err := p.Conn.Read(one); err != nil {
		return 0, err
	}
	p.first = one
	return one[0], nil
}

// Read is that of net.Conn.
func (p *peeked) Read(b []byte) (int, error) {
	if len(p.first) == 0 || len(b) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.first)
	p.first = p.first[n:]
	return n, nil
}
