package dgram

import (
	"bytes"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// shape is what a read brought, without the bytes.
type shape struct{ n, size, bytes int }

func shapes(t *testing.T, conn Conn) []shape {
	t.Helper()
	var arena Arena
	defer arena.Release()
	bursts, err := conn.Read(&arena)
	if err != nil {
		t.Fatal(err)
	}
	var all []shape
	for _, b := range bursts {
		all = append(all, shape{b.Len(), b.Size, len(b.Buf)})
	}
	return all
}

func TestABurstArrivesAsOne(t *testing.T) {
	for _, at := range loopbacks {
		network := System(Options{Offload: true})
		in, out := listen(t, network, at), listen(t, network, at)
		if get(t, in, unix.IPPROTO_UDP, unix.UDP_GRO) != 1 {
			t.Skip("this kernel has no UDP_GRO")
		}
		b, _ := burstOf(in.LocalAddr(), 46, 1400, 3)
		if err := out.Write(b); err != nil {
			t.Fatal(err)
		}
		if got := shapes(t, in); len(got) != 1 || got[0] != (shape{46, 1400, 45*1400 + 3}) {
			t.Errorf("read %v, want one burst of 46", got)
		}
	}
}

// What comes one by one is read as a burst too, so that what is behind the
// reader can treat it as one.
func TestSingleDatagramsOfAVisitAreABurst(t *testing.T) {
	for _, offload := range []bool{true, false} {
		network := System(Options{Offload: offload})
		in, out := listen(t, network, loopbacks[0]), listen(t, network, loopbacks[0])
		send := func(sizes ...int) {
			for i, n := range sizes {
				if err := out.Write(One(in.LocalAddr(), numbered(i, n))); err != nil {
					t.Fatal(err)
				}
			}
		}
		send(1400, 1400, 1400, 1400)
		shapes(t, in) // from now on the reader expects this size, and more of them
		send(1400, 1400, 1400, 1400, 1400, 9, 9, 9, 1400)
		want := []shape{{6, 1400, 5*1400 + 9}, {2, 9, 18}, {1, 1400, 1400}}
		got := shapes(t, in)
		if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
			t.Errorf("read %v, want %v", got, want)
		}
	}
}

func TestSourcesAreNotMixed(t *testing.T) {
	network := System(Options{Offload: true})
	in, a, b := listen(t, network, loopbacks[0]), listen(t, network, loopbacks[0]), listen(t, network, loopbacks[0])
	var arena Arena
	for range 3 {
		for i := range 8 {
			for _, from := range []Conn{a, a, b} {
				if err := from.Write(One(in.LocalAddr(), numbered(i, 700))); err != nil {
					t.Fatal(err)
				}
			}
		}
		var order []netip.AddrPort
		for len(order) < 24 {
			bursts, err := in.Read(&arena)
			if err != nil {
				t.Fatal(err)
			}
			for _, burst := range bursts {
				for range burst.Len() {
					order = append(order, burst.Addr)
				}
			}
		}
		for i, from := range order {
			want := a.LocalAddr()
			if i%3 == 2 {
				want = b.LocalAddr()
			}
			if from != want {
				t.Fatalf("datagram %d from %v, want %v", i, from, want)
			}
		}
	}
}

func TestNothingIsFragmented(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		conn := listen(t, network, at)
		level, name, want := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
		if at.Is6() {
			level, name, want = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
		}
		if got := get(t, conn, level, name); got != want {
			t.Errorf("MTU discovery is %d, want %d", got, want)
		}
	})
}

func TestBuffersAreLarge(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		conn := listen(t, network, at)
		for _, name := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			if got := get(t, conn, unix.SOL_SOCKET, name); got < 212992 {
				t.Errorf("buffer %d is %d bytes", name, got)
			}
		}
	})
}

// TTLs are those of the datagrams alone: one before and one after have the
// socket's own.
func TestWriteTTL(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		in, out := listen(t, System(Options{}), at), listen(t, network, at)
		write := func(b Burst, ttl int) {
			t.Helper()
			err := out.Write
			if ttl > 0 {
				err = func(b Burst) error { return out.(TTLWriter).WriteTTL(b, ttl) }
			}
			if err := err(b); err != nil {
				t.Fatal(err)
			}
		}
		read := ttlReader(t, in)
		two, _ := burstOf(in.LocalAddr(), 2, 1000, 1)
		write(One(in.LocalAddr(), []byte("x")), 0)
		write(One(in.LocalAddr(), []byte("x")), 3)
		write(two, 255)
		write(One(in.LocalAddr(), []byte("x")), 0)
		usual := read()
		for i, want := range []int{3, 255, 255, usual} {
			if got := read(); got != want {
				t.Errorf("datagram %d had TTL %d, want %d", i, got, want)
			}
		}
	})
}

