//go:build linux

package hop

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// made is a TCP packet from 192.168.2.2:4000 to 203.0.113.10:443, or the other
// way, with a right checksum.
func made(outward bool, flags byte, seq, ack uint32, options []byte, data string) []byte {
	size := ipv4Header + tcpHeader + len(options) + len(data)
	p := make([]byte, size)
	p[0], p[8], p[9] = 0x45, 64, protoTCP
	binary.BigEndian.PutUint16(p[2:], uint16(size))
	inner, outer := []byte{192, 168, 2, 2}, []byte{203, 0, 113, 10}
	s := p[ipv4Header:]
	src, dst := uint16(4000), uint16(443)
	if !outward {
		inner, outer, src, dst = outer, inner, dst, src
	}
	copy(p[12:], inner)
	copy(p[16:], outer)
	binary.BigEndian.PutUint16(s, src)
	binary.BigEndian.PutUint16(s[2:], dst)
	binary.BigEndian.PutUint32(s[4:], seq)
	binary.BigEndian.PutUint32(s[8:], ack)
	s[12], s[13] = byte(tcpHeader+len(options))/4<<4, flags
	binary.BigEndian.PutUint16(s[14:], 0xfe80)
	copy(s[tcpHeader:], options)
	copy(s[tcpHeader+len(options):], data)
	setHeaderChecksum(p)
	setChecksumTCP(p)
	return p
}

func passThrough(b Box, outward bool, packet []byte) Verdict {
	return b.Pass(Passage{Packet: packet, Outward: outward, Now: monotonic(), Random: rand.New(rand.NewPCG(1, 2))})
}

func rightTCP(p []byte) bool {
	s, ok := TCP(p)
	return ok && sumTCP(p, s) == 0xffff
}

// What one direction's sequence gains, the other's acknowledgements lose, SACK
// blocks too, so that both ends see their own numbers acknowledged.
func TestRenumberIsConsistent(t *testing.T) {
	sack := []byte{1, 1, optionSACK, 10, 0, 0, 0, 0, 0, 0, 0, 0}
	for name, box := range map[string]*Renumber{"the same for all": {Same: 0x89abcdef}, "by flow": {}} {
		p := made(true, flagSYN, 1000, 0, []byte{2, 4, 5, 0x50}, "")
		passThrough(box, true, p)
		syn, _ := TCP(p)
		if syn.Sequence() == 1000 || syn.Acknowledged() != 0 || !rightTCP(p) {
			t.Errorf("%s: SYN %d, ack %d, checksum right %v", name, syn.Sequence(), syn.Acknowledged(), rightTCP(p))
		}
		binary.BigEndian.PutUint32(sack[4:], syn.Sequence()+100)
		binary.BigEndian.PutUint32(sack[8:], syn.Sequence()+200)
		back := made(false, flagACK, 5000, syn.Sequence()+1, sack, "odd")
		passThrough(box, false, back)
		answer, _ := TCP(back)
		edges := [2]uint32{binary.BigEndian.Uint32(answer.Options()[4:]), binary.BigEndian.Uint32(answer.Options()[8:])}
		if answer.Acknowledged() != 1001 || edges != [2]uint32{1100, 1200} || !rightTCP(back) {
			t.Errorf("%s: acknowledges %d, SACK %v, checksum right %v", name, answer.Acknowledged(), edges, rightTCP(back))
		}
		third := made(true, flagACK, 1001, answer.Sequence()+4, nil, "x")
		passThrough(box, true, third)
		if s, _ := TCP(third); s.Acknowledged() != 5004 || s.Sequence() != syn.Sequence()+1 || !rightTCP(third) {
			t.Errorf("%s: third segment %d, ack %d", name, s.Sequence(), s.Acknowledged())
		}
	}
	if other := (&Renumber{}).offsets(Flow{}, rand.New(rand.NewPCG(3, 4))); other.inward == other.outward {
		t.Errorf("both directions of a flow have the offset %d", other.inward)
	}
}

func TestWrongChecksumStaysWrong(t *testing.T) {
	p := made(true, flagACK, 1, 1, nil, "data")
	p[ipv4Header+16] ^= 0x55
	passThrough(&Renumber{Same: 77}, true, p)
	if rightTCP(p) {
		t.Error("the box mended a checksum that its sender got wrong")
	}
}

