package dgram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// kinds are the sockets that every test here runs over.
var kinds = []struct {
	name string
	opts Options
}{
	{"offload", Options{Offload: true}},
	{"one-by-one", Options{}},
	{"portable", Options{Offload: true, Portable: true}},
}

// loopbacks are the families' own.
var loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// onEach runs test over each kind of socket and each family.
func onEach(t *testing.T, test func(t *testing.T, net Network, at netip.Addr)) {
	for _, k := range kinds {
		for _, at := range loopbacks {
			t.Run(fmt.Sprintf("%s/%v", k.name, at), func(t *testing.T) { test(t, System(k.opts), at) })
		}
	}
}

func listen(t testing.TB, network Network, at netip.Addr) Conn {
	t.Helper()
	conn, err := network.ListenUDP(netip.AddrPortFrom(at, 0))
	if err != nil {
		t.Skip("no socket on", at, err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, ok := t.(*testing.T); ok { // a benchmark may take longer
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

// collect reads until n datagrams have come, and checks that each burst is
// one as its doc comment says.
func collect(t *testing.T, conn Conn, from netip.AddrPort, n int) [][]byte {
	t.Helper()
	var arena Arena
	defer arena.Release()
	var got [][]byte
	for len(got) < n {
		bursts, err := conn.Read(&arena)
		if err != nil {
			t.Fatalf("after %d of %d datagrams: %v", len(got), n, err)
		}
		if len(bursts) == 0 {
			t.Fatal("a read brought no burst and no error")
		}
		for _, b := range bursts {
			if b.Addr != from {
				t.Fatalf("a burst from %v, want %v", b.Addr, from)
			}
			if b.Len() == 1 && b.Size != len(b.Buf) {
				t.Fatalf("one datagram of %d bytes has Size %d", len(b.Buf), b.Size)
			}
			for d := range b.All() {
				got = append(got, bytes.Clone(d))
			}
		}
	}
	return got
}

// numbered is a datagram of n bytes that tells its number and size.
func numbered(i, n int) []byte {
	d := bytes.Repeat([]byte{byte(i)}, n)
	if n >= 4 {
		binary.BigEndian.PutUint32(d, uint32(i))
	}
	return d
}

// same checks what came against numbered datagrams of these sizes.
func same(t *testing.T, got [][]byte, sizes []int) {
	t.Helper()
	for i, n := range sizes {
		if !bytes.Equal(got[i], numbered(i, n)) {
			t.Fatalf("datagram %d: %d bytes that begin %x, want %d that begin %x", i, len(got[i]), head(got[i]), n, head(numbered(i, n)))
		}
	}
	if len(got) > len(sizes) {
		t.Fatalf("%d datagrams too many", len(got)-len(sizes))
	}
}

// largest is the longest datagram that the loopback takes in one piece: its MTU
// is 65,536, and IPv4's length field ends before it.
func largest(at netip.Addr) int {
	if at.Is6() {
		return 65536 - 40 - 8
	}
	return MaxBytes
}

func head(b []byte) []byte { return b[:min(8, len(b))] }

// burstOf lays numbered datagrams of size bytes end to end, the last of which
// is shorter.
func burstOf(to netip.AddrPort, n, size, last int) (Burst, []int) {
	b := Burst{Addr: to, Size: size}
	var sizes []int
	for i := range n {
		if i == n-1 {
			size = last
		}
		sizes = append(sizes, size)
		b.Buf = append(b.Buf, numbered(i, size)...)
	}
	return b, sizes
}

func TestBurstsArriveWholeAndInOrder(t *testing.T) {
	shapes := []struct{ n, size, last int }{
		{1, 1, 1}, {2, 1400, 1400}, {2, 1400, 1}, {16, 1400, 700}, {64, 1000, 1000}, {64, 1, 1},
		{65, 100, 100},     // one more than a send takes
		{200, 37, 5},       // several sends
		{46, 1452, 1},      // just under the bytes of a send
		{64, 1452, 1452},   // over them: two sends
		{3, 32000, 31000},  // a send takes two of these
		{23, 2848, 2848},   // 65,504 bytes: past the loopback's MTU with its headers
		{129, 512, 512},    // the last send is a single datagram
		{2, 40000, 40000},  // only one fits a send
		{64, 1023, 1023},   // 65,472 bytes
		{20, 9000 - 48, 1}, // jumbo frames
	}
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		in, out := listen(t, network, at), listen(t, network, at)
		for _, s := range shapes {
			b, sizes := burstOf(in.LocalAddr(), s.n, s.size, s.last)
			before := bytes.Clone(b.Buf)
			if err := out.Write(b); err != nil {
				t.Fatalf("write %d of %d: %v", s.n, s.size, err)
			}
			if !bytes.Equal(before, b.Buf) {
				t.Fatal("write changed its input")
			}
			same(t, collect(t, in, out.LocalAddr(), s.n), sizes)
		}
	})
}

func TestEverySizeSurvives(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		in, out := listen(t, network, at), listen(t, network, at)
		var sizes []int
		for n := 0; n < 3000; n += 7 {
			sizes = append(sizes, n)
		}
		sizes = append(sizes, 4095, 4096, 4097, largest(at)-1, largest(at), 0, 0, 1, 0, 1400, 1400, 1401, 1399, largest(at), 0)
		var got [][]byte
		for i, n := range sizes {
			if err := out.Write(One(in.LocalAddr(), numbered(i, n))); err != nil {
				t.Fatalf("write %d bytes: %v", n, err)
			}
			if i%32 == 31 || i == len(sizes)-1 {
				got = append(got, collect(t, in, out.LocalAddr(), i+1-len(got))...)
			}
		}
		same(t, got, sizes)
	})
}

