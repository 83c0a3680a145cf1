package faketcp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
)

// A burst crosses a forwarding router as one super-segment, and comes out with
// the boundaries it had.
func TestBurstsCrossWhole(t *testing.T) {
	w := newRoad(t)
	for name, addrs := range families {
		t.Run(name, func(t *testing.T) {
			a, b := open(t, w.a, addrs[0], 0, nil), open(t, w.b, addrs[1], 0, nil)
			for _, way := range [][2]*link{{a, b}, {b, a}} {
				crossing(t, way[0], way[1])
			}
			for _, d := range []*link{a, b} {
				if all := d.tally(); all["one_by_one"] > 5 || all["checksum"] > 0 || all["malformed"] > 0 {
					t.Errorf("counted %v", all)
				}
			}
		})
	}
}

func crossing(t *testing.T, a, b *link) {
	meet(t, a, b, a.local(), b.local())
	seq := uint32(0xfffff000) // wraps on the way
	for _, c := range []struct{ size, length, runs int }{
		{1000, 40000, 1},     // without PACKET_VNET_HDR it arrives as one segment of 40,000 bytes
		{1000, 39001, 1},     // the last is short
		{1400, 1400, 1},      // one
		{1400, 10, 1},        // one that is shorter than the burst's size
		{1400, 1401, 1},      // one and a byte
		{1, 50, 1},           // as small as can be
		{1455, 45 * 1455, 1}, // fills 64 KiB to the last bytes
		{1300, 130000, 2},    // more than 64 KiB
	} {
		payload := pattern(c.length)
		s := segment{local: a.local(), remote: b.local(), seq: seq, ack: 77, flags: flagPSH | flagACK, window: 0xff00}
		if b.at.Addr().Is6() && c.size == 1455 {
			c.size = 1440
			payload = payload[:45*1440]
		}
		if err := a.send(&s, dgram.Burst{Buf: payload, Size: c.size}); err != nil {
			t.Fatalf("%d bytes of %d: %v", c.length, c.size, err)
		}
		want := dgram.Burst{Buf: payload, Size: c.size}
		got := collect(t, b, want.Len())
		var all []byte
		for _, r := range got {
			if r.seg.remote != a.local() || r.seg.local != b.local() || r.seg.ack != 77 || r.seg.window != 0xff00 || r.seg.ttl != 63 {
				t.Errorf("a run with the header %+v", r.seg)
			}
			if r.seg.seq != seq+uint32(len(all)) {
				t.Errorf("%d bytes of %d: seq %d behind %d bytes from %d", c.length, c.size, r.seg.seq, len(all), seq)
			}
			for i, n := range r.sizes {
				if n != c.size && len(all)+sumOf(r.sizes[:i+1]) != len(payload) {
					t.Errorf("a datagram of %d bytes in a burst of %d", n, c.size)
				}
			}
			all = append(all, r.bytes...)
		}
		if !bytes.Equal(all, payload) {
			t.Errorf("%d bytes of %d: other bytes came", c.length, c.size)
		}
		if len(got) != c.runs {
			t.Errorf("%d bytes of %d came in %d runs, want %d", c.length, c.size, len(got), c.runs)
		}
		seq += uint32(len(payload))
	}
}

func sumOf(all []int) (n int) {
	for _, v := range all {
		n += v
	}
	return n
}

// S0-15: nothing is fragmented, and what does not fit the interface is said to
// be too large, in a burst or alone, resolved or not.
func TestTooLargeForTheInterface(t *testing.T) {
	w := newRoad(t)
	w.a.IP("link set eth0 mtu 1280")
	w.r.IP("link set west mtu 1280")
	for name, addrs := range families {
		t.Run(name, func(t *testing.T) {
			a, b := open(t, w.a, addrs[0], 0, nil), open(t, w.b, addrs[1], 0, nil)
			most := 1280 - (&segment{remote: b.local()}).headerSize()
			s := segment{local: a.local(), remote: b.local(), flags: flagACK, window: 0xff00}
			for _, before := range []string{"unresolved", "resolved"} {
				if before == "resolved" {
					meet(t, a, b, a.local(), b.local())
				}
				for _, n := range []int{most + 1, 40 * (most + 1), 1 << 20} {
					if err := a.send(&s, dgram.Burst{Buf: pattern(n), Size: most + 1}); !dgram.IsTooLarge(err) {
						t.Errorf("%s, %d bytes in segments of %d: %v", before, n, most+1, err)
					}
				}
				if err := a.send(&s, dgram.Burst{Buf: pattern(10 * most), Size: most}); err != nil {
					t.Errorf("%s, segments of just the MTU: %v", before, err)
				}
				for _, r := range collect(t, b, 10) {
					for _, size := range r.sizes {
						if size != most {
							t.Errorf("%s: %d bytes came as %d", before, most, size)
						}
					}
				}
			}
		})
	}
}

