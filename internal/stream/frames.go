package stream

import (
	"encoding/binary"
	"net"
)

// muxHeader is the size of yamux's header: version, type, flags, stream and
// length.
const muxHeader = 12

// WholeFrames is c for yamux in TLS to write on. Only yamux's sender writes.
func WholeFrames(c net.Conn) net.Conn { return &muxConn{Conn: c} }

// muxConn is the connection below yamux, which writes the header of a frame
// and its body one after the other. Here both leave in one TLS record, and so
// in one segment where they fit.
type muxConn struct {
	net.Conn
	frame []byte // a header that waits for its body
}

// Write is that of net.Conn; of a header with a body to come it is done when
// the body is.
func (c *muxConn) Write(b []byte) (int, error) {
	if len(c.frame) == 0 && bodyFollows(b) {
		c.frame = append(c.frame, b...)
		return len(b), nil
	}
	if len(c.frame) == 0 {
		return c.Conn.Write(b)
	}
	c.frame = append(c.frame, b...)
	_, err := c.Conn.Write(c.frame)
	c.frame = c.frame[:0]
	if err != nil {
		return 0, err // the session ends with it
	}
	return len(b), nil
}

// bodyFollows says whether b is the header of a data frame (type 0) with a
// length.
func bodyFollows(b []byte) bool {
	return len(b) == muxHeader && b[1] == 0 && binary.BigEndian.Uint32(b[8:]) > 0
}