func TestValidate(t *testing.T) {
	type step struct {
		outward  bool
		flags    byte
		seq, ack uint32
		data     string
		want     Verdict
	}
	open := []step{{true, flagSYN, 100, 0, "", Forward}, {false, flagSYN | flagACK, 500, 101, "", Forward}, {true, flagACK, 101, 501, "", Forward}}
	for name, steps := range map[string][]step{
		"a client and a server":       append(slices.Clone(open), step{true, flagACK, 101, 501, "abc", Forward}, step{false, flagACK, 501, 104, "", Forward}),
		"the same SYN again":          {open[0], open[0]},
		"another SYN":                 {open[0], {true, flagSYN, 101, 0, "", Refuse}},
		"simultaneous open":           {open[0], {false, flagSYN, 900, 0, "", Forward}, {true, flagSYN | flagACK, 100, 901, "", Forward}, {false, flagSYN | flagACK, 900, 101, "", Forward}},
		"data of no connection":       {{true, flagACK, 100, 1, "abc", Refuse}},
		"acknowledges below the SYN":  append(slices.Clone(open), step{true, flagACK, 101, 500, "", Refuse}),
		"acknowledges what is not":    append(slices.Clone(open), step{false, flagACK, 501, 102, "", Refuse}),
		"acknowledges past a hole":    append(slices.Clone(open), step{true, flagACK, 2000, 501, "ab", Forward}, step{false, flagACK, 501, 2002, "", Forward}),
		"a new connection after RST":  append(slices.Clone(open), step{true, flagRST, 101, 0, "", Forward}, step{true, flagSYN, 7, 0, "", Forward}),
		"SYN/ACK of what was not SYN": {{false, flagSYN | flagACK, 1, 1, "", Refuse}},
	} {
		box := &Validate{}
		for i, s := range steps {
			if got := passThrough(box, s.outward, made(s.outward, s.flags, s.seq, s.ack, nil, s.data)); got != s.want {
				t.Errorf("%s: segment %d got %d, want %d", name, i, got, s.want)
			}
		}
		refused := steps[len(steps)-1].want == Refuse
		if (box.Violations.Load() == 1) != refused {
			t.Errorf("%s: %d violations", name, box.Violations.Load())
		}
	}
}

func TestStripAndClamp(t *testing.T) {
	p := made(true, flagSYN, 1, 0, []byte{2, 4, 5, 0x50, 1, 3, 3, 14, 1, 1, 4, 2}, "")
	passThrough(StripOptions{Keep: []byte{2}}, true, p)
	passThrough(ClampWindow{Most: 8192}, true, p)
	s, _ := TCP(p)
	if want := []byte{2, 4, 5, 0x50, 1, 1, 1, 1, 1, 1, 1, 1}; !slices.Equal(s.Options(), want) || s.Window() != 8192 || !rightTCP(p) {
		t.Errorf("options %x, window %d, checksum right %v", s.Options(), s.Window(), rightTCP(p))
	}
}

func TestResetAnswersTheSender(t *testing.T) {
	for _, c := range []struct {
		flags         byte
		wantSeq, want uint32
	}{{flagACK, 77, 0}, {flagSYN, 0, 1001}} {
		p := made(true, c.flags, 1000, 77, nil, "")
		s, _ := TCP(p)
		answer := resetFor(nil, p, s)
		r, ok := TCP(answer)
		if !ok || !r.Reset() || r.Sequence() != c.wantSeq || r.Acknowledged() != c.want || !rightTCP(answer) {
			t.Errorf("flags %x: %x", c.flags, answer)
		}
		if src, dst := r.Ports(); src != 443 || dst != 4000 {
			t.Errorf("the RST goes from port %d to %d", src, dst)
		}
		if again := resetFor(nil, answer, r); again != nil {
			t.Error("a RST was answered with a RST")
		}
	}
}

func TestPoliceAndLoseTakeOneProtocol(t *testing.T) {
	tcp, udp := made(true, flagACK, 1, 1, nil, "data"), made(true, flagACK, 1, 1, nil, "data")
	udp[9] = OnlyUDP
	random := rand.New(rand.NewPCG(1, 2))
	police := &Police{Protocol: OnlyUDP, Rate: 8 * int64(len(udp)) * 100, Burst: len(udp)} // 100 a second
	passed, lost := 0, 0
	for i := range 1000 { // in 2 s
		p := Passage{Packet: udp, Outward: true, Now: time.Second + time.Duration(i)*2*time.Millisecond, Random: random}
		if police.Pass(p) == Forward {
			passed++
		}
		if (Lose{Protocol: OnlyUDP, Share: 0.2}).Pass(p) == Discard {
			lost++
		}
		p.Packet = tcp
		if police.Pass(p) != Forward || (Lose{Protocol: OnlyUDP, Share: 1}).Pass(p) != Forward {
			t.Fatal("TCP suffered too")
		}
	}
	if passed < 195 || passed > 205 || lost < 150 || lost > 250 {
		t.Errorf("%d passed the policer, want 200; %d of 1000 were lost, want 200", passed, lost)
	}
}

// FuzzBoxes: what comes by may be any bytes, and its length stays.
func FuzzBoxes(f *testing.F) {
	f.Add(made(true, flagSYN, 1, 0, []byte{2, 4, 5, 0x50}, ""), true)
	f.Add(made(false, flagACK, 1, 2, []byte{1, 1, optionSACK, 10, 0, 0, 0, 0, 0, 0, 0, 0}, "data"), false)
	f.Add(ping6Seed(), true)
	f.Fuzz(func(t *testing.T, b []byte, outward bool) {
		if _, ok := destination(b); !ok || len(b) > maxPacket {
			return
		}
		boxes := []Box{&Renumber{}, &Validate{}, ClampWindow{100}, StripOptions{}, Lose{OnlyUDP, 0.5}, &Police{Protocol: OnlyTCP, Rate: 1}}
		for _, box := range boxes {
			passThrough(box, outward, b)
		}
		if s, ok := TCP(b); ok {
			resetFor(nil, b, s)
		}
	})
}

func ping6Seed() []byte {
	return unhexSeed("6000000000083a0520010db8000200000000000000000002200000000000000000000000000000108000000000000000")
}
