package faketcp

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"
)

// cookieSlot is how long one initial sequence number is given to an address; it
// is accepted for one slot more.
const cookieSlot = 64 * time.Second

// What a SYN looked like rides in the two lowest bits of the number that
// answers it, since nothing else of a stranger is remembered.
const (
	sawOptions = 1 << iota // the options were as we send them
	sawWindow              // the window was of the range that we use
	sawMask    = sawOptions | sawWindow
)

// cookies makes initial sequence numbers: a MAC over the remote address, our
// port, the time in slots, and what its SYN looked like, under a key of this
// run, as SYN cookies do (RFC 4987 section 3.6). To everyone else they are
// random.
//
// The peer's own initial number is not part of it: the first segment that we
// see may be any one of its first, so it can't be worked out from there. And
// the number that an Open of ours begins with is the same cookie. So where a
// peer's SYN was answered before we were told to open to it, no box on the way
// sees us begin twice with different numbers.
type cookies struct {
	key  [32]byte
	port uint16
}

func newCookies(port uint16) cookies {
	c := cookies{port: port}
	_, _ = rand.Read(c.key[:]) // never fails (crypto/rand)
	return c
}

func (c *cookies) at(remote netip.AddrPort, slot int64, saw uint8) uint32 {
	var b [32 + 16 + 2 + 2 + 8 + 1]byte // of fixed length, so hashing it behind the key is a MAC
	copy(b[:32], c.key[:])
	ip := remote.Addr().As16()
	copy(b[32:48], ip[:])
	binary.BigEndian.PutUint16(b[48:], remote.Port())
	binary.BigEndian.PutUint16(b[50:], c.port)
	binary.BigEndian.PutUint64(b[52:], uint64(slot))
	b[60] = saw
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint32(sum[:])&^sawMask | uint32(saw)
}

// mint is the number to begin with.
func (c *cookies) mint(now time.Duration, remote netip.AddrPort, saw uint8) uint32 {
	return c.at(remote, int64(now/cookieSlot), saw)
}

// check says whether n was minted lately for remote.
func (c *cookies) check(now time.Duration, remote netip.AddrPort, n uint32) bool {
	slot, saw := int64(now/cookieSlot), uint8(n)&sawMask
	return n == c.at(remote, slot, saw) || n == c.at(remote, slot-1, saw)
}
