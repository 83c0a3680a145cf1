// Package lean is a control connection that costs next to nothing while it is
// idle: bytes in order, both ways, and signs of life, in sealed datagrams. A
// QUIC connection proves both ends first and gives the keys; then it ends, and
// with it the 50 KB and three goroutines that each takes for as long as it lives.
//
// Link is one end, a table without I/O, time or lock of its own: each method
// takes what came and the time, and gives the datagrams to send.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|0 1|   luck    |          ID (12 bytes, the coordinator's) ...
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  counter (8 bytes) ...        |  sealed (ChaCha20-Poly1305) ...
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// Sealed are a byte of flags, the first offset not received yet (8 bytes), the
// sender's round trip in microseconds (4 bytes), and what the flags say.
package lean

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// Sizes in bytes.
const (
	IDSize    = 12
	KeySize   = chacha20poly1305.KeySize
	TokenSize = 16
	// ResetSize is shorter than any datagram, so that no reset answers another.
	ResetSize = 1 + IDSize + TokenSize

	idAt      = 1
	counterAt = idAt + IDSize
	headSize  = counterAt + 8
	fixedSize = 1 + 8 + 4
	tagSize   = chacha20poly1305.Overhead
	leastSize = headSize + fixedSize + tagSize
	pieceSize = 1100 // of the stream; with all around it and a veil below 1232
)

// ID names a connection. The coordinator chooses it.
type ID [IDSize]byte

// Token proves to an agent that its coordinator does not know the connection.
type Token [TokenSize]byte

// What stands in a sealed datagram beside what each one has.
const (
	flagAsk   = 1 << iota // wants an answer at once
	flagPiece             // offset (8 bytes) and bytes of the stream
	flagClose             // code (8 bytes) and text; nothing follows
)

// How much may be on its way, and how long it is tried.
const (
	window      = 16 * pieceSize
	retryFirst  = 100 * time.Millisecond // besides two round trips
	retryMost   = 2 * time.Second
	GiveUpAfter = 15 * time.Second // without an acknowledgement of what was sent
)

// ErrSilent is the end of a connection whose other end acknowledges nothing.
var ErrSilent = errors.New("what was sent has not been acknowledged for 15s")

// Link is one end of a connection. It must not be copied.
type Link struct {
	id         ID
	seal, open cipher.AEAD

	counter uint64 // of the last datagram sent
	newest  uint64 // the highest counter received

	// What we send: out begins at offset base; sent of it are on their way.
	out     []byte
	base    uint64
	sent    int
	retry   time.Time // zero: nothing waits for an acknowledgement
	pause   time.Duration
	since   time.Time // nothing has been acknowledged
	most    uint64    // the highest offset ever sent
	sampled time.Time // when what ends at until was sent, for the first time
	until   uint64

	got   uint64            // the offset that we wait for
	early map[uint64][]byte // pieces from beyond it, by offset; nil where there are none

	trip Trip
}

// New makes an end of the connection with these keys, its own and the other's.
// trip is the round trip known so far.
func New(id ID, own, other [KeySize]byte, trip time.Duration) (*Link, error) {
	l := &Link{id: id}
	var err error
	if l.seal, err = chacha20poly1305.New(own[:]); err != nil {
		return nil, err
	}
	if l.open, err = chacha20poly1305.New(other[:]); err != nil {
		return nil, err
	}
	if trip > 0 {
		l.trip.note(trip)
	}
	return l, nil
}

// IDOf reads the ID of what may be a datagram of a connection, or its reset.
func IDOf(d []byte) (id ID, ok bool) {
	if len(d) < ResetSize || d[0]&0xc0 != 0x40 {
		return id, false
	}
	return ID(d[idAt:counterAt]), true
}

// Reset is what a coordinator answers to a datagram of an ID that it has made
// but does not know any more; nil where d is none of a connection's.
func Reset(d []byte, token Token) []byte {
	if len(d) < leastSize {
		return nil
	}
	out := append([]byte{0x40 | byte(rand.Uint32())&0x3f}, d[idAt:counterAt]...)
	return append(out, token[:]...)
}

// IsReset says whether d is the reset of the connection with that token.
func IsReset(d []byte, token Token) bool {
	return len(d) == ResetSize && Token(d[counterAt:]) == token
}

