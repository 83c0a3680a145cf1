package tun

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"rendezvous/internal/dgram"
)

// S1-06
func TestPacketsThatDoNotCrossHaveAReason(t *testing.T) {
	segment := tcp(a4, b4, 1, flagACK, nil, pattern(100))
	whole := ip(a4, b4, protocolTCP, segment)
	whole6 := ip(a6, b6, protocolTCP, tcp(a6, b6, 1, flagACK, nil, nil))
	change := func(b []byte, at int, v byte) []byte {
		b = slices.Clone(b)
		b[at] = v
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want Reason
	}{
		"TCP over IPv4":                    {whole, Carried},
		"TCP over IPv6":                    {whole6, Carried},
		"UDP over IPv4":                    {change(whole, 9, 17), NotTCP},
		"ICMPv6":                           {change(whole6, 6, protocolICMPv6), NotTCP},
		"nothing behind IPv6's header":     {change(whole6, 6, headerNone), NotTCP},
		"neither IPv4 nor IPv6":            {change(whole, 0, 0x55), NotTCP},
		"IPv4 options":                     {change(whole, 0, 0x46), Options},
		"IPv6 extension headers":           {change(whole6, 6, headerHopByHop), Options},
		"IPv6 routing header":              {change(whole6, 6, headerRouting), Options},
		"more fragments":                   {change(whole, 6, 0x20), Fragment},
		"last fragment":                    {change(whole, 7, 1), Fragment},
		"IPv6 fragment":                    {change(whole6, 6, headerFragment), Fragment},
		"nothing":                          {nil, BadLength},
		"one byte":                         {[]byte{0x45}, BadLength},
		"header of less than 20 bytes":     {change(whole, 0, 0x44), BadLength},
		"longer than it says":              {change(whole, 3, 60), BadLength},
		"shorter than it says":             {whole[:len(whole)-1], BadLength},
		"IPv6 shorter than it says":        {whole6[:len(whole6)-1], BadLength},
		"IPv6 header alone, cut":           {whole6[:39], BadLength},
		"TCP header that ends too early":   {ip(a4, b4, protocolTCP, segment[:19]), BadLength},
		"TCP header longer than the rest":  {ip(a4, b4, protocolTCP, change(segment, atOffset, 0xf0)[:40]), BadLength},
		"TCP header shorter than possible": {ip(a4, b4, protocolTCP, change(segment, atOffset, 0x40)), BadLength},
	} {
		p, why := parse(c.b)
		if why == Carried {
			why = new(cutter).cut(p, vnetHeader{}, func([]byte, int) {})
		}
		if why != c.want {
			t.Errorf("%s: %v, want %v", name, why, c.want)
		}
	}
}

// What has a checksum crosses byte for byte; what the kernel has left undone is
// completed.
// S1-08
func TestASegmentCrossesByteForByte(t *testing.T) {
	for _, way := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		from, to := way[0], way[1]
		want := tcp(from, to, 7, flagACK|flagPSH, []byte{1, 1, 1, 0}, pattern(999))
		partial := slices.Clone(want)
		binary.BigEndian.PutUint16(partial[atChecksum:], slowSum(slowPseudo(from, to, protocolTCP, len(partial))))
		for name, c := range map[string]struct {
			segment []byte
			h       vnetHeader
		}{
			"complete": {want, vnetHeader{}},
			"partial":  {partial, vnetHeader{flags: vnetNeedsSum, sumStart: uint16(ipSize(from)), sumOffset: atChecksum}},
		} {
			p, _ := parse(ip(from, to, protocolTCP, c.segment))
			n := 0
			why := new(cutter).cut(p, c.h, func(segments []byte, size int) {
				if n++; !bytes.Equal(segments, want) || size != len(want) {
					t.Errorf("%s: crosses as\n%x, want\n%x", name, segments, want)
				}
			})
			if why != Carried || n != 1 {
				t.Errorf("%s: %v, %d bursts", name, why, n)
			}
		}
	}
}

// super is a super-segment as the kernel hands it over.
func super(from, to netip.Addr, flags byte, size int, options, payload []byte) (packet, vnetHeader) {
	s := tcp(from, to, 0xffffff00, flags, options, payload)
	binary.BigEndian.PutUint16(s[atChecksum:], slowSum(slowPseudo(from, to, protocolTCP, len(s))))
	kind := uint8(vnetTCP4)
	if from.Is6() {
		kind = vnetTCP6
	}
	if flags&flagCWR != 0 {
		kind |= vnetECN
	}
	p, _ := parse(ip(from, to, protocolTCP, s))
	return p, vnetHeader{flags: vnetNeedsSum, kind: kind, size: uint16(size), sumStart: uint16(ipSize(from)), sumOffset: atChecksum,
		headers: uint16(ipSize(from) + minSegment + len(options))}
}

