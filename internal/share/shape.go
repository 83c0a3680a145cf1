package share

import (
	"bytes"
	"iter"
)

// Shape is what a datagram looks like: its length, and bytes at some places.
// Neither is enough alone.
type Shape struct {
	Min, Max int // bytes
	Step     int // the length is Min and a multiple of this; 0: any
	Fields   []Field
	Tail     int // the last two bytes are the length less this; 0: not looked at
}

// Field is bytes at an offset. Bits that are 0 in the mask may be anything; a
// nil mask is all ones.
type Field struct {
	At          int
	Value, Mask []byte
}

// at gives the value and the mask of a byte of the datagram, mask 0 where the
// field does not cover it.
func (f *Field) at(i int) (value, mask byte) {
	i -= f.At
	if i < 0 || i >= len(f.Value) {
		return 0, 0
	}
	if f.Mask == nil {
		return f.Value[i], 0xff
	}
	return f.Value[i] & f.Mask[i], f.Mask[i]
}

func (f *Field) end() int { return f.At + len(f.Value) }

func (f *Field) matches(d []byte) bool {
	if f.end() > len(d) {
		return false
	}
	if f.Mask == nil {
		return bytes.Equal(d[f.At:f.end()], f.Value)
	}
	for i, m := range f.Mask {
		if (d[f.At+i]^f.Value[i])&m != 0 {
			return false
		}
	}
	return true
}

func (s *Shape) matches(d []byte) bool {
	n := len(d)
	if n < s.Min || n > s.Max || s.Step > 1 && (n-s.Min)%s.Step != 0 {
		return false
	}
	for i := range s.Fields {
		if !s.Fields[i].matches(d) {
			return false
		}
	}
	return s.Tail == 0 || n >= 2 && int(d[n-2])<<8|int(d[n-1]) == n-s.Tail
}

// fits says whether a longer datagram that begins with d may still match; its
// length is not looked at. Over TCP it arrives in pieces.
func (s *Shape) fits(d []byte) (fits, whole bool) {
	whole = true
	for i := range s.Fields {
		f := &s.Fields[i]
		for at := f.At; at < f.end(); at++ {
			if at >= len(d) {
				whole = false
				break
			}
			if v, m := f.at(at); d[at]&m != v {
				return false, false
			}
		}
	}
	return true, whole
}

// collides says whether some datagram could match both.
func (s *Shape) collides(o *Shape) bool {
	if s.Min > o.Max || o.Min > s.Max {
		return false
	}
	for differ := range s.common(o) {
		if differ != 0 {
			return false
		}
	}
	return true
}

// near says whether both look at one bit.
func (s *Shape) near(o *Shape) bool {
	for range s.common(o) {
		return true
	}
	return false
}

// common goes through the bytes of which both look at the same bits, and gives
// those of them in which they differ.
func (s *Shape) common(o *Shape) iter.Seq[byte] {
	return func(yield func(byte) bool) {
		for i := range s.Fields {
			for j := range o.Fields {
				a, b := &s.Fields[i], &o.Fields[j]
				for at := max(a.At, b.At); at < min(a.end(), b.end()); at++ {
					v, m := a.at(at)
					w, n := b.at(at)
					if m&n != 0 && !yield((v^w)&m&n) {
						return
					}
				}
			}
		}
	}
}

// bits is how many bits of a datagram's content a shape looks at: of random
// datagrams of a right length, 1 in 2 to this power matches.
func (s *Shape) bits() (n int) {
	for i := range s.Fields {
		f := &s.Fields[i]
		for at := f.At; at < f.end(); at++ {
			_, m := f.at(at)
			for ; m != 0; m &= m - 1 {
				n++
			}
		}
	}
	if s.Tail != 0 {
		n += 16
	}
	return n
}

// mostDatagram is the longest that a client's first datagram may be.
const mostDatagram = 65507

// wireGuard is what a client sends first (WireGuard's whitepaper, section 5.4):
// a handshake initiation; or data, when it comes back after its flow has ended
// here but its keys are still good.
func wireGuard() []Shape {
	kind := func(n byte) []Field { return []Field{{At: 0, Value: []byte{n, 0, 0, 0}}} }
	return []Shape{
		{Min: 148, Max: 148, Fields: kind(1)},
		{Min: 32, Max: mostDatagram, Step: 16, Fields: kind(4)},
	}
}

