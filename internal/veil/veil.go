// Package veil hides what a control connection's datagrams are: who has no join
// link sees bytes that look random, of slightly varying length. It protects
// nothing else; inside is QUIC, which protects itself.
package veil

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"net"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// Sizes in bytes: of what stands before and behind a datagram, and of the
// largest result, which is what IPv6's least MTU carries (RFC 8200 section 5).
const (
	nonceSize = 12
	tagSize   = 16
	leastRoom = nonceSize + 1 + tagSize // the 1 is the length of the padding
	mostSize  = 1280 - 40 - 8
	mostPad   = 200
)

// Veil covers and uncovers datagrams, of one end.
type Veil struct{ to, from cipher.AEAD }

// New makes the veil of an agent or of its coordinator. The key comes from the
// pin, which both know and which no handshake shows in the clear.
func New(pin [32]byte, coordinator bool) (*Veil, error) {
	var ends [2]cipher.AEAD
	for i, end := range []string{"agent", "coordinator"} {
		key, err := hkdf.Key(sha256.New, pin[:], nil, "rendezvous veil v1 from "+end, 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		if ends[i], err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	if coordinator {
		return &Veil{to: ends[1], from: ends[0]}, nil
	}
	return &Veil{to: ends[0], from: ends[1]}, nil
}

// Cover hides one datagram: a random nonce, and sealed under it the length of
// the padding, the padding and the datagram.
func (v *Veil) Cover(d []byte) ([]byte, error) {
	var luck [nonceSize + 1]byte
	if _, err := rand.Read(luck[:]); err != nil {
		return nil, err
	}
	pad := 0
	if room := min(mostSize-leastRoom-len(d), mostPad); room > 0 {
		pad = int(luck[nonceSize]) % (room + 1)
	}
	out := make([]byte, nonceSize, leastRoom+pad+len(d))
	copy(out, luck[:])
	plain := append(out, byte(pad))
	plain = append(append(plain, make([]byte, pad)...), d...)
	return v.to.Seal(out, out[:nonceSize], plain[nonceSize:], nil), nil
}

// Uncover gives the datagram; false: b is not one that the other end covered.
func (v *Veil) Uncover(b []byte) ([]byte, bool) {
	if len(b) < leastRoom {
		return nil, false
	}
	plain, err := v.from.Open(nil, b[:nonceSize], b[nonceSize:], nil)
	if err != nil || int(plain[0]) >= len(plain) {
		return nil, false
	}
	return plain[1+int(plain[0]):], true
}

// Bounds of who is known to speak under the veil.
const (
	mostKnown = 65536
	knownFor  = 3 * time.Minute // several times a control connection's idle timeout
)

// Conn is a Conn whose writes are covered: all of them, or those to addresses
// that came covered themselves.
type Conn struct {
	dgram.Conn
	veil *Veil
	all  bool

	mu    sync.Mutex
	known map[netip.AddrPort]time.Time // when it was heard last
}

// Over covers what is written to a Conn; all says whether to whoever.
func Over(conn dgram.Conn, v *Veil, all bool) *Conn {
	return &Conn{Conn: conn, veil: v, all: all, known: map[netip.AddrPort]time.Time{}}
}

// Receive uncovers a datagram, and notes that its source speaks so.
func (c *Conn) Receive(from netip.AddrPort, b []byte, now time.Time) ([]byte, bool) {
	d, ok := c.veil.Uncover(b)
	if ok && !c.all {
		c.note(from, now)
	}
	return d, ok
}

func (c *Conn) note(from netip.AddrPort, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.known[from]; !ok && len(c.known) >= mostKnown {
		for a, heard := range c.known {
			if now.Sub(heard) >= knownFor {
				delete(c.known, a)
			}
		}
		if len(c.known) >= mostKnown {
			return // it is answered in the clear, which it does not take
		}
	}
	c.known[from] = now
}

// Knows says whether an address has spoken under the veil lately.
func (c *Conn) Knows(from netip.AddrPort, now time.Time) bool {
	if c.all {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	heard, ok := c.known[from]
	if ok && now.Sub(heard) >= knownFor {
		delete(c.known, from)
		return false
	}
	return ok
}

// Write is that of dgram.Conn.
func (c *Conn) Write(b dgram.Burst) error {
	if !c.Knows(b.Addr, time.Now()) {
		return c.Conn.Write(b)
	}
	for d := range b.All() {
		covered, err := c.veil.Cover(d)
		if err == nil {
			err = c.Conn.Write(dgram.One(b.Addr, covered))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// packets is a net.PacketConn under a veil.
type packets struct {
	net.PacketConn
	veil *Veil
}

// Packets covers what is written to an agent's way to its coordinator. What
// comes in the clear is read as it is.
func Packets(conn net.PacketConn, v *Veil) net.PacketConn { return &packets{conn, v} }

// ReadFrom is that of net.PacketConn.
func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := p.PacketConn.ReadFrom(b)
	if err != nil {
		return n, from, err
	}
	if d, ok := p.veil.Uncover(b[:n]); ok {
		n = copy(b, d)
	}
	return n, from, nil
}

// WriteTo is that of net.PacketConn.
func (p *packets) WriteTo(b []byte, to net.Addr) (int, error) {
	covered, err := p.veil.Cover(b)
	if err != nil {
		return 0, err
	}
	if _, err := p.PacketConn.WriteTo(covered, to); err != nil {
		return 0, err
	}
	return len(b), nil
}