// The guard: whatever comes to the port, the kernel answers nothing, and what
// it does answer without one is counted, so that the count means something.
func TestKernelIsSilent(t *testing.T) {
	for _, admin := range []bool{true, false} {
		kernelIsSilent(t, admin)
	}
}

func kernelIsSilent(t *testing.T, admin bool) {
	w := newRoad(t)
	for name, addrs := range families {
		t.Run(fmt.Sprintf("%s, CAP_NET_ADMIN %v", name, admin), func(t *testing.T) {
			a, b := open(t, w.a, addrs[0], 0, nil), openAs(t, w.b, admin, addrs[1], 0, nil)
			closed := netip.AddrPortFrom(b.local().Addr(), b.local().Port()^1)
			guarded, open := watch(t, w.b, b.local()), watch(t, w.b, closed)
			for _, flags := range []uint8{flagSYN, flagSYN | flagACK, flagACK, flagPSH | flagACK, flagFIN | flagACK} {
				for _, to := range []netip.AddrPort{b.local(), closed} {
					s := segment{local: a.local(), remote: to, seq: 5, ack: 6, flags: flags, window: highWindow}
					if err := a.send(&s, dgram.Burst{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			collect(t, b, 5)
			netns.Eventually(t, 3*time.Second, "RSTs from a port without a guard", func() error {
				if n := open.count(); n < 5 {
					return errors.New("not yet")
				}
				return nil
			})
			if n := guarded.count(); n > 0 {
				t.Errorf("%d RSTs left", n)
			}
		})
	}
}

func watch(t testing.TB, h *netns.Host, from netip.AddrPort) *resetWatch {
	t.Helper()
	var w *resetWatch
	if err := h.Do(func() (err error) { w, err = watchResets(from); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.close() })
	return w
}

// A device on the unspecified address sends from where the route says, takes
// what comes to any address of its host, and nothing that its host forwards.
func TestUnspecifiedAddress(t *testing.T) {
	w := newRoad(t)
	a, b := open(t, w.a, "0.0.0.0", 0, nil), open(t, w.b, "0.0.0.0", 4443, nil)
	r := open(t, w.r, "0.0.0.0", 4443, nil)
	at := netip.AddrPortFrom(netip.MustParseAddr(addrA4), a.local().Port())
	bt := netip.AddrPortFrom(netip.MustParseAddr(addrB4), 4443)
	meet(t, a, b, netip.AddrPortFrom(netip.Addr{}, a.local().Port()), bt)
	s := segment{local: a.local(), remote: bt, flags: flagACK, window: highWindow}
	if err := a.send(&s, dgram.One(bt, pattern(8))); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, b, 1)[0].seg; got.remote != at || got.local != bt {
		t.Errorf("from %v to %v, want %v and %v", got.remote, got.local, at, bt)
	}
	s.remote = netip.MustParseAddrPort("10.1.0.1:4443")
	if err := a.send(&s, dgram.Burst{}); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, r, 1)[0].seg; got.local != s.remote {
		t.Errorf("the router takes what is for %v", got.local)
	}
	if n := r.tally()["foreign"]; n != 2 {
		t.Errorf("the router saw %d segments that it only forwards, want 2", n)
	}
}

// With checksums turned off in its device the host completes them, whole
// bursts still leaving as one; and a router that looks at them finds them
// right.
func TestWithoutChecksumOffload(t *testing.T) {
	w := newRoad(t)
	sums(t, w.a, "eth0", unix.ETHTOOL_STXCSUM)
	sums(t, w.r, "west", unix.ETHTOOL_SRXCSUM)
	a, b := open(t, w.a, addrA4, 0, nil), open(t, w.b, addrB4, 0, nil)
	meet(t, a, b, a.local(), b.local())
	s := segment{local: a.local(), remote: b.local(), flags: flagPSH | flagACK, window: highWindow}
	if err := a.send(&s, dgram.Burst{Buf: pattern(20000), Size: 1000}); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, r := range collect(t, b, 20) {
		all = append(all, r.bytes...)
	}
	if !bytes.Equal(all, pattern(20000)) || b.tally()["checksum"] > 0 {
		t.Errorf("%d bytes came, counted %v", len(all), b.tally())
	}
}

// sums turns the checksums of an interface off, as ethtool -K does.
func sums(t testing.TB, h *netns.Host, iface string, which uint32) {
	t.Helper()
	type value [2]uint32 // command and data
	type request struct {
		name [unix.IFNAMSIZ]byte
		data *value
		_    [16]byte
	}
	r := request{data: &value{which, 0}}
	copy(r.name[:], iface)
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
		if errno != 0 {
			return fmt.Errorf("turn checksums of %s off: %w", iface, errno)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Segments with a wrong checksum are counted and dropped.
func TestWrongChecksum(t *testing.T) {
	w := newRoad(t)
	a, b := open(t, w.a, addrA4, 0, nil), open(t, w.b, addrB4, 0, nil)
	meet(t, a, b, a.local(), b.local())
	s := segment{local: a.local(), remote: b.local(), flags: flagACK, window: highWindow}
	packet := appendHeader(nil, &s, 1, 0)
	complete(packet[ip4Size:], []byte{1}) // of another segment
	err := control(a.kernel.raw, func(fd int) error {
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: b.local().Addr().As4()})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.send(&s, dgram.Burst{}); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, b, 1); len(got) != 1 || b.tally()["checksum"] != 1 {
		t.Errorf("%d came, counted %v", len(got), b.tally())
	}
}

// A device whose interface refuses super-segments sends one by one from then
// on; one without link-layer addresses too, and the bytes are the same.
func TestOneByOne(t *testing.T) {
	w := newRoad(t)
	a, b := open(t, w.a, addrA4, 0, nil), open(t, w.b, addrB4, 0, nil)
	meet(t, a, b, a.local(), b.local())
	a.whole.Store(true)
	s := segment{local: a.local(), remote: b.local(), flags: flagPSH | flagACK, window: highWindow}
	if err := a.send(&s, dgram.Burst{Buf: pattern(10000), Size: 1000}); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, r := range collect(t, b, 10) {
		if last := len(all)+len(r.bytes) == 10000; r.seg.flags&flagPSH != 0 != last {
			t.Errorf("flags %#x, last %v", r.seg.flags, last)
		}
		all = append(all, r.bytes...)
	}
	if !bytes.Equal(all, pattern(10000)) || a.tally()["one_by_one"] != 10 {
		t.Errorf("%d bytes came, counted %v", len(all), a.tally())
	}
}

// An interface that goes away and comes back is found again, without being
// told.
func TestLinkChanges(t *testing.T) {
	w := newRoad(t)
	a, b := open(t, w.a, "0.0.0.0", 0, nil), open(t, w.b, addrB4, 0, nil)
	meet(t, a, b, a.local(), b.local())
	s := segment{local: a.local(), remote: b.local(), flags: flagPSH | flagACK, window: highWindow}
	w.a.LinkDown("eth0")
	if err := a.send(&s, dgram.One(b.local(), pattern(100))); err == nil {
		t.Error("a send over a link that is down succeeds")
	}
	w.a.LinkUp("eth0")
	w.a.IP("route replace default via 10.1.0.1")
	if err := a.send(&s, dgram.One(b.local(), pattern(100))); err != nil {
		t.Error(err)
	}
	if got := collect(t, b, 1); len(got[0].bytes) != 100 {
		t.Errorf("%d bytes came", len(got[0].bytes))
	}
}

// Who waits in receive is woken by a deadline and by close.
func TestReceiveEnds(t *testing.T) {
	w := newRoad(t)
	a := open(t, w.a, addrA4, 0, nil)
	arena := new(dgram.Arena)
	if err := a.setReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	never := func(*segment, dgram.Burst) { t.Error("something came") }
	if err := a.receive(arena, never); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at the deadline: %v", err)
	}
	_ = a.setReadDeadline(time.Time{})
	done := make(chan error)
	go func() { done <- a.receive(arena, never) }()
	if err := a.close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("when closed: %v", err)
	}
	s := segment{local: a.local(), remote: netip.AddrPortFrom(netip.MustParseAddr(addrB4), 1), flags: flagACK}
	if err := a.send(&s, dgram.Burst{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send when closed: %v", err)
	}
}