func ttlReader(t *testing.T, conn Conn) func() int {
	sock := sockOf(conn)
	b := make([]byte, 2000)
	if conn.LocalAddr().Addr().Is6() {
		p := ipv6.NewPacketConn(sock)
		if err := p.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
			t.Fatal(err)
		}
		return func() int {
			_, cm, _, err := p.ReadFrom(b)
			if err != nil {
				t.Fatal(err)
			}
			return cm.HopLimit
		}
	}
	p := ipv4.NewPacketConn(sock)
	if err := p.SetControlMessage(ipv4.FlagTTL, true); err != nil {
		t.Fatal(err)
	}
	return func() int {
		_, cm, _, err := p.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return cm.TTL
	}
}

func TestLinkLocalAddressesKeepTheirZone(t *testing.T) {
	network := System(Options{Offload: true})
	addrs, err := network.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if at := a.Addr.Addr(); at.Is6() && at.IsLinkLocalUnicast() && a.Up {
			in, out := listen(t, network, at.WithZone(a.Interface)), listen(t, network, at.WithZone(a.Interface))
			if err := out.Write(One(in.LocalAddr(), numbered(0, 100))); err != nil {
				t.Fatal(err)
			}
			same(t, collect(t, in, out.LocalAddr(), 1), []int{100})
			return
		}
	}
	t.Skip("no link-local address here")
}

func TestOverflowIsCounted(t *testing.T) {
	in := listen(t, System(Options{ReadBuffer: 1}), loopbacks[0])
	out := listen(t, System(Options{}), loopbacks[0])
	for range 100 {
		if err := out.Write(One(in.LocalAddr(), make([]byte, 1400))); err != nil {
			t.Fatal(err)
		}
	}
	if n := in.(StatsReader).Stats().Overflow; n == 0 || n >= 100 {
		t.Errorf("counted %d of 100 lost to a tiny buffer", n)
	}
}

func TestReadAndWriteAllocateNothing(t *testing.T) {
	if racing {
		t.Skip("the race detector allocates")
	}
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		in, out := listen(t, network, at), listen(t, network, at)
		var arena Arena
		defer arena.Release()
		one := One(in.LocalAddr(), make([]byte, 1400))
		many, _ := burstOf(in.LocalAddr(), 100, 1000, 7)
		for name, b := range map[string]Burst{"one": one, "many": many} {
			// A garbage collection in between would empty the pools.
			runtime.GC()
			allocs := testing.AllocsPerRun(100, func() {
				if err := out.Write(b); err != nil {
					t.Fatal(err)
				}
				for n := 0; n < b.Len(); {
					bursts, err := in.Read(&arena)
					if err != nil {
						t.Fatal(err)
					}
					for _, got := range bursts {
						n += got.Len()
					}
				}
			})
			if allocs != 0 {
				t.Errorf("%s: %v allocations to write and read it, want 0", name, allocs)
			}
		}
	})
}

// A datagram that so many routers let pass is for a neighbour what others are,
// and is the only one of its kind.
func TestWriteRouters(t *testing.T) {
	in, out := listen(t, System(Options{}), netip.MustParseAddr("127.0.0.1")), listen(t, System(Options{}), netip.MustParseAddr("127.0.0.1"))
	raw, err := sockOf(in).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fault error
	if err := raw.Control(func(fd uintptr) { fault = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVOPTS, 1) }); err != nil || fault != nil {
		t.Fatal(err, fault)
	}
	for _, routers := range []int{1, 2, 15, 0} {
		write := func() error { return out.(RoutersWriter).WriteRouters(One(in.LocalAddr(), []byte("x")), routers) }
		if routers == 0 {
			write = func() error { return out.Write(One(in.LocalAddr(), []byte("x"))) }
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
		b, oob := make([]byte, 10), make([]byte, 100)
		n, m, _, _, err := sockOf(in).ReadMsgUDP(b, oob)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		// This host counted as one: RFC 791's pointer behind the room, and the overflow.
		want := []byte{68, 4, 5, byte(15-routers+1) << 4}
		got := optionOf(t, oob[:m])
		if routers == 0 {
			want = nil
		}
		if !bytes.Equal(got, want) {
			t.Errorf("for %d routers the option is % x, want % x", routers, got, want)
		}
	}
}

func optionOf(t *testing.T, oob []byte) []byte {
	t.Helper()
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVOPTS {
			return m.Data
		}
	}
	return nil
}
