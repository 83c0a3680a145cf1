//go:build !mips && !mips64 && !ppc64 && !s390x

package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"rendezvous/internal/checksum"
	"rendezvous/proto"
)

// opened is the program in the kernel. Without the privilege the test is skipped,
// but where CI=true.
func opened(t testing.TB) *Kernel {
	t.Helper()
	k, err := Open()
	if errors.Is(err, ErrPrivilege) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// What the program says: TCX_NEXT, and TC_ACT_REDIRECT.
const (
	passedOn   = 1<<32 - 1
	redirected = 7
)

var (
	peerAt, ownAt      = netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.168.2.2:50000")
	socketAt, clientAt = netip.MustParseAddrPort("127.0.0.1:9001"), netip.MustParseAddrPort("127.0.0.1:33333")
	token              = proto.Token{1, 2, 3, 4, 5, 6, 7, 8}
)

// frame is an Ethernet frame with a datagram.
func frame(from, to netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 42, 42+len(payload))
	b[12], b[13] = 8, 0
	ip := b[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	binary.BigEndian.PutUint16(ip[4:], 77)
	s, d := from.Addr().As4(), to.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Fold(checksum.Sum(0, ip)))
	udp := b[34:42]
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[40:], sumUDP(b))
	return b
}

// sumUDP is 0 where the datagram's checksum is right.
func sumUDP(b []byte) uint16 {
	from, _ := netip.AddrFromSlice(b[26:30])
	to, _ := netip.AddrFromSlice(b[30:34])
	return ^checksum.Fold(checksum.Sum(checksum.Pseudo(from, to, 17, len(b)-34), b[34:]))
}

// tabled has a flow in the kernel's table, for the interface that frames of a test
// run come by: loopback, which is the first one.
func tabled(t testing.TB) *Kernel {
	t.Helper()
	k := opened(t)
	put := func(from, to, asFrom, asTo netip.AddrPort, d flowDeparture) {
		d.As, d.Interface, d.Token = addressesOf(asFrom, asTo), 1, token
		if err := k.objects.Flows.Put(flowArrival{Of: addressesOf(from, to), Interface: 1}, d); err != nil {
			t.Fatal(err)
		}
	}
	put(peerAt, ownAt, socketAt, clientAt, flowDeparture{Largest: 1 << 16, Probed: 1})
	put(clientAt, socketAt, ownAt, peerAt, flowDeparture{Largest: 1200})
	return k
}

// context is the part of struct __sk_buff that a test run may set: gso_size is at
// byte 176.
type context [192]byte

func run(t *testing.T, k *Kernel, in []byte, segment int) (verdict uint32, out []byte) {
	t.Helper()
	var ctx context
	binary.NativeEndian.PutUint32(ctx[176:], uint32(segment))
	out = make([]byte, len(in)+64)
	o := &ebpf.RunOptions{Data: in, DataOut: out, Context: ctx}
	verdict, err := k.objects.Forward.Run(o)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, o.DataOut
}

func probe(size int, to proto.Token) []byte {
	b := proto.AppendProbeHeader(nil, proto.ProbeHeader{Token: to, Counter: 9})
	return append(b, make([]byte, max(0, size-len(b)))...)
}

