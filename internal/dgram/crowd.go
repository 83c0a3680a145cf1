package dgram

import "net/netip"

// Crowd is a Network for sockets in thousands, each of which carries little.
// Where the platform has a way its UDP sockets are Attended: a few goroutines
// read them all. Elsewhere they are those of the Network it is made of.
type Crowd struct {
	Network
	gathering
}

// Attended is a Conn that is read by few readers together with others. Its
// Write never waits for room: what finds the socket's buffer full is dropped and
// counted, for others wait behind whoever writes.
type Attended interface {
	Conn
	// Attend gives every burst that comes to handle, which must not block, until
	// the conn is closed. It is called once, in place of Read. One reader has
	// the conn, so that order stays; a burst is valid until handle returns.
	Attend(handle func(Burst)) error
}

// NewCrowd makes a Crowd of n. It opens nothing before its first socket.
func NewCrowd(n Network) *Crowd { return &Crowd{Network: n} }

// ListenUDP is Network's.
func (c *Crowd) ListenUDP(addr netip.AddrPort) (Conn, error) {
	if s, ok := c.Network.(system); ok && !s.opts.Portable {
		return c.listen(s, addr)
	}
	return c.Network.ListenUDP(addr)
}

// Close ends the readers; sockets that are still open are not read any more.
func (c *Crowd) Close() { c.end() }