// Trip is the round trip, by the shortest of the last samples: the rest was
// queues.
type Trip struct {
	samples [4]time.Duration
	next    int
	told    time.Duration // by the other end
}

func (t *Trip) note(d time.Duration) {
	t.samples[t.next%len(t.samples)] = max(d, time.Microsecond)
	t.next++
}

// RoundTrip is 0 while nothing is known.
func (l *Link) RoundTrip() time.Duration {
	if own := l.own(); own > 0 && (l.trip.told == 0 || own < l.trip.told) {
		return own
	}
	return l.trip.told
}

// own is the round trip by our samples alone, which is what the other end is
// told.
func (l *Link) own() (least time.Duration) {
	for _, d := range l.trip.samples {
		if d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// Room is how many bytes Write takes.
func (l *Link) Room() int { return max(0, 4*window-len(l.out)) }

// Write takes bytes of the stream, up to Room, and gives what is to be sent now.
func (l *Link) Write(now time.Time, b []byte) (send [][]byte) {
	if len(l.out) == 0 {
		l.since = now
	}
	l.out = append(l.out, b...)
	return l.flush(now, nil)
}

// flush sends what the window has room for.
func (l *Link) flush(now time.Time, send [][]byte) [][]byte {
	for l.sent < len(l.out) && l.sent < window {
		n := min(pieceSize, len(l.out)-l.sent)
		send = append(send, l.piece(l.sent, n))
		fresh := l.base+uint64(l.sent) >= l.most
		l.sent += n
		end := l.base + uint64(l.sent)
		l.most = max(l.most, end)
		// What was sent before may be acknowledged for that (Karn's algorithm).
		if fresh && l.sampled.IsZero() {
			l.sampled, l.until = now, end
		}
	}
	if len(l.out) > 0 && l.retry.IsZero() {
		l.pause = retryFirst + 2*l.RoundTrip()
		l.retry = now.Add(l.pause)
	}
	return send
}

func (l *Link) piece(from, n int) []byte {
	body := binary.BigEndian.AppendUint64(make([]byte, 0, 8+n), l.base+uint64(from))
	return l.datagram(flagPiece, append(body, l.out[from:from+n]...))
}

// datagram seals one.
func (l *Link) datagram(flags byte, body []byte) []byte {
	l.counter++
	d := make([]byte, headSize, leastSize+len(body))
	d[0] = 0x40 | byte(rand.Uint32())&0x3f
	copy(d[idAt:], l.id[:])
	binary.BigEndian.PutUint64(d[counterAt:], l.counter)
	plain := make([]byte, 0, fixedSize+len(body))
	plain = append(plain, flags)
	plain = binary.BigEndian.AppendUint64(plain, l.got)
	plain = binary.BigEndian.AppendUint32(plain, uint32(min(l.own(), time.Hour)/time.Microsecond))
	return l.seal.Seal(d, nonce(l.counter), append(plain, body...), d[:headSize])
}

func nonce(counter uint64) []byte {
	var n [chacha20poly1305.NonceSize]byte
	binary.BigEndian.PutUint64(n[chacha20poly1305.NonceSize-8:], counter)
	return n[:]
}

// Ask is a datagram that wants a sign of life.
func (l *Link) Ask() []byte { return l.datagram(flagAsk, nil) }

// Close is the last datagram, which says why.
func (l *Link) Close(code uint64, text string) []byte {
	return l.datagram(flagClose, append(binary.BigEndian.AppendUint64(nil, code), text[:min(len(text), pieceSize)]...))
}

// Due is when Retry must be called; the zero Time: not at all.
func (l *Link) Due() time.Time { return l.retry }

// Retry sends again what was not acknowledged in time, or gives ErrSilent.
func (l *Link) Retry(now time.Time) (send [][]byte, err error) {
	if l.retry.IsZero() || now.Before(l.retry) {
		return nil, nil
	}
	if now.Sub(l.since) >= GiveUpAfter {
		return nil, ErrSilent
	}
	// Only the first piece: the rest may have arrived, and its acknowledgement
	// been lost.
	l.sent, l.sampled = min(pieceSize, len(l.out)), time.Time{}
	l.pause = min(2*l.pause, retryMost)
	l.retry = now.Add(l.pause)
	return [][]byte{l.piece(0, l.sent)}, nil
}

// Closed says that the other end has closed the connection, and why.
type Closed struct {
	Code uint64
	Text string
}

func (c *Closed) Error() string {
	return fmt.Sprintf("closed by the other end (%#x): %s", c.Code, c.Text)
}

// Received is what one datagram brought.
type Received struct {
	Bytes []byte   // of the stream
	Send  [][]byte // in answer
	Newer bool     // it is newer than all before: where it comes from is where the other end is
}

// Receive takes a datagram. The error is ErrForged, *Closed, or of what the
// other end should not have sent.
func (l *Link) Receive(now time.Time, d []byte) (r Received, err error) {
	if len(d) < leastSize {
		return r, ErrForged
	}
	counter := binary.BigEndian.Uint64(d[counterAt:])
	plain, err := l.open.Open(nil, nonce(counter), d[headSize:], d[:headSize])
	if err != nil || len(plain) < fixedSize {
		return r, ErrForged
	}
	r.Newer = counter > l.newest
	l.newest = max(l.newest, counter)
	flags, body := plain[0], plain[fixedSize:]
	if r.Newer {
		l.trip.told = time.Duration(binary.BigEndian.Uint32(plain[9:])) * time.Microsecond
	}
	if err := l.acknowledged(now, binary.BigEndian.Uint64(plain[1:])); err != nil {
		return r, err
	}
	answer := flags&flagAsk != 0 && r.Newer
	switch {
	case flags&flagClose != 0:
		if len(body) < 8 {
			return r, ErrForged
		}
		return r, &Closed{binary.BigEndian.Uint64(body), string(body[8:])}
	case flags&flagPiece != 0:
		if len(body) < 8 {
			return r, ErrForged
		}
		r.Bytes = l.take(binary.BigEndian.Uint64(body), body[8:])
		answer = true
	}
	r.Send = l.flush(now, nil)
	if answer && len(r.Send) == 0 {
		r.Send = append(r.Send, l.datagram(0, nil))
	}
	return r, nil
}

// ErrForged is a datagram that the other end has not made.
var ErrForged = errors.New("the datagram is not the other end's")

// mostEarly is how many pieces are kept that came before what is in front of
// them. Beyond, they are sent again by the other end.
const mostEarly = window/pieceSize + 4

// take gives what is new and in order, of a piece and of those that waited for it.
func (l *Link) take(offset uint64, b []byte) (out []byte) {
	if offset > l.got {
		if _, have := l.early[offset]; have || offset > l.got+2*window || len(l.early) >= mostEarly {
			return nil
		}
		if l.early == nil {
			l.early = make(map[uint64][]byte)
		}
		l.early[offset] = b
		return nil
	}
	for {
		if end := offset + uint64(len(b)); end > l.got {
			out = append(out, b[l.got-offset:]...)
			l.got = end
		}
		next, found := l.fits()
		if !found {
			break
		}
		offset, b = next, l.early[next]
		delete(l.early, next)
	}
	if len(l.early) == 0 {
		l.early = nil
	}
	return out
}

// fits finds a piece whose turn it is.
func (l *Link) fits() (offset uint64, ok bool) {
	for offset := range l.early {
		if offset <= l.got {
			return offset, true
		}
	}
	return 0, false
}

// acknowledged notes that all before an offset has arrived.
func (l *Link) acknowledged(now time.Time, offset uint64) error {
	if offset <= l.base {
		return nil
	}
	n := offset - l.base
	if n > uint64(len(l.out)) {
		return fmt.Errorf("it acknowledges offset %d, of %d sent", offset, l.base+uint64(len(l.out)))
	}
	if !l.sampled.IsZero() && offset >= l.until {
		l.trip.note(now.Sub(l.sampled))
		l.sampled = time.Time{}
	}
	l.base, l.out, l.sent = offset, l.out[n:], max(0, l.sent-int(n))
	l.since, l.retry = now, time.Time{}
	if len(l.out) == 0 {
		l.out = nil // it is idle from here on
	}
	return nil
}