func TestProgramTellsWhatIsTheAgents(t *testing.T) {
	k := tabled(t)
	data := bytes.Repeat([]byte("data"), 50)
	behind := append(bytes.Repeat(data, 3), probe(proto.ProbeSize, token)...)
	odd := frame(peerAt, ownAt, data)
	odd[20] |= 0x20 // more fragments
	options := frame(peerAt, ownAt, data)
	options[14] = 0x46
	short := frame(peerAt, ownAt, data)
	for name, c := range map[string]struct {
		in      []byte
		segment int
		want    uint32
	}{
		"the peer's data":                        {frame(peerAt, ownAt, data), 0, redirected},
		"the client's data":                      {frame(clientAt, socketAt, data), 0, redirected},
		"an empty datagram":                      {frame(peerAt, ownAt, nil), 0, redirected},
		"a burst":                                {frame(peerAt, ownAt, bytes.Repeat(data, 16)), len(data), redirected},
		"a probe":                                {frame(peerAt, ownAt, probe(proto.ProbeSize, token)), 0, passedOn},
		"a probe with padding":                   {frame(peerAt, ownAt, probe(1472, token)), 0, passedOn},
		"what is too short for a probe":          {frame(peerAt, ownAt, probe(proto.ProbeSize-1, token)), 0, redirected},
		"another's probe":                        {frame(peerAt, ownAt, probe(proto.ProbeSize, proto.Token{8})), 0, redirected},
		"what looks like a probe, of the client": {frame(clientAt, socketAt, probe(proto.ProbeSize, token)), 0, redirected},
		"a probe behind a burst":                 {frame(peerAt, ownAt, behind), len(data), passedOn},
		"the largest that crosses":               {frame(clientAt, socketAt, make([]byte, 1200)), 0, redirected},
		"what is larger":                         {frame(clientAt, socketAt, make([]byte, 1201)), 0, passedOn},
		"a burst of larger ones":                 {frame(clientAt, socketAt, make([]byte, 2*1300)), 1300, passedOn},
		"another source":                         {frame(netip.MustParseAddrPort("198.51.100.7:40001"), ownAt, data), 0, passedOn},
		"another port":                           {frame(peerAt, netip.MustParseAddrPort("192.168.2.2:50001"), data), 0, passedOn},
		"a fragment":                             {odd, 0, passedOn},
		"options":                                {options, 0, passedOn},
		"less than it says":                      {short[:len(short)-1], 0, passedOn},
		"another protocol":                       {append(bytes.Clone(odd[:12]), 0x86, 0xdd, 0x60), 0, passedOn},
	} {
		t.Run(name, func(t *testing.T) {
			if len(c.in) < 60 && c.want == passedOn {
				c.in = append(c.in, make([]byte, 60-len(c.in))...)
			}
			if got, _ := run(t, k, c.in, c.segment); got != c.want {
				t.Errorf("verdict %d, want %d", int32(got), int32(c.want))
			}
		})
	}
}

func TestProgramReaddresses(t *testing.T) {
	k := tabled(t)
	for name, c := range map[string]struct{ from, to, asFrom, asTo netip.AddrPort }{
		"in":  {peerAt, ownAt, socketAt, clientAt},
		"out": {clientAt, socketAt, ownAt, peerAt},
	} {
		t.Run(name, func(t *testing.T) {
			for size := range 70 { // every remainder, and sums that are odd
				payload := bytes.Repeat([]byte{byte(size), 0xff}, size)
				verdict, got := run(t, k, frame(c.from, c.to, payload), 0)
				want := frame(c.asFrom, c.asTo, payload)
				want[20], want[24], want[25] = 0x40, 0, 0 // don't fragment
				binary.BigEndian.PutUint16(want[24:], ^checksum.Fold(checksum.Sum(0, want[14:34])))
				if verdict != redirected || !bytes.Equal(got, want) {
					t.Fatalf("size %d: verdict %d\n got %x\nwant %x", len(payload), verdict, got, want)
				}
			}
		})
	}
	none := frame(peerAt, ownAt, []byte("without a checksum"))
	none[40], none[41] = 0, 0
	if _, got := run(t, k, none, 0); got[40] != 0 || got[41] != 0 {
		t.Errorf("a datagram without a checksum has got %x", got[40:42])
	}
}

func TestProgramCounts(t *testing.T) {
	k := tabled(t)
	data := make([]byte, 1000)
	run(t, k, frame(peerAt, ownAt, data), 0)
	run(t, k, frame(peerAt, ownAt, bytes.Repeat(data[:100], 9)), 100)
	run(t, k, frame(peerAt, ownAt, data[:950]), 100)
	run(t, k, frame(peerAt, ownAt, probe(100, token)), 0)
	run(t, k, frame(peerAt, ownAt, nil), 0)
	var got flowDeparture
	if err := k.objects.Flows.Lookup(flowArrival{Of: addressesOf(peerAt, ownAt), Interface: 1}, &got); err != nil {
		t.Fatal(err)
	}
	if got.Datagrams != 1+9+10+1 || got.Bytes != 1000+900+950 || got.Probes != 1 || got.DatagramsThen != 1+9+10 || got.BytesThen != got.Bytes {
		t.Errorf("%+v", got)
	}
}

