package seal

import (
	"crypto/hmac"
	"crypto/sha256"

	"rendezvous/proto"
)

// BindMAC is the MAC of a bind or of its answer: the first 16 bytes of
// HMAC-SHA256 under the leg's key.
func BindMAC(key []byte, b proto.Bind) [16]byte {
	h := hmac.New(sha256.New, key)
	h.Write(proto.AppendBindBody(make([]byte, 0, proto.BindSize), b))
	return [16]byte(h.Sum(nil))
}

// CheckBind says in constant time whether b carries its MAC.
func CheckBind(key []byte, b proto.Bind) bool {
	want := BindMAC(key, b)
	return hmac.Equal(want[:], b.MAC[:])
}
