package tun

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// FuzzDevice gives a link whatever a device may hand over. What leaves is a
// segment, has a right checksum where the kernel left it to us, and all of them
// hold the packet's payload once.
func FuzzDevice(f *testing.F) {
	plain := make([]byte, vnetSize)
	for _, way := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		segment := tcp(way[0], way[1], 5, flagACK|flagPSH, []byte{1, 1, 1, 0}, pattern(100))
		f.Add(append(plain, ip(way[0], way[1], protocolTCP, segment)...))
		f.Add(append(plain, ip(way[0], way[1], protocolTCP, segment[:19])...))
		head := slices.Clone(plain)
		(&vnetHeader{flags: vnetNeedsSum, kind: vnetTCP4, size: 7}).put(head)
		f.Add(append(head, ip(way[0], way[1], protocolTCP, segment)...))
		(&vnetHeader{kind: vnetTCP6 | vnetECN, size: 1}).put(head)
		f.Add(append(head, ip(way[0], way[1], protocolTCP, segment)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < vnetSize || len(b) > vnetSize+maxPacket {
			return
		}
		conn := &fakeConn{}
		d := newFakeDevice()
		l := NewLink(Config{Device: d, Own: []netip.Addr{a4, a6}, Peers: everybody{conn}, Now: time.Now}, 1500)
		before := slices.Clone(b)
		why := l.carry(new(sending), b)
		var h vnetHeader
		h.read(before)
		p, parsed := parse(before[vnetSize:])
		sent := conn.take()
		if why != Carried {
			if len(sent) > 0 {
				t.Fatalf("dropped as %v, and sent", why)
			}
			return
		}
		if parsed != Carried {
			t.Fatalf("sent what is %v", parsed)
		}
		var got []byte
		for _, burst := range sent {
			for s := range burst.All() {
				head := headerSize(s)
				if head == 0 || burst.Len() > dgram.MaxSegments {
					t.Fatalf("sent %x in a burst of %d", s, burst.Len())
				}
				touched := h.flags&vnetNeedsSum != 0 || len(s) != len(p.segment)
				if touched && !checksumIsRight(s, p.from, p.to) || !touched && !bytes.Equal(s, p.segment) {
					t.Fatalf("sent with a wrong checksum: %x", s)
				}
				got = append(got, s[head:]...)
			}
		}
		if !bytes.Equal(got, p.segment[headerSize(p.segment):]) {
			t.Fatal("what was sent is not what the packet holds")
		}
	})
}

// everybody is reached by one conn.
type everybody struct{ conn dgram.Conn }

func (e everybody) Source(time.Time, path.Path) (netip.Addr, bool) { return b4, true }
func (e everybody) Route(time.Time, netip.Addr) (path.Path, bool) {
	return path.Path{Conn: e.conn}, true
}
func (e everybody) Tell(time.Time, path.Path, []byte) bool { return false }

// FuzzNetwork gives a link whatever a socket may receive. What the device gets
// is right in all that the kernel relies on, and no payload is lost.
func FuzzNetwork(f *testing.F) {
	one := tcp(a4, b4, 5, flagACK, nil, pattern(100))
	two := tcp(a4, b4, 105, flagACK|flagPSH, nil, pattern(50))
	f.Add(append(slices.Clone(one), two...), 120, false)
	f.Add(append(slices.Clone(one), one[:19]...), 120, true)
	f.Add(one, 0, false)
	f.Add(bytes.Repeat(one, 64), 120, true)
	f.Fuzz(func(t *testing.T, b []byte, size int, six bool) {
		if len(b) > 10_000 || size < 0 || len(b) > 0 && size == 0 || size*dgram.MaxSegments < len(b) {
			return
		}
		from, to := b4, a4
		if six {
			from, to = b6, a6
		}
		burst := dgram.Burst{Buf: b, Size: size}
		all, bad := joined(t, burst, from, to)
		var want, got []byte
		wrong := 0
		for d := range burst.All() {
			if head := headerSize(d); head > 0 && len(d) <= maxPacket-ipSize(from) {
				want = append(want, d[head:]...)
			} else {
				wrong++
			}
		}
		for _, r := range all {
			if r.from != from || r.to != to {
				t.Fatalf("a packet from %v to %v", r.from, r.to)
			}
			got = append(got, r.segment[headerSize(r.segment):]...)
		}
		if bad != wrong || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes of %d came; %d bad, counted %d", len(got), len(want), wrong, bad)
		}

		conn := &fakeConn{}
		l := NewLink(Config{Device: newFakeDevice(), Own: []netip.Addr{a4, a6}, Peers: NewGuests(Span{}, Span{}, nil), Now: time.Now}, 1500)
		l.receive(&joiner{write: l.write}, conn, burst)
		if l.Stats().Received != 0 {
			t.Fatal("a stranger was heard")
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range []message{{kind: who}, {kind: hello, id: ID{1, 2, 3}}, {kind: heard, six: true, id: ID{15: 9}}} {
		f.Add(m.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parseMessage(b)
		if ok && (!bytes.Equal(m.append(nil), b) || len(b) >= minSegment) {
			t.Errorf("%x is read as %+v", b, m)
		}
	})
}

// The bytes of section 21 of proto/SPEC.md.
func TestMessagesOnTheWire(t *testing.T) {
	id := ID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	for _, c := range []struct {
		m    message
		want string
	}{
		{message{kind: hello, id: id}, "\x01\x04\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"},
		{message{kind: heard, six: true, id: id}, "\x02\x06\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"},
		{message{kind: who}, "\x03"},
	} {
		if got := c.m.append(nil); string(got) != c.want {
			t.Errorf("%+v is %x, want %x", c.m, got, c.want)
		}
		if m, ok := parseMessage([]byte(c.want)); !ok || m != c.m {
			t.Errorf("%x is %+v", c.want, m)
		}
	}
}
