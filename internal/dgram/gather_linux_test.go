package dgram

import (
	"bytes"
	"net/netip"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scripted is a kernel whose messages are given: the next ones are put where
// the reader asked for them, as recvmmsg does.
type scripted struct {
	linux
	messages []scriptedMessage
}

type scriptedMessage struct {
	from    byte
	body    []byte
	segment int
}

func (k *scripted) receive(_ uintptr, msgs *message, n int) (int, syscall.Errno) {
	if len(k.messages) == 0 {
		return 0, unix.EBADF
	}
	n = min(n, len(k.messages))
	room := unsafe.Slice(msgs, n)
	for i := range room {
		k.messages[i].put(&room[i].hdr)
		room[i].n = uint32(len(k.messages[i].body))
	}
	k.messages = k.messages[n:]
	return n, 0
}

func (m scriptedMessage) put(hdr *unix.Msghdr) {
	*(*unix.RawSockaddrInet4)(unsafe.Pointer(hdr.Name)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte{192, 0, 2, m.from}}
	rest := m.body
	for _, iov := range unsafe.Slice(hdr.Iov, int(hdr.Iovlen)) {
		n := copy(unsafe.Slice(iov.Base, int(iov.Len)), rest)
		rest = rest[n:]
	}
	if len(rest) > 0 {
		panic("no room for the whole message")
	}
	ctrl := (*control)(unsafe.Pointer(hdr.Control))
	hdr.SetControllen(0)
	if m.segment > 0 {
		hdr.SetControllen(ctrl.put(0, unix.IPPROTO_UDP, unix.UDP_GRO, m.segment, 4))
	}
}

// script makes messages of a fuzzer's bytes: three each.
func script(data []byte) []scriptedMessage {
	var all []scriptedMessage
	for i := 0; i+3 <= len(data); i += 3 {
		m := scriptedMessage{from: data[i] & 1}
		size := (int(data[i+1])<<8 | int(data[i+2])) % (MaxBytes + 1)
		if data[i]&2 != 0 {
			size %= 1500 // most are
		}
		if data[i]&4 != 0 {
			size = 1200
		}
		m.body = bytes.Repeat([]byte{byte(i / 3)}, size)
		if data[i]&8 != 0 {
			m.segment = 1 + size/(1+int(data[i]>>4))
		}
		all = append(all, m)
	}
	return all
}

// datagrams cuts messages as their bursts would be.
func datagrams(m scriptedMessage) (all []letter) {
	b := Burst{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, m.from}), 0), Buf: m.body, Size: m.segment}
	if m.segment == 0 {
		b.Size = len(m.body)
	}
	for d := range b.All() {
		all = append(all, letter{b.Addr, d})
	}
	return all
}

// Whatever mixture of sizes, sources and merged messages comes: each datagram
// comes out whole, once, and in order, in bursts that Write would take.
func FuzzGather(f *testing.F) {
	f.Add([]byte{4, 0, 0, 4, 0, 0, 4, 0, 0, 2, 0, 9, 4, 0, 0})
	f.Add([]byte{0, 255, 255, 2, 1, 1, 2, 1, 1, 5, 0, 0, 4, 0, 0, 0x7c, 0, 0, 0x1b, 3, 3, 4, 0, 0})
	f.Add(bytes.Repeat([]byte{4, 0, 0}, 100))
	f.Add(bytes.Repeat([]byte{4, 0, 0, 4, 0, 0, 12, 0, 0, 0, 200, 0, 2, 0, 30, 5, 0, 0}, 20))
	f.Fuzz(func(t *testing.T, data []byte) {
		k := &scripted{messages: script(data)}
		var want []letter
		for _, m := range k.messages {
			want = append(want, datagrams(m)...)
		}
		s := &socket{kernel: k, local: netip.MustParseAddrPort("192.0.2.9:9")}
		var arena Arena
		defer arena.Release()
		for len(want) > 0 {
			arena.Reset()
			s.rx.arena = &arena
			if !s.readable(0) || s.rx.errno != 0 {
				t.Fatalf("the reader waits or fails with %d datagrams missing", len(want))
			}
			for _, b := range arena.Bursts() {
				if b.Len() > 1 && (b.Len() > MaxSegments && b.Size == 1200 || len(b.Buf) > MaxBytes) {
					t.Fatalf("a burst of %d datagrams of %d bytes", b.Len(), b.Size)
				}
				for d := range b.All() {
					if len(want) == 0 || b.Addr != want[0].from || !bytes.Equal(d, want[0].body) {
						t.Fatalf("another datagram than was sent: %d bytes from %v", len(d), b.Addr)
					}
					want = want[1:]
				}
			}
		}
	})
}
