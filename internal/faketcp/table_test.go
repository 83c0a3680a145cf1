package faketcp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"rendezvous/internal/dgram"
)

// bench is a table under test, and a clock.
type bench struct {
	*testing.T
	*table
	now time.Duration
}

func newBench(t *testing.T, o Options) *bench {
	return &bench{t, newTable(o, 443), time.Second}
}

// give hands a segment with n bytes to the table and returns what it sends.
func (b *bench) give(s segment, n int) []outgoing {
	b.Helper()
	if s.local == (netip.AddrPort{}) {
		s.local = rightAddr
	}
	b.receive(b.now, &s, n, 1)
	b.settle(b.now)
	out := b.out
	b.out = nil
	return out
}

// syn is a stranger's.
func strangerSYN(a netip.AddrPort, seq uint32) segment {
	return segment{remote: a, seq: seq, flags: flagSYN, window: 0xFFFE, options: synOptions(1360)}
}

// A SYN flood leaves no state, is answered at a bounded rate, and no answer is
// larger than its question.
func TestFloodOfSYNs(t *testing.T) {
	b := newBench(t, Options{})
	answered := 0
	for i := range 20000 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 9, byte(i >> 8), byte(i)}), 1000)
		s := strangerSYN(a, uint32(i))
		if i%2 == 0 {
			s.options = nil
		}
		for _, o := range b.give(s, 0) {
			answered++
			if len(o.options) > len(s.options) || len(o.body) > 0 || o.flags != flagSYN|flagACK || o.ack != s.seq+1 {
				t.Fatalf("%+v", o)
			}
		}
		b.now += 10 * time.Microsecond
	}
	if len(b.flows) != 0 || answered > 1000+5000/5 || b.counts.Limited == 0 {
		t.Errorf("%d flows, %d answers, %+v", len(b.flows), answered, b.counts)
	}
}

// Storms of everything but a genuine handshake leave no state and draw no
// answer.
func TestStormsOfStrangers(t *testing.T) {
	b := newBench(t, Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	for range 50000 {
		s := segment{remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 9, 9, byte(rng.Uint32())}), 1), seq: rng.Uint32(), ack: rng.Uint32(),
			flags: []uint8{flagACK, flagACK | flagPSH, flagRST, flagFIN | flagACK, flagSYN | flagACK, flagACK | flagURG, 0, flagSYN | flagFIN}[rng.IntN(8)]}
		if out := b.give(s, rng.IntN(100)); len(out) != 0 {
			t.Fatalf("answered %+v with %+v", s, out)
		}
	}
	c := b.counts
	if len(b.flows) != 0 || c.Stranger == 0 || c.Fin == 0 || c.Malformed == 0 || c.Accepted != 0 {
		t.Errorf("%d flows, %+v", len(b.flows), c)
	}
}

// The cookie makes state when it comes back: with a bare ACK, or with data when
// that was lost; for two minutes at most, and to its address only.
func TestCookies(t *testing.T) {
	for _, test := range []struct {
		name  string
		after time.Duration
		data  int
		from  netip.AddrPort
		ok    bool
	}{
		{"ACK", time.Millisecond, 0, leftAddr, true},
		{"data", time.Millisecond, 500, leftAddr, true},
		{"late", cookieSlot, 0, leftAddr, true},
		{"too late", 2 * cookieSlot, 0, leftAddr, false},
		{"from elsewhere", time.Millisecond, 0, netip.MustParseAddrPort("198.51.100.2:40002"), false},
	} {
		b := newBench(t, Options{})
		out := b.give(strangerSYN(leftAddr, 99), 0)
		again := b.give(strangerSYN(leftAddr, 99), 0)
		if len(out) != 1 || len(again) != 1 || out[0].seq != again[0].seq || len(b.flows) != 0 {
			t.Fatalf("%s: %+v, then %+v", test.name, out, again)
		}
		b.now += test.after
		b.give(segment{remote: test.from, seq: 100, ack: out[0].seq + 1, flags: flagACK}, test.data)
		if got := len(b.flows) == 1; got != test.ok {
			t.Errorf("%s: %v, %+v", test.name, got, b.counts)
		}
	}
}

// An Open begins with the number that a SYN of the peer's would have been
// answered with before: a box on the way sees one beginning only.
func TestOpenTakesTheCookiesNumber(t *testing.T) {
	b := newBench(t, Options{})
	out := b.give(strangerSYN(leftAddr, 99), 0)
	f, err := b.opening(b.now, leftAddr, 0)
	if err != nil || f.iss != out[0].seq {
		t.Errorf("%d, and before %d; %v", f.iss, out[0].seq, err)
	}
}

// Numbers are different for each address, and not those of another run.
func TestNumbersAreRandom(t *testing.T) {
	seen := make(map[uint32]bool)
	for range 10 {
		c := newCookies(443)
		for port := range uint16(1000) {
			seen[c.mint(time.Second, netip.AddrPortFrom(leftAddr.Addr(), port), sawMask)] = true
		}
	}
	if len(seen) < 9990 {
		t.Errorf("%d different of 10000", len(seen))
	}
}

