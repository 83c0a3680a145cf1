package faketcp

import (
	"bytes"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
)

// On loopback, and between a host's own addresses, bursts go as on a wire.
func TestLoopback(t *testing.T) {
	w := newRoad(t)
	for name, addr := range map[string]string{"IPv4": "127.0.0.1", "IPv6": "::1", "own IPv4": addrA4, "own IPv6": addrA6} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t, w.a, addr, 0, nil), open(t, w.a, addr, 0, nil)
			resets := watch(t, w.a, b.local())
			meet(t, a, b, a.local(), b.local())
			through(t, a, b, 1)
			if n := resets.count(); n > 0 {
				t.Errorf("%d RSTs left", n)
			}
		})
	}
}

// through sends 30 datagrams, which arrive in so many runs; 0 is any number.
func through(t *testing.T, a, b *link, runs int) {
	t.Helper()
	s := segment{local: a.local(), remote: b.local(), seq: 5, flags: flagPSH | flagACK, window: 0xff00}
	if err := a.send(&s, dgram.Burst{Buf: pattern(29500), Size: 1000}); err != nil {
		t.Fatal(err)
	}
	got := collect(t, b, 30)
	var all []byte
	for _, r := range got {
		if r.seg.seq != 5+uint32(len(all)) {
			t.Errorf("seq %d behind %d bytes from 5", r.seg.seq, len(all))
		}
		all = append(all, r.bytes...)
	}
	if !bytes.Equal(all, pattern(29500)) {
		t.Errorf("%d bytes came, or others", len(all))
	}
	if runs > 0 && len(got) != runs {
		t.Errorf("in %d runs, want %d", len(got), runs)
	}
}

// A gateway that was replaced is found, although bursts alone leave, for which
// the kernel asks nothing.
func TestGatewayIsReplaced(t *testing.T) {
	w := newRoad(t)
	w.a.Sysctl("net.ipv4.neigh.eth0.delay_first_probe_time=0", "net.ipv4.neigh.eth0.retrans_time_ms=50",
		"net.ipv4.neigh.eth0.base_reachable_time_ms=100")
	a, b := open(t, w.a, addrA4, 0, nil), open(t, w.b, addrB4, 0, nil)
	a.routes.mu.Lock()
	a.routes.age = 50 * time.Millisecond
	a.routes.mu.Unlock()
	meet(t, a, b, a.local(), b.local())
	w.r.IP("link set west address 02:00:00:00:00:77")
	s := segment{local: a.local(), remote: b.local(), flags: flagPSH | flagACK, window: 0xff00}
	arena := new(dgram.Arena)
	netns.Eventually(t, 10*time.Second, "a burst by the new gateway", func() error {
		if err := a.send(&s, dgram.Burst{Buf: pattern(3000), Size: 1000}); err != nil {
			return err
		}
		_ = b.setReadDeadline(time.Now().Add(20 * time.Millisecond))
		return b.receive(arena, func(*segment, dgram.Burst) {})
	})
	through(t, a, b, 0)
}

// A link without link-layer addresses (here a TUN device on both sides, as of
// PPP and WireGuard too) goes by the kernel, one segment at a time.
func TestLinksWithoutAddresses(t *testing.T) {
	s := netns.Standard(t, netns.Options{NoCarrier: true, IPv6: true})
	for name, c := range map[string]struct {
		from, to   *netns.Host
		addr, with string
	}{
		"IPv4": {s.LaptopRouter, s.VPS, netns.LaptopPublic, netns.VPSAddr},
		"IPv6": {s.Laptop, s.VPS, netns.LaptopIPv6, netns.VPSIPv6}, // behind a firewall
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t, c.from, c.addr, 0, nil), open(t, c.to, c.with, 0, nil)
			through(t, a, b, 0)
			through(t, b, a, 0)
			if n := b.tally()["one_by_one"]; n != 30 {
				t.Errorf("%d left one by one, want 30", n)
			}
		})
	}
}