// dtls is a ClientHello in a record of epoch 0, of DTLS 1.0 to 1.3 (RFC 6347
// section 4.1, RFC 9147 section 5.3): the two headers and the least hello.
func dtls() []Shape {
	return []Shape{{Min: 13 + 12 + 42, Max: mostDatagram, Fields: []Field{
		{At: 0, Value: []byte{22, 0xfe}}, // handshake, 0xfeff or 0xfefd
		{At: 3, Value: []byte{0, 0}},     // epoch
		{At: 13, Value: []byte{1}},       // client_hello
		{At: 17, Value: []byte{0, 0}},    // message 0
	}}}
}

// Keys is how an OpenVPN protects its control channel.
type Keys string

// The ways of OpenVPN's --tls-auth, --tls-crypt and --tls-crypt-v2, and none.
const (
	NoKeys     Keys = "none"
	TLSAuth    Keys = "tls-auth"
	TLSCrypt   Keys = "tls-crypt"
	TLSCryptV2 Keys = "tls-crypt-v2"
)

// Lengths in OpenVPN's control datagrams (its doc/doxygen/doc_protocol_overview.h;
// seen of 2.6.3): opcode and session ID, number of acknowledgements and message
// number, the replay counter and time, tls-crypt's tag; and in what tls-crypt-v2
// adds, a wrapped key of 256 bytes with tag, length and up to 1024 bytes in all.
const (
	vpnHead   = 1 + 8
	vpnReset  = 1 + 4
	vpnReplay = 4 + 4
	vpnTag    = 32
	vpnKey    = vpnTag + 256 + 2
	vpnKeyMax = 1024
)

// Opcodes with key ID 0, and data's with any.
const (
	vpnHardReset2 = 7 << 3
	vpnHardReset3 = 10 << 3
	vpnData2      = 9 << 3
)

// openVPN is a client's first datagram, by how its control channel is
// protected: a hard reset that acknowledges nothing and has number 0. The
// replay counter begins at 1, or at 0x0f000001 as a mark of OpenVPN 2.6.
func openVPN(k Keys) []Shape {
	reset := func(op byte) Field { return Field{At: 0, Value: []byte{op}} }
	zero := func(at, n int) Field { return Field{At: at, Value: make([]byte, n)} }
	low := func(at int) Field { return Field{At: at, Value: []byte{0, 0, 0}, Mask: []byte{0xf0, 0xff, 0xff}} }
	switch k {
	case NoKeys:
		const n = vpnHead + vpnReset
		return []Shape{{Min: n, Max: n, Fields: []Field{reset(vpnHardReset2), zero(vpnHead, vpnReset)}}}
	case TLSAuth:
		var out []Shape
		for _, digest := range []int{16, 20, 28, 32, 48, 64} { // MD5, SHA-1, the sizes of SHA-2
			n := vpnHead + digest + vpnReplay + vpnReset
			out = append(out, Shape{Min: n, Max: n, Fields: []Field{
				reset(vpnHardReset2), low(vpnHead + digest), zero(n-vpnReset, vpnReset),
			}})
		}
		return out
	case TLSCrypt:
		const n = vpnHead + vpnReplay + vpnTag + vpnReset
		return []Shape{{Min: n, Max: n, Fields: []Field{reset(vpnHardReset2), low(vpnHead)}}}
	case TLSCryptV2:
		const n = vpnHead + vpnReplay + vpnTag + vpnReset
		return []Shape{{Min: n + vpnKey, Max: n + vpnKeyMax, Tail: n, Fields: []Field{reset(vpnHardReset3), low(vpnHead)}}}
	}
	return nil
}

// allKeys in the order in which they are looked for: of the same length,
// tls-auth's form is the stricter one.
var allKeys = []Keys{NoKeys, TLSAuth, TLSCrypt, TLSCryptV2}

// openVPNData is data of a client below number 256, which comes back after its
// flow has ended here: its server knows it by that number.
func openVPNData() []Shape {
	return []Shape{{Min: 1 + 3 + 4 + 16 + 1, Max: 1 << 11, Fields: []Field{
		{At: 0, Value: []byte{vpnData2, 0, 0}, Mask: []byte{0xf8, 0xff, 0xff}},
	}}}
}

// keysOf says how an OpenVPN client's first datagram is protected.
func keysOf(d []byte) (Keys, bool) {
	if len(d) < vpnHead+vpnReset || d[0] != vpnHardReset2 && d[0] != vpnHardReset3 {
		return "", false
	}
	for _, k := range allKeys {
		for _, s := range vpnShapes[k] {
			if s.matches(d) {
				return k, true
			}
		}
	}
	return "", false
}

var vpnShapes = map[Keys][]Shape{
	NoKeys: openVPN(NoKeys), TLSAuth: openVPN(TLSAuth), TLSCrypt: openVPN(TLSCrypt), TLSCryptV2: openVPN(TLSCryptV2),
}
