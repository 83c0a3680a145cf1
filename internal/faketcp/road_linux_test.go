package faketcp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
)

// road is two hosts with a forwarding router between them, whose second link
// may be narrower.
type road struct {
	t       testing.TB
	a, r, b *netns.Host
}

const (
	addrA4, addrB4 = "10.1.0.2", "10.2.0.2"
	addrA6, addrB6 = "fd00:1::2", "fd00:2::2"
)

func newRoad(t testing.TB) *road {
	lab := netns.New(t)
	w := &road{t: t, a: lab.Host("a"), r: lab.Host("r"), b: lab.Host("b")}
	lab.Wire(w.a, "eth0", w.r, "west")
	lab.Wire(w.b, "eth0", w.r, "east")
	w.r.Sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	w.a.Address("eth0", addrA4+"/24", addrA6+"/64")
	w.b.Address("eth0", addrB4+"/24", addrB6+"/64")
	w.r.Address("west", "10.1.0.1/24", "fd00:1::1/64")
	w.r.Address("east", "10.2.0.1/24", "fd00:2::1/64")
	w.a.IP("route add default via 10.1.0.1", "route add default via fd00:1::1")
	w.b.IP("route add default via 10.2.0.1", "route add default via fd00:2::1")
	return w
}

// open opens a device on a host.
func open(t testing.TB, h *netns.Host, addr string, port uint16, beside net.Listener) *link {
	t.Helper()
	return openAs(t, h, true, addr, port, beside)
}

// openAs is open with CAP_NET_ADMIN or without, as the units in deploy/ have it.
func openAs(t testing.TB, h *netns.Host, admin bool, addr string, port uint16, beside net.Listener) *link {
	t.Helper()
	var d device
	err := h.Do(func() (err error) {
		if !admin {
			restore, err := withoutNetAdmin()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, restore()) }()
		}
		d, err = openDevice(netip.AddrPortFrom(netip.MustParseAddr(addr), port), beside)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return d.(*link)
}

// withoutNetAdmin takes CAP_NET_ADMIN from the calling thread, which is locked.
func withoutNetAdmin() (restore func() error, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		return nil, err
	}
	less := had
	less[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	return func() error { return unix.Capset(&header, &had[0]) }, unix.Capset(&header, &less[0])
}

// haul is what one visit of receive showed.
type haul struct {
	seg   segment
	sizes []int
	bytes []byte
}

// collect receives until n datagrams have come, or nothing more does.
func collect(t testing.TB, d device, n int) []haul {
	t.Helper()
	a := new(dgram.Arena)
	defer a.Release()
	if err := d.setReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var all []haul
	for got := 0; got < n; {
		err := d.receive(a, func(s *segment, b dgram.Burst) {
			one := haul{seg: *s, bytes: bytes.Clone(b.Buf)}
			one.seg.options = bytes.Clone(s.options)
			for d := range b.All() {
				one.sizes = append(one.sizes, len(d))
			}
			got += len(one.sizes)
			all = append(all, one)
		})
		if err != nil {
			t.Fatalf("%d of %d datagrams came: %v; the device counted %v", got, n, err, d.(*link).tally())
		}
	}
	return all
}

// meet lets a and b exchange bare segments until bursts leave by the link:
// until then the kernel asks for the neighbour.
func meet(t testing.TB, a, b *link, at, bt netip.AddrPort) {
	t.Helper()
	s := segment{local: at, remote: bt, flags: flagACK, window: highWindow}
	if err := a.send(&s, dgram.Burst{}); err != nil {
		t.Fatal(err)
	}
	collect(t, b, 1)
	netns.Eventually(t, 3*time.Second, "a way to "+bt.String(), func() error {
		h, err := a.routes.to(bt.Addr())
		if err == nil && !h.framed {
			err = errors.New("the neighbour is not known")
		}
		return err
	})
}

var families = map[string][2]string{"IPv4": {addrA4, addrB4}, "IPv6": {addrA6, addrB6}}