// Behind a NAT and a firewall of a home, with the coordinator on a public
// address: the mapped address is seen, the answer gets in, and bursts cross
// both ways with the kernel's connection tracking content.
func TestThroughNAT(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	home, vps := open(t, s.Home, "0.0.0.0", 0, nil), open(t, s.VPS, netns.VPSAddr, 443, nil)
	port := home.local()
	send := func(d *link, to netip.AddrPort, flags uint8, seq, ack uint32, payload []byte) {
		t.Helper()
		g := segment{local: netip.AddrPortFrom(netip.Addr{}, d.local().Port()), remote: to, seq: seq, ack: ack, flags: flags, window: 0xff00}
		if flags&flagSYN != 0 {
			g.options = ourSYN
		}
		if err := d.send(&g, dgram.Burst{Buf: payload, Size: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	send(home, vps.local(), flagSYN, 99, 0, nil)
	mapped := collect(t, vps, 1)[0].seg.remote
	if mapped.Addr().String() != netns.HomePublic || mapped == port {
		t.Fatalf("the NAT made %v of %v", mapped, port)
	}
	send(vps, mapped, flagSYN|flagACK, 499, 100, nil)
	collect(t, home, 1)
	send(home, vps.local(), flagACK, 100, 500, nil)
	collect(t, vps, 1)
	for i := range uint32(20) {
		send(home, vps.local(), flagPSH|flagACK, 100+30000*i, 500+30000*i, pattern(30000))
		collect(t, vps, 30)
		send(vps, mapped, flagPSH|flagACK, 500+30000*i, 30100+30000*i, pattern(30000))
		collect(t, home, 30)
	}
}

// A device that a lot of segments wait for reads many a visit, and a burst
// between two others keeps its place.
func TestManySenders(t *testing.T) {
	w := newRoad(t)
	b := open(t, w.b, addrB4, 0, nil)
	const senders, each = 20, 10
	for i := range senders {
		a := open(t, w.a, addrA4, 0, nil)
		if i == 0 {
			meet(t, a, b, a.local(), b.local())
		}
		for n := range each {
			s := segment{local: a.local(), remote: b.local(), seq: uint32(n), flags: flagPSH | flagACK, window: 0xff00}
			if err := a.send(&s, dgram.Burst{Buf: pattern(1000 + n), Size: 500}); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := make(map[netip.AddrPort]uint32)
	for _, r := range collect(t, b, senders*(each*3-1)) {
		if n := last[r.seg.remote]; r.seg.seq != n || len(r.bytes) != 1000+int(n) {
			t.Fatalf("from %v: %d bytes at %d, want %d", r.seg.remote, len(r.bytes), r.seg.seq, n)
		}
		last[r.seg.remote]++
	}
	if len(last) != senders {
		t.Errorf("of %d senders came something", len(last))
	}
}

// The kernel drops what does not fit its memory, and that is counted.
func TestOverflowIsCounted(t *testing.T) {
	w := newRoad(t)
	a, b := open(t, w.a, addrA4, 0, nil), open(t, w.b, addrB4, 0, nil)
	meet(t, a, b, a.local(), b.local())
	s := segment{local: a.local(), remote: b.local(), flags: flagPSH | flagACK, window: 0xff00}
	netns.Eventually(t, 10*time.Second, "an overflow", func() error {
		for range 100 {
			if err := a.send(&s, dgram.Burst{Buf: pattern(60000), Size: 1000}); err != nil {
				return err
			}
		}
		if b.tally()["overflow"] == 0 {
			return errors.New("none yet")
		}
		return nil
	})
}

// Errors that only some devices give: each is met as on a device that gives it.
func TestErrorsOfDevices(t *testing.T) {
	w := newRoad(t)
	for name, c := range map[string]struct {
		errno    syscall.Errno
		times    int  // how often it is given
		super    bool // to super-segments alone
		lost     bool
		oneByOne bool
	}{
		"EIO, no checksums in the device":   {unix.EIO, 1, true, false, true},
		"EINVAL, no segmentation":           {unix.EINVAL, 1, true, false, true},
		"EPERM for a flow's first":          {unix.EPERM, 1, false, false, false},
		"EPERM for good":                    {unix.EPERM, 99, false, true, false},
		"ENOBUFS, the queue is full":        {unix.ENOBUFS, 2, false, false, false},
		"ENOBUFS, and stays so":             {unix.ENOBUFS, 99, false, true, false},
		"EAGAIN, the socket has room again": {unix.EAGAIN, 1, false, false, false},
		"EINTR":                             {unix.EINTR, 5, false, false, false},
		"ENETDOWN, and another way":         {unix.ENETDOWN, 1, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t, w.a, addrA4, 0, nil), open(t, w.b, addrB4, 0, nil)
			meet(t, a, b, a.local(), b.local())
			hop, err := a.routes.to(b.local().Addr())
			if err != nil {
				t.Fatal(err)
			}
			hop.doubted.Store(false)
			given := 0
			a.sendmsg = func(fd uintptr, msg *unix.Msghdr) syscall.Errno {
				if large := msg.Iov != nil && unsafe.Slice(msg.Iov, 2)[1].Len > 1000; given < c.times && (large || !c.super) {
					given++
					return c.errno
				}
				return sendmsg(fd, msg)
			}
			s := segment{local: a.local(), remote: b.local(), flags: flagPSH | flagACK, window: 0xff00}
			err = a.send(&s, dgram.Burst{Buf: pattern(5000), Size: 1000})
			if c.lost != errors.Is(err, c.errno) || !c.lost && err != nil {
				t.Fatalf("send: %v", err)
			}
			if got := a.whole.Load(); got != c.oneByOne {
				t.Errorf("from now on one by one: %v", got)
			}
			if c.lost {
				return
			}
			var all []byte
			for _, r := range collect(t, b, 5) {
				all = append(all, r.bytes...)
			}
			if !bytes.Equal(all, pattern(5000)) {
				t.Errorf("%d bytes came, or others", len(all))
			}
			if c.oneByOne {
				through(t, a, b, 0)
			}
		})
	}
}