// A super-segment leaves as segments, each with a header of its own, as the
// kernel would have cut it.
func TestASuperSegmentIsCut(t *testing.T) {
	options := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8} // a timestamp
	payload := pattern(60000)
	p, h := super(a4, b4, flagACK|flagPSH|flagFIN|flagCWR|flagECE, 1400, options, payload)
	var all [][]byte
	bursts := 0
	why := new(cutter).cut(p, h, func(segments []byte, size int) {
		b := dgram.Burst{Buf: slices.Clone(segments), Size: size}
		if bursts++; b.Len() > dgram.MaxSegments || len(b.Buf) > dgram.MaxBytes {
			t.Errorf("a burst of %d segments, %d bytes", b.Len(), len(b.Buf))
		}
		all = slices.AppendSeq(all, b.All())
	})
	if why != Carried || len(all) != 43 || bursts != 1 {
		t.Fatalf("%v: %d segments in %d bursts", why, len(all), bursts)
	}
	var got []byte
	for i, s := range all {
		want := byte(flagACK | flagECE)
		if i == 0 {
			want |= flagCWR
		}
		if i == len(all)-1 {
			want |= flagPSH | flagFIN
		}
		if s[atFlags] != want {
			t.Errorf("segment %d has flags %#x, want %#x", i, s[atFlags], want)
		}
		start := uint32(0xffffff00)
		if seq := binary.BigEndian.Uint32(s[atSeq:]); seq != start+uint32(i*1400) {
			t.Errorf("segment %d has number %d", i, seq)
		}
		if !checksumIsRight(s, a4, b4) {
			t.Errorf("segment %d has a wrong checksum", i)
		}
		if !bytes.Equal(s[minSegment:32], options) {
			t.Errorf("segment %d has options %x", i, s[minSegment:32])
		}
		got = append(got, s[32:]...)
	}
	if !bytes.Equal(got, payload) {
		t.Error("what crossed is not what was sent")
	}
}

// join runs a burst through a joiner and checks each packet.
func joined(t *testing.T, b dgram.Burst, from, to netip.Addr) (all []received, bad int) {
	t.Helper()
	j := &joiner{write: func(b []byte) { all = append(all, checkReceived(t, slices.Clone(b))) }}
	bad = j.join(b, from, to)
	return all, bad
}

// The address of the sender changes on the way, and with it both checksums.
// S1-05
func TestASegmentBecomesAPacketBetweenOtherAddresses(t *testing.T) {
	sent := tcp(netip.MustParseAddr("10.1.2.3"), b4, 9, flagACK|flagPSH, nil, pattern(333))
	for _, way := range [][2]netip.Addr{{b4, a4}, {b6, a6}} {
		all, bad := joined(t, dgram.One(netip.AddrPort{}, slices.Clone(sent)), way[0], way[1])
		if len(all) != 1 || bad != 0 || all[0].from != way[0] || all[0].to != way[1] || all[0].head.kind != vnetPlain {
			t.Fatalf("%d packets, %d bad: %+v", len(all), bad, all)
		}
		got := all[0].completed()
		binary.BigEndian.PutUint16(got[atChecksum:], binary.BigEndian.Uint16(sent[atChecksum:]))
		if !bytes.Equal(got, sent) {
			t.Error("more than the checksum has changed")
		}
	}
}

// What does not continue the segment before it begins a packet of its own.
func TestWhatIsJoined(t *testing.T) {
	const size = 100
	base := func(i int) []byte { return tcp(a4, b4, uint32(i*size), flagACK, nil, pattern(size)) }
	three := func(change func(i int, s []byte) []byte) []byte {
		var b []byte
		for i := range 3 {
			b = append(b, change(i, base(i))...)
		}
		return b
	}
	second := func(f func(s []byte)) []byte {
		return three(func(i int, s []byte) []byte {
			if i == 1 {
				f(s)
			}
			return s
		})
	}
	for name, c := range map[string]struct {
		b    []byte
		want []int // segments in each packet
	}{
		"in order":                     {three(func(_ int, s []byte) []byte { return s }), []int{3}},
		"the last is shorter":          {three(func(i int, s []byte) []byte { return s[:len(s)-i/2*50] }), []int{3}},
		"the last pushes":              {three(func(i int, s []byte) []byte { s[atFlags] |= byte(i / 2 * flagPSH); return s }), []int{3}},
		"the second pushes":            {second(func(s []byte) { s[atFlags] |= flagPSH }), []int{2, 1}},
		"the second ends":              {second(func(s []byte) { s[atFlags] |= flagFIN }), []int{2, 1}},
		"another port":                 {second(func(s []byte) { s[1]++ }), []int{1, 1, 1}},
		"a gap":                        {second(func(s []byte) { s[atSeq+3]++ }), []int{1, 1, 1}},
		"another acknowledgement":      {second(func(s []byte) { s[atAck]++ }), []int{1, 1, 1}},
		"another window":               {second(func(s []byte) { s[atWindow]++ }), []int{1, 1, 1}},
		"urgent":                       {second(func(s []byte) { s[atUrgent]++ }), []int{1, 1, 1}},
		"a SYN":                        {second(func(s []byte) { s[atFlags] |= 2 }), []int{1, 1, 1}},
		"a RST":                        {second(func(s []byte) { s[atFlags] = 4 }), []int{1, 1, 1}},
		"CWR in the second":            {second(func(s []byte) { s[atFlags] |= flagCWR }), []int{1, 2}},
		"a header of another length":   {second(func(s []byte) { s[atOffset] = 0x60 }), []int{1, 1, 1}},
		"acknowledgements alone":       {three(func(_ int, s []byte) []byte { return s[:minSegment] }), []int{1, 1, 1}},
		"the last has none but header": {append(base(0), base(1)[:minSegment]...), []int{1, 1}},
	} {
		b := dgram.Burst{Buf: c.b, Size: min(len(c.b)/len(c.want), minSegment+size)}
		if name == "the last has none but header" {
			b.Size = minSegment + size
		}
		all, bad := joined(t, b, a4, b4)
		if bad != 0 {
			t.Errorf("%s: %d were no segments", name, bad)
		}
		var got []int
		for _, r := range all {
			n := 1
			if r.head.kind != vnetPlain {
				n = (len(r.segment) - headerSize(r.segment) + int(r.head.size) - 1) / int(r.head.size)
			}
			got = append(got, n)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: packets of %v segments, want %v", name, got, c.want)
		}
	}
}