// Datagrams that fall into one visit in every mixture of sizes: the reader
// guesses where to put them.
func TestMixturesOfSizesKeepTheirBoundaries(t *testing.T) {
	mixtures := [][]int{
		{100, 100, 100, 100}, {100, 100, 40, 100, 100}, {100, 40, 40, 40, 100}, {40, 100, 40, 100},
		{1400, 100, 1400, 100, 1400}, {0, 100, 0, 100, 100, 0}, {100, 5000, 100, 100, 5000, 5000, 65000, 100},
		{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {4096, 4096, 4096}, {4097, 4097, 4097, 3},
		{9000, 9000, 9000, 9000, 9000, 9000, 9000, 9000, 9000, 9000}, {1200, 1300, 1400, 1400, 1300, 1200},
	}
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		in, out := listen(t, network, at), listen(t, network, at)
		// Some before each: the guess is that of the mixture before.
		for _, first := range mixtures[4:8] {
			for _, second := range mixtures {
				for _, sizes := range [][]int{first, second} {
					for i, n := range sizes {
						if err := out.Write(One(in.LocalAddr(), numbered(i, n))); err != nil {
							t.Fatal(err)
						}
					}
					same(t, collect(t, in, out.LocalAddr(), len(sizes)), sizes)
				}
			}
		}
	})
}

func TestCloseEndsAReadThatWaits(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		conn := listen(t, network, at)
		ended := make(chan error)
		go func() {
			var arena Arena
			_, err := conn.Read(&arena)
			ended <- err
		}()
		conn.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Read: %v, want net.ErrClosed", err)
		}
		if err := conn.Write(One(conn.LocalAddr(), []byte("x"))); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Write: %v, want net.ErrClosed", err)
		}
	})
}

func TestReadDeadline(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		conn := listen(t, network, at)
		var arena Arena
		conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := conn.Read(&arena); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if err := conn.Write(One(conn.LocalAddr(), []byte("x"))); err != nil {
			t.Fatal(err)
		}
		collect(t, conn, conn.LocalAddr(), 1)
	})
}

func TestDatagramLargerThanAnyPathIsTooLarge(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		conn := listen(t, network, at)
		err := conn.Write(One(conn.LocalAddr(), make([]byte, 65536)))
		if !IsTooLarge(err) {
			t.Fatalf("got %v, want one that IsTooLarge", err)
		}
		if n := conn.(StatsReader).Stats().TooLarge; n != 1 {
			t.Errorf("counted %d too large, want 1", n)
		}
	})
}

func TestBurstOfDatagramsLargerThanAnyPathIsTooLarge(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		conn := listen(t, network, at)
		err := conn.Write(Burst{Addr: conn.LocalAddr(), Buf: make([]byte, 3*65600), Size: 65600})
		if !IsTooLarge(err) {
			t.Fatalf("got %v, want one that IsTooLarge", err)
		}
		if n := conn.(StatsReader).Stats().TooLarge; n != 3 {
			t.Errorf("counted %d too large, want 3", n)
		}
	})
}

func TestManyWriteAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		in, out := listen(t, network, at), listen(t, network, at)
		const writers, rounds = 8, 10
		var wait sync.WaitGroup
		for w := range writers {
			wait.Go(func() {
				for i := range rounds {
					b, _ := burstOf(in.LocalAddr(), 3, 500, 500)
					for j := range b.Buf {
						b.Buf[j] = byte(w)
					}
					err := out.Write(b)
					if i%2 == 1 {
						err = out.(TTLWriter).WriteTTL(b, 9)
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		var seen [writers]int
		n := 3 * writers * (rounds + rounds/2) // WriteTTL comes on top in every second round
		for _, d := range collect(t, in, out.LocalAddr(), n) {
			if !bytes.Equal(d, bytes.Repeat(d[:1], 500)) {
				t.Fatal("a datagram of two writers")
			}
			seen[d[0]]++
		}
		wait.Wait()
		for w, got := range seen {
			if got != n/writers {
				t.Errorf("writer %d: %d datagrams came, want %d", w, got, n/writers)
			}
		}
	})
}

// A writer that was kept from the processor for longer than it would wait for
// room has not waited for room.
func TestBusyHostLosesNothing(t *testing.T) {
	conn := listen(t, System(Options{Portable: true}), loopbacks[0]).(*portable)
	if err := conn.sock.SetWriteDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := conn.send(conn.LocalAddr(), numbered(0, 10)); err != nil {
		t.Fatal(err)
	}
	same(t, collect(t, conn, conn.LocalAddr(), 1), []int{10})
}

func TestWrongFamilyIsAnError(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		conn := listen(t, network, at)
		to := netip.MustParseAddrPort("[2001:db8::1]:9")
		if at.Is6() {
			to = netip.MustParseAddrPort("192.0.2.1:9")
		}
		if err := conn.Write(One(to, []byte("x"))); err == nil {
			t.Fatal("no error")
		}
		if n := conn.(StatsReader).Stats().Failed; n != 1 {
			t.Errorf("counted %d failed, want 1", n)
		}
	})
}

// An IPv4 address may come dressed as an IPv6 one; those read never do.
func TestMappedAddressesAreIPv4(t *testing.T) {
	for _, k := range kinds {
		network := System(k.opts)
		in, out := listen(t, network, loopbacks[0]), listen(t, network, loopbacks[0])
		to := netip.AddrPortFrom(netip.AddrFrom16(in.LocalAddr().Addr().As16()), in.LocalAddr().Port())
		if err := out.Write(One(to, []byte("x"))); err != nil {
			t.Fatal(k.name, err)
		}
		collect(t, in, out.LocalAddr(), 1)
	}
}

// IPv6 sockets are IPv6 alone, so that one of each family fits a port.
func TestBothFamiliesShareAPort(t *testing.T) {
	for _, k := range kinds {
		network := System(k.opts)
		six := listen(t, network, netip.IPv6Unspecified())
		four, err := network.ListenUDP(netip.AddrPortFrom(netip.IPv4Unspecified(), six.LocalAddr().Port()))
		if err != nil {
			t.Fatal(k.name, err)
		}
		four.Close()
	}
}

func TestListenErrorsNameTheAddress(t *testing.T) {
	network := System(Options{})
	if _, err := network.ListenUDP(netip.AddrPort{}); err == nil {
		t.Error("no error for no address")
	}
	conn := listen(t, network, loopbacks[0])
	_, err := network.ListenUDP(conn.LocalAddr())
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte(conn.LocalAddr().String())) {
		t.Errorf("port in use: %v; want an error that names %v", err, conn.LocalAddr())
	}
}

func TestAddrsHaveTheLoopback(t *testing.T) {
	addrs, err := System(Options{}).Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.Addr == netip.MustParsePrefix("127.0.0.1/8") && a.Interface != "" && a.Up {
			return
		}
	}
	t.Errorf("no 127.0.0.1/8 in %v", addrs)
}

func TestEnvironmentTurnsOffloadOff(t *testing.T) {
	t.Setenv(EnvNoOffload, "1")
	if System(Options{Offload: true}).(system).opts.Offload {
		t.Error("offload is still on")
	}
}