// Shows S0-22, and the bounds of the table: idle flows make room, those in use
// don't.
func TestBoundsOfTheTable(t *testing.T) {
	b := newBench(t, Options{MaxRemotes: 50, PerPeer: 10})
	join := func(i int) bool {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 9, 9, byte(i / 10)}), uint16(1000+i))
		out := b.give(strangerSYN(a, 1), 0)
		before := b.counts.Accepted
		b.give(segment{remote: a, seq: 2, ack: out[0].seq + 1, flags: flagACK}, 0)
		return b.counts.Accepted > before
	}
	for i := range 50 {
		if !join(i) {
			t.Fatalf("flow %d was refused", i)
		}
	}
	if join(51) || b.counts.Full != 1 {
		t.Errorf("a flow more than there is room for: %+v", b.counts)
	}
	b.now += time.Minute
	if !join(52) || len(b.flows) != 50 || b.counts.Evicted != 1 {
		t.Errorf("an idle flow made no room: %+v", b.counts)
	}
	b = newBench(t, Options{PerPeer: 10})
	for i := range 10 {
		join(i)
	}
	a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 9, 9, 0}), 5)
	out := b.give(strangerSYN(a, 1), 0)
	b.give(segment{remote: a, seq: 2, ack: out[0].seq + 1, flags: flagACK}, 0)
	if len(b.flows) != 10 || b.counts.PerPeer != 1 {
		t.Errorf("%d flows with one address: %+v", len(b.flows), b.counts)
	}
	b.now += time.Hour
	b.sweep(b.now)
	if len(b.flows) != 0 || len(b.perAddr) != 0 {
		t.Errorf("%d idle flows are kept", len(b.flows))
	}
}

// Shows S0-03 and S0-07: a flow is of a constant size, and acknowledges the
// highest byte that came, whatever is missing, and never less. One segment far
// away moves nothing, several do.
func TestFlowIsSmallAndAcknowledgesTheHighest(t *testing.T) {
	if n := unsafe.Sizeof(flow{}); n > 400 {
		t.Errorf("a flow has %d bytes", n)
	}
	b := newBench(t, Options{})
	out := b.give(strangerSYN(leftAddr, 99), 0)
	b.give(segment{remote: leftAddr, seq: 100, ack: out[0].seq + 1, flags: flagACK}, 0)
	f := b.flows[leftAddr]
	for _, step := range []struct {
		seq  uint32
		n    int
		want uint32
	}{
		{100, 1000, 1100}, {5100, 1000, 6100}, {2100, 1000, 6100}, {100, 1000, 6100}, {1 << 31, 10, 6100}, {6100, 1, 6101},
		{9 << 20, 10, 6101}, {6101, 1, 6102}, {9 << 20, 10, 6102}, {9<<20 + 10, 10, 6102}, {9<<20 + 20, 10, 6102}, {9<<20 + 30, 10, 9<<20 + 40},
	} {
		b.give(segment{remote: leftAddr, seq: step.seq, ack: 0, flags: flagACK | flagPSH}, step.n)
		var s segment
		b.write(b.now, f, dgram.One(leftAddr, []byte("x")), &s)
		if s.ack != step.want {
			t.Errorf("after %d+%d: ACK %d, not %d", step.seq, step.n, s.ack, step.want)
		}
	}
	if b.counts.Far != 6 {
		t.Errorf("%+v", b.counts)
	}
}

// Shows S0-06, S0-11, S0-05 and S0-23: what an Open sends, as time goes by.
func TestSYNsOfAnOpen(t *testing.T) {
	b := newBench(t, Options{Window: 0xFE10, MSS: 1300})
	f, err := b.opening(b.now, leftAddr, 0)
	if err != nil {
		t.Fatal(err)
	}
	began := b.now
	var at []time.Duration
	for b.now-began < 5*time.Second {
		wait := b.handshake(b.now, f)
		for _, o := range b.out {
			at = append(at, b.now-began)
			if o.flags != flagSYN || o.seq != f.iss || o.window != 0xFE10 || string(o.options) != "\x02\x04\x05\x14\x01\x03\x03\x0e\x01\x01\x04\x02" {
				t.Fatalf("%+v", o)
			}
		}
		b.out = nil
		b.now += wait
	}
	if len(at) < 45 || len(at) > 48 || at[1] != 20*time.Millisecond || at[16] != 400*time.Millisecond {
		t.Errorf("%d SYNs at %v", len(at), at)
	}
	if f.nxt != f.iss {
		t.Error("numbers moved before the handshake's end")
	}
	out := b.give(segment{remote: leftAddr, seq: 77, ack: f.iss + 1, flags: flagSYN | flagACK, options: synOptions(1200), window: 0xFE00}, 0)
	if len(out) != 1 || out[0].flags != flagACK || out[0].seq != f.iss+1 || out[0].ack != 78 || f.mss != 1200 {
		t.Errorf("%+v", out)
	}
	var s segment
	b.write(b.now, f, dgram.Burst{Buf: make([]byte, 250), Size: 100}, &s)
	if s.seq != f.iss+1 || f.nxt != f.iss+251 || s.flags != flagACK|flagPSH || s.window != 0xFE10 {
		t.Errorf("%+v, next %d", s, f.nxt-f.iss)
	}
}