// FuzzProgram: whatever comes, the kernel's verifier has said that it does no
// harm; what is not a whole datagram of the flow is passed on.
func FuzzProgram(f *testing.F) {
	f.Add(frame(peerAt, ownAt, []byte("data")), uint16(0))
	f.Add(frame(clientAt, socketAt, make([]byte, 3000)), uint16(1000))
	f.Add(frame(peerAt, ownAt, probe(100, token)), uint16(0))
	k := tabled(f)
	f.Fuzz(func(t *testing.T, in []byte, segment uint16) {
		var ctx context
		binary.NativeEndian.PutUint32(ctx[176:], uint32(segment))
		o := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+64), Context: ctx}
		verdict, err := k.objects.Forward.Run(o)
		out := o.DataOut
		switch {
		case errors.Is(err, unix.EINVAL): // no frame that the kernel would have
		case err != nil:
			t.Error(err)
		case verdict == passedOn && !bytes.Equal(out, in):
			t.Errorf("passed on as another")
		case verdict == passedOn:
		case verdict != redirected || !bytes.Equal(out[42:], in[42:]):
			t.Errorf("verdict %d, or payload was changed", verdict)
		}
	})
}

// BenchmarkProgram is what the kernel does for a datagram, without the redirection.
func BenchmarkProgram(b *testing.B) {
	k := tabled(b)
	o := &ebpf.RunOptions{Data: frame(peerAt, ownAt, make([]byte, 1400)), DataOut: make([]byte, 1600), Repeat: uint32(b.N)}
	b.ResetTimer()
	if _, err := k.objects.Forward.Run(o); err != nil {
		b.Fatal(err)
	}
}

// What the client sends is forwarded once a probe of the peer's came by the way
// that it would take, and for as long as they come.
func TestDetourWaitsForProbes(t *testing.T) {
	k := opened(t)
	d := &Detour{
		k: k, in: flowArrival{Of: addressesOf(peerAt, ownAt), Interface: 1}, out: flowArrival{Of: addressesOf(clientAt, socketAt), Interface: 1},
		there: flowDeparture{As: addressesOf(ownAt, peerAt), Interface: 1},
	}
	if err := d.put(d.in, flowDeparture{As: addressesOf(socketAt, clientAt), Interface: 1, Largest: 1 << 16, Probed: 1, Token: token}); err != nil {
		t.Fatal(err)
	}
	data, ask := frame(clientAt, socketAt, make([]byte, 500)), frame(peerAt, ownAt, probe(100, token))
	want := func(what string, size int, forwards bool) {
		t.Helper()
		got, err := d.Allow(size)
		verdict, _ := run(t, k, data, 0)
		if err != nil || got != forwards || (verdict == redirected) != (forwards && size >= 500) {
			t.Errorf("%s: forwards %v, verdict %d, %v", what, got, int32(verdict), err)
		}
	}
	want("no probe yet", 1200, false)
	run(t, k, ask, 0)
	want("a probe came", 1200, true)
	want("the path takes less", 400, true)
	want("and more again", 1400, true)
	d.heard = d.heard.Add(-2 * silence)
	want("probes come another way", 1400, false)
	run(t, k, ask, 0)
	want("they are back", 1400, true)
	if c := d.Counts(); c.Tx.Datagrams != 3 || c.Tx.Bytes != 1500 {
		t.Errorf("counted %+v, want all three", c)
	}
	other := &Detour{k: k, in: d.out, out: d.out}
	if err := other.put(d.out, d.there); err != nil {
		t.Fatal(err)
	}
	if d.take(d.out); k.of[d.out] != other {
		t.Error("another detour's entry was taken")
	}
	clear(k.of) // nothing is attached that Close could give back
}