// Whatever the kernel hands over comes out on the other side as it went in, but
// for the addresses.
func TestCutAndJoinedAgain(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		ways := [][2]netip.Addr{{a4, b4}, {a6, b6}}
		way := ways[rnd.IntN(2)]
		size := 1 + rnd.IntN(9000)
		options := make([]byte, rnd.IntN(11)*4)
		for i := range options {
			options[i] = byte(rnd.Uint32())
		}
		payload := pattern(1 + rnd.IntN(min(65000, size*200)))
		flags := byte(flagACK) | byte(rnd.IntN(2)*flagPSH) | byte(rnd.IntN(2)*flagFIN) | byte(rnd.IntN(2)*flagCWR) | byte(rnd.IntN(2)*flagECE)
		p, h := super(way[0], way[1], flags, size, options, payload)
		var got []byte
		var all []received
		why := new(cutter).cut(p, h, func(segments []byte, size int) {
			b := dgram.Burst{Buf: segments, Size: size}
			for s := range b.All() {
				if !checksumIsRight(s, way[0], way[1]) {
					t.Errorf("a wrong checksum: %x", s[:minSegment])
				}
			}
			packets, bad := joined(t, b, way[1], way[0])
			if bad != 0 {
				t.Errorf("%d were no segments", bad)
			}
			all = append(all, packets...)
		})
		if why != Carried {
			t.Fatal(why)
		}
		for i, r := range all {
			head := headerSize(r.segment)
			want := flags
			if i > 0 {
				want &^= flagCWR
			}
			if i < len(all)-1 {
				want &^= flagPSH | flagFIN
			}
			if r.segment[atFlags] != want || !bytes.Equal(r.segment[minSegment:head], options) {
				t.Errorf("packet %d of %d has flags %#x, want %#x, options %x", i, len(all), r.segment[atFlags], want, r.segment[minSegment:head])
			}
			if seq := binary.BigEndian.Uint32(r.segment[atSeq:]); seq-0xffffff00 != uint32(len(got)) {
				t.Errorf("packet %d has number %d", i, seq)
			}
			got = append(got, r.segment[head:]...)
		}
		if !bytes.Equal(got, payload) {
			t.Fatalf("%d bytes of %d came, or others", len(got), len(payload))
		}
	}
}

// Who sends more than crosses is told by ICMP, in a form that the kernel takes.
func TestTooBigIsTold(t *testing.T) {
	for _, way := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		raw := ip(way[0], way[1], protocolTCP, tcp(way[0], way[1], 77, flagACK, nil, pattern(1500)))
		p, _ := parse(raw)
		b := appendTooBig(nil, p, raw, 1400)
		size := ipSize(way[0])
		body := b[size:]
		switch {
		case way[0].Is4():
			if slowSum(b[:size]) != 0xffff || slowSum(body) != 0xffff || len(b) != most4 {
				t.Errorf("%d bytes with wrong checksums: %x", len(b), b[:size+8])
			}
			if b[9] != protocolICMP || body[0] != 3 || body[1] != 4 || binary.BigEndian.Uint16(body[6:]) != 1400 {
				t.Errorf("is %x", b[:size+8])
			}
		default:
			if slowSum(slowPseudo(way[1], way[0], protocolICMPv6, len(body)), body) != 0xffff || len(b) != most6 {
				t.Errorf("%d bytes with a wrong checksum", len(b))
			}
			if b[6] != protocolICMPv6 || body[0] != 2 || body[1] != 0 || binary.BigEndian.Uint32(body[4:]) != 1400 {
				t.Errorf("is %x", b[:size+8])
			}
		}
		if !bytes.Equal(body[icmpSize:], raw[:len(body)-icmpSize]) {
			t.Error("quotes something else")
		}
	}
}