// Windows are drawn from the whole range by which they are known.
func TestWindowsVary(t *testing.T) {
	seen := make(map[uint16]bool)
	for range 2000 {
		w := DefaultOptions().window()
		if w < leastWindow || w > mostWindow {
			t.Fatalf("window %#x", w)
		}
		seen[w] = true
	}
	if len(seen) < 400 {
		t.Errorf("%d different windows", len(seen))
	}
	for _, o := range []Options{{Window: 5}, {Window: 0xFFFF}, {MSS: 100}, {MaxRemotes: -1}} {
		if o.Check() == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// FuzzTable hands segments to a table in all states of its flows: what a fuzzer
// makes of the bytes, but with numbers that are often right.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 2, 0, 0, 1, 16, 1, 0, 1, 24, 1, 9})
	f.Add([]byte{3, 0, 0, 0, 3, 18, 1, 0, 3, 4, 0, 0, 3, 24, 1, 200, 4, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		tab := newTable(Options{MaxRemotes: 4, PerPeer: 3}, 443)
		now := time.Second
		var last [8]outgoing
		for len(in) >= 4 {
			who, flags, how, n := in[0]%8, in[1], in[2], int(in[3])
			in = in[4:]
			a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 9, 9, who / 4}), uint16(who)+1)
			now += time.Duration(n) * time.Millisecond << (how % 16)
			s := segment{local: rightAddr, remote: a, seq: uint32(how), ack: last[who].seq + 1, flags: flags & 0x3f, window: 0xFE00, options: synOptions(1300)}
			if how&0x80 != 0 && len(in) >= 8 {
				s.seq, s.ack, s.options = binary.BigEndian.Uint32(in), binary.BigEndian.Uint32(in[4:]), in[:min(len(in), n%41)]
			}
			before := len(tab.flows)
			switch {
			case flags == 0xC0:
				if fl, err := tab.opening(now, a, 0); err == nil {
					fl.hs.waiters++
					tab.handshake(now, fl)
					fl.hs.waiters--
				}
			case flags == 0xC1:
				tab.sweep(now)
			default:
				fl := tab.receive(now, &s, n, 1)
				if s.flags&(flagSYN|flagRST|flagFIN) != 0 && (fl != nil || len(tab.flows) > before) {
					t.Fatalf("%+v made a flow or was read", s)
				}
				if fl != nil && fl.state != established {
					t.Fatalf("data in state %d", fl.state)
				}
				if len(tab.out) > 1 {
					t.Fatalf("%d answers", len(tab.out))
				}
				tab.settle(now)
			}
			for _, o := range tab.out {
				if o.flags&flagRST != 0 || o.flags&flagACK == 0 && o.flags != flagSYN {
					t.Fatalf("sent %+v", o)
				}
				if o.remote == a {
					last[who] = o
				}
			}
			tab.out = tab.out[:0]
			if len(tab.flows) > 4 {
				t.Fatalf("%d flows", len(tab.flows))
			}
		}
	})
}

// FuzzCheck: any bytes are read or not, and what is read is written the same.
func FuzzCheck(f *testing.F) {
	m := message{kind: kindAsk, length: checkSize, nonce: 7, number: 3, flags: flagKnows, came: 9, sent: fields{1, 2, 3}, saw: fields{4, 5, 6}, look: 3, itsISN: 8, itsMSS: 9, ownISN: 10, ownMSS: 11}
	b := make([]byte, checkSize)
	m.put(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		if !isCheck(in) {
			return
		}
		var m, again message
		m.parse(in)
		out := make([]byte, len(in))
		m.put(out)
		again.parse(out)
		if again != m {
			t.Fatalf("%+v, then %+v", m, again)
		}
	})
}

// A check's datagram, byte by byte.
func TestCheckBytes(t *testing.T) {
	m := message{kind: kindAnswer, number: 2, flags: flagKnows, length: checkSize, came: 600, nonce: 0x0102030405060708,
		sent: fields{0x11121314, 0x21222324, 0xfe01}, ownMSS: 1360, saw: fields{0x31323334, 0x41424344, 0xfe02}, look: 3, itsMSS: 1300,
		itsISN: 0x51525354, ownISN: 0x61626364}
	b := make([]byte, checkSize)
	m.put(b)
	want := "8602003872647663" + "0102030405060708" + "02020258" + "11121314" + "21222324" + "fe010550" + "31323334" + "41424344" + "fe020300" +
		"05140000" + "51525354" + "61626364"
	if got := hexOf(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s []byte
	for _, c := range b {
		s = append(s, digits[c>>4], digits[c&15])
	}
	return string(s)
}
