package natlab

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"rendezvous/internal/dgram"
)

func eth0(t *testing.T, h *Host) dgram.HostAddr {
	t.Helper()
	addrs, err := h.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.Interface == "eth0" {
			return a
		}
	}
	t.Fatalf("%s has no eth0", h.Name())
	return dgram.HostAddr{}
}

func TestAddrs(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1/28", Also("2001:db8::1"), Interface("docker0", "172.17.0.1/16"))
		addrs, err := h.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		want := []dgram.HostAddr{
			{Interface: "lo", Addr: netip.MustParsePrefix("127.0.0.1/8"), Up: true},
			{Interface: "lo", Addr: netip.MustParsePrefix("::1/128"), Up: true},
			{Interface: "eth0", Addr: netip.MustParsePrefix("203.0.113.1/28"), Up: true},
			{Interface: "eth0", Addr: netip.MustParsePrefix("2001:db8::1/64"), Up: true},
			{Interface: "docker0", Addr: netip.MustParsePrefix("172.17.0.1/16"), Up: true},
		}
		for i := range want {
			if i >= len(addrs) || addrs[i] != want[i] {
				t.Fatalf("addresses are %v, want %v", addrs, want)
			}
		}
		// The address of a container bridge is the host's own, but leads nowhere else.
		inside, outside := listen(t, h, "172.17.0.1:1000"), listen(t, h, "0.0.0.0:0")
		send(t, outside, "172.17.0.1:1000", "own")
		expect(t, inside, "own", "")
		send(t, outside, "172.17.0.2:1000", "nobody")
		time.Sleep(time.Second)
		if l.Dropped(DropNoRoute) != 1 {
			t.Error("a datagram to a foreign network behind a bridge was not dropped")
		}
	})
}

func TestReaddressAndMove(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		server := listen(t, l.Host("server", "203.0.113.2"), "203.0.113.2:1000")
		phone := l.NAT("wifi", "198.51.100.1", Home()).Host("phone", "192.168.1.2")
		anywhere, bound := listen(t, phone, "0.0.0.0:1000"), listen(t, phone, "192.168.1.2:2000")
		if got := seen(t, anywhere, server); got.String() != "198.51.100.1:1000" {
			t.Errorf("in the first network it is seen at %v", got)
		}
		phone.Readdress("192.168.1.77")
		if got := eth0(t, phone); got.Addr.Addr().String() != "192.168.1.77" {
			t.Errorf("after it was readdressed its address is %v", got)
		}
		seen(t, anywhere, server)
		if err := bound.Write(dgram.One(server.LocalAddr(), nil)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("a socket bound to the lost address wrote: %v", err)
		}
		mobile := l.NAT("mobile", "198.51.100.2", Cellular(), Delay(40*time.Millisecond))
		sendTo(t, server, netip.MustParseAddrPort("198.51.100.1:1000"), "too late")
		phone.MoveTo(mobile, "10.0.0.9")
		start := time.Now()
		if got := seen(t, anywhere, server); got.Addr().String() != "198.51.100.2" || time.Since(start) < 45*time.Millisecond {
			t.Errorf("in the second network it is seen at %v after %v", got, time.Since(start))
		}
		if got, _ := receive(t, anywhere); got != "" {
			t.Errorf("the left network delivered %q", got)
		}
	})
}

// What was under way to an address that the host has given up is not
// delivered, and a host may come out from behind its NAT.
func TestMoveToTheInternet(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		server := listen(t, l.Host("server", "203.0.113.2", Delay(20*time.Millisecond)), "203.0.113.2:1000")
		laptop := l.Host("laptop", "198.51.100.1")
		c := listen(t, laptop, "0.0.0.0:1000")
		send(t, server, "198.51.100.1:1000", "to the old address")
		time.Sleep(22 * time.Millisecond) // on the last link
		laptop.Readdress("198.51.100.7")
		if got, _ := receive(t, c); got != "" || l.Dropped(DropNoRoute) != 1 {
			t.Errorf("the given up address received %q", got)
		}
		router := l.NAT("router", "198.51.100.2", Home())
		laptop.MoveTo(router, "192.168.1.2")
		if got := seen(t, c, server); got.String() != "198.51.100.2:1000" {
			t.Errorf("behind the router it is seen at %v", got)
		}
		laptop.MoveTo(l, "198.51.100.8")
		laptop.Set(Delay(80 * time.Millisecond))
		start := time.Now()
		if got := seen(t, c, server); got.Addr() != laptop.Addr() || time.Since(start) != 100*time.Millisecond {
			t.Errorf("on the internet %s is seen at %v after %v", laptop.Name(), got, time.Since(start))
		}
	})
}

func TestWritesThatCannotLeave(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1")
		four, six, lo := listen(t, h, "0.0.0.0:0"), listen(t, h, "[::]:0"), listen(t, h, "127.0.0.1:0")
		for _, c := range []struct {
			name string
			conn dgram.Conn
			to   string
			want error
		}{
			{"IPv6 on an IPv4 socket", four, "[2001:db8::1]:1", syscall.EAFNOSUPPORT},
			{"IPv6 without an address", six, "[2001:db8::1]:1", syscall.ENETUNREACH},
			{"out of the loopback", lo, "203.0.113.2:1", syscall.ENETUNREACH},
			{"port 0", four, "203.0.113.2:0", syscall.EINVAL},
		} {
			if err := c.conn.Write(dgram.One(netip.MustParseAddrPort(c.to), nil)); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
		}
		if err := four.Write(dgram.Burst{}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("no address: %v", err)
		}
		if err := four.Write(dgram.One(netip.MustParseAddrPort("[::ffff:203.0.113.1]:9"), nil)); err != nil {
			t.Errorf("IPv4 written as IPv6: %v", err)
		}
	})
}

func TestFullSocketDrops(t *testing.T) {
	inBubble(t, Options{SocketQueue: 10000}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1")
		c, from := listen(t, h, "127.0.0.1:1000"), listen(t, h, "127.0.0.1:0")
		for i := range 15 {
			if err := from.Write(numbered(c.LocalAddr(), i, 1, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		if got := l.Dropped(DropSocketFull); got != 5 {
			t.Errorf("a queue for 10 dropped %d of 15", got)
		}
		receive(t, c)
		if err := from.Write(numbered(c.LocalAddr(), 0, 10, 1000)); err != nil || l.Dropped(DropSocketFull) != 5 {
			t.Errorf("after it was read, the queue is not empty: %v, %d dropped", err, l.Dropped(DropSocketFull))
		}
	})
}

// The last free ephemeral port is found; when none is left, binding says so.
func TestEphemeralPortsRunOut(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1")
		const last = 40000
		for p := 32768; p <= 60999; p++ {
			if p != last {
				h.ports[portKey{true, uint16(p)}] = 1
			}
		}
		if c := listen(t, h, "0.0.0.0:0"); c.LocalAddr().Port() != last {
			t.Errorf("bound %v, want port %d", c.LocalAddr(), last)
		}
		if _, err := h.ListenUDP(netip.AddrPort{}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("with no port left: %v", err)
		}
		listen(t, h, "[::]:0") // the other family has its own
	})
}
