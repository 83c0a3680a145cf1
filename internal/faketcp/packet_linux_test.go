package faketcp

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

// FuzzPacket gives the device packets as the kernel lays them down: the first
// bytes apart from the others, with and without a link-layer header. Nothing
// must break, and what is taken has the payload that it was sent with.
func FuzzPacket(f *testing.F) {
	for _, h := range headers {
		packet, _ := hex.DecodeString(strings.Join(strings.Fields(h.packet), ""))
		for _, framed := range []bool{false, true} {
			f.Add(packet, framed, byte(0), byte(0), uint16(0))
			f.Add(append(packet, make([]byte, 100)...), framed, byte(vnetNeedsSum), byte(vnetTCP4), uint16(7))
		}
	}
	devices := []*link{{at: from4}, {at: from6}}
	for _, l := range devices {
		l.routes = &routes{from: l.at.Addr()}
	}
	slot := make([]byte, dgram.SlotSize)
	f.Fuzz(func(t *testing.T, packet []byte, framed bool, flags, gso byte, size uint16) {
		kind, before := uint16(unix.ARPHRD_NONE), bareOffset
		if framed {
			kind, before = unix.ARPHRD_ETHER, framedOffset
		}
		var s segment
		_, begin, end, err := parse(packet, len(packet), &s)
		whole := make([]byte, vnetSize+before, vnetSize+before+len(packet))
		whole[0], whole[1], whole[4], whole[5] = flags, gso, byte(size), byte(size>>8)
		whole = append(whole, packet...)
		if len(whole) > 65559 {
			return
		}
		for _, l := range devices {
			l.routes.from = s.local.Addr()
			var r train
			var head [headRoom]byte
			copy(head[:l.head()], whole)
			n := copy(slot, whole[min(l.head(), len(whole)):])
			clear(slot[n:min(n+200, len(slot))])
			if !l.packet(&r, &head, slot, len(whole), kind) {
				continue
			}
			if err != nil {
				if len(packet) <= maxReceived {
					t.Fatalf("taken, though %v", err)
				}
				continue
			}
			if !bytes.Equal(r.burst.Buf, packet[begin:end]) {
				t.Fatalf("payload %x, want %x", r.burst.Buf, packet[begin:end])
			}
			if len(r.burst.Buf) > 0 && (r.burst.Size <= 0 || r.burst.Size > len(r.burst.Buf)) {
				t.Fatalf("%d bytes in segments of %d", len(r.burst.Buf), r.burst.Size)
			}
		}
	})
}
