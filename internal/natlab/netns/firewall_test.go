//go:build linux

package netns_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
)

// dialTCP opens a connection from a host, from a port of its own choice with
// local 0.
func dialTCP(t *testing.T, h *netns.Host, local uint16, to string, limit time.Duration) (net.Conn, error) {
	t.Helper()
	var conn net.Conn
	err := h.Do(func() error {
		d := net.Dialer{Timeout: limit, LocalAddr: &net.TCPAddr{Port: int(local)}}
		var err error
		conn, err = d.Dial("tcp4", to)
		return err
	})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// greet accepts connections on a host; each is told where it comes from, and
// then gets its own bytes back.
func greet(t *testing.T, h *netns.Host, addr string) {
	t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) { l, err = net.Listen("tcp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := fmt.Fprintln(c, c.RemoteAddr()); err == nil {
					_, err = io.Copy(c, c)
					_ = err // a client that went away is no fault
				}
			}()
		}
	}()
}

// seenAs is the address that a greeter saw.
func seenAs(t *testing.T, c net.Conn) netip.AddrPort {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(long)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort(strings.TrimSpace(line))
}

func TestFirewalls(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	echo(t, s.VPS, "203.0.113.10:7000")
	for _, port := range []string{"443", "7000"} {
		greet(t, s.VPS, netns.VPSAddr+":"+port)
	}
	for i, test := range []struct {
		name          string
		nat           netns.NAT
		udp, web, tcp bool
	}{
		{"none", netns.Masquerade(), true, true, true},
		{"UDP dropped", netns.Masquerade().DropUDP(), false, true, true},
		{"only the web", netns.Masquerade().OnlyWeb(), false, true, false},
		{"only the router", netns.Masquerade().OnlyRouter(), false, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.LaptopRouter.SetNAT(test.nat, netns.WAN, netns.LAN, netns.LaptopPublic)
			s.LaptopRouter.FlushConntrack()
			conn := listen(t, s.Laptop, fmt.Sprintf("0.0.0.0:%d", 43000+i))
			if _, err := ask(conn, "203.0.113.10:7000", 300*time.Millisecond); (err == nil) != test.udp {
				t.Errorf("a datagram passes: %v", err)
			}
			for to, want := range map[string]bool{":443": test.web, ":7000": test.tcp} {
				limit := short
				if want {
					limit = long
				}
				if _, err := dialTCP(t, s.Laptop, 0, netns.VPSAddr+to, limit); (err == nil) != want {
					t.Errorf("a connection to %s: %v", to, err)
				}
			}
		})
	}
}

// S4-12
func TestTCPIsMappedUnlikeUDP(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true, LaptopNAT: netns.Masquerade().RandomTCP()})
	echo(t, s.VPS, "203.0.113.10:7000")
	greet(t, s.VPS, "203.0.113.10:7000")
	conn := listen(t, s.Laptop, "0.0.0.0:43100")
	if got := mustAsk(t, conn, "203.0.113.10:7000"); got.Port() != 43100 {
		t.Errorf("UDP is mapped to %v", got)
	}
	c, err := dialTCP(t, s.Laptop, 43100, "203.0.113.10:7000", long)
	if err != nil {
		t.Fatal(err)
	}
	if got := seenAs(t, c); got.Port() == 43100 {
		t.Errorf("TCP is mapped to %v", got)
	}
}

// A router whose input accepts answers a SYN that nobody asked for by RST, the
// usual one is silent. No host of ours resets anything.
func TestUnsolicitedSYN(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	if _, err := dialTCP(t, s.VPS, 0, netns.LaptopPublic+":5000", short); errors.Is(err, syscall.ECONNREFUSED) || err == nil {
		t.Errorf("the usual router answered: %v", err)
	}
	s.LaptopRouter.SetNAT(netns.Masquerade().AcceptingInput(), netns.WAN, netns.LAN, netns.LaptopPublic)
	s.LaptopRouter.FlushConntrack()
	if _, err := dialTCP(t, s.VPS, 0, netns.LaptopPublic+":5000", long); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the router that accepts input: %v", err)
	}
	if n := s.LaptopRouter.Counter("resets").Packets; n != 1 {
		t.Errorf("%d RST counted on the router, want 1", n)
	}
	if n := s.Laptop.Counter("resets").Packets + s.VPS.Counter("resets").Packets; n != 0 {
		t.Errorf("%d RST counted on hosts", n)
	}
}

// The kernel's TCP goes well through each box but the one that finds fault with
// it, which it never does.
func TestBoxesLeaveRealTCPAlone(t *testing.T) {
	s := netns.Standard(t, netns.Options{})
	greet(t, s.VPS, netns.VPSAddr+":7000")
	validate := &hop.Validate{}
	for _, test := range []struct {
		name  string
		boxes []hop.Box
	}{ // the box that wants to know each connection comes first
		{"validated", []hop.Box{&hop.Renumber{}, validate}},
		{"renumbered", []hop.Box{&hop.Renumber{}}},
		{"renumbered by same", []hop.Box{&hop.Renumber{Same: 0x80000001}}},
		{"clamped", []hop.Box{hop.ClampWindow{Most: 4000}}},
		{"stripped", []hop.Box{hop.StripOptions{Keep: []byte{2}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.SetBoxes("laptoprouter", test.boxes...)
			c, err := dialTCP(t, s.Laptop, 0, netns.VPSAddr+":7000", long)
			if err != nil {
				t.Fatal(err)
			}
			if got := seenAs(t, c); got.Addr().String() != netns.LaptopPublic {
				t.Errorf("seen as %v", got)
			}
			echoed(t, c, 1<<20)
		})
	}
	if n := validate.Violations.Load(); n != 0 {
		t.Errorf("the kernel's TCP was found at fault %d times", n)
	}
	if n := s.LaptopRouter.Counter("invalid").Packets; n != 0 {
		t.Errorf("%d segments were INVALID", n)
	}
}

// echoed sends bytes and gets them back.
func echoed(t *testing.T, c net.Conn, size int64) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c, zeroes{}, size)
		sent <- err
	}()
	if n, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Errorf("only %d of %d bytes came back: %v", n, size, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { return len(b), nil }

func TestSplitTCPAnswersItself(t *testing.T) {
	s := netns.Standard(t, netns.DefaultOptions())
	greet(t, s.VPS, netns.VPSAddr+":7000")
	s.LaptopRouter.SplitTCP()
	begin := time.Now()
	c, err := dialTCP(t, s.Laptop, 0, netns.VPSAddr+":7000", long)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 20*time.Millisecond {
		t.Errorf("the handshake took %v: it went all the way", took)
	}
	if got := seenAs(t, c); got.Addr().String() != netns.LaptopPublic {
		t.Errorf("seen as %v", got)
	}
	echoed(t, c, 100_000)
}

func TestTinyproxyGrantsConnectAlone(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true, LaptopNAT: netns.Masquerade().OnlyRouter()})
	greet(t, s.VPS, netns.VPSAddr+":443")
	s.LaptopRouter.Tinyproxy("192.168.2.1", 8888, 443)
	for port, want := range map[string]int{"443": http.StatusOK, "7000": http.StatusForbidden} {
		c, err := dialTCP(t, s.Laptop, 0, "192.168.2.1:8888", long)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "CONNECT %s:%s HTTP/1.1\r\nHost: %[1]s:%[2]s\r\n\r\n", netns.VPSAddr, port); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
		if err != nil {
			t.Fatal(err)
		}
		if err := answer.Body.Close(); err != nil {
			t.Error(err)
		}
		if answer.StatusCode != want {
			t.Errorf("CONNECT to port %s: %s", port, answer.Status)
		}
	}
}

func TestUnprivilegedProgramHasNoCapability(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	p := s.Laptop.StartAs(netns.Guise{Unprivileged: true, Environment: []string{"LAB_WORD=here"}}, "sh", "-c", "grep CapEff /proc/self/status; echo $LAB_WORD")
	p.Wait(long)
	if log := p.Log(); !strings.Contains(log, "CapEff:\t0000000000000000") || !strings.Contains(log, "here") {
		t.Errorf("it says %q", log)
	}
}

// What a packet socket sends as one super-segment comes out of the TUN device
// in pieces that fit the interface.
func TestSuperSegmentIsCutOnItsWay(t *testing.T) {
	s := netns.Standard(t, netns.Options{})
	seen := make(chan int, 100)
	s.Internet.SetTap(func(g hop.Sighting) {
		if segment, ok := hop.TCP(g.Packet); ok && g.From == "vps" {
			seen <- len(segment.Data())
		}
	})
	if err := s.VPS.Do(func() error { return sendSuperSegment(netns.WAN, 10, 1000) }); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		select {
		case n := <-seen:
			if n != 1000 {
				t.Errorf("segment %d has %d bytes", i, n)
			}
		case <-time.After(long):
			t.Fatalf("only %d segments came", i)
		}
	}
}

// sendSuperSegment sends count pieces of size bytes as one TCP segment from the
// VPS to the laptop's router, by a packet socket with a header for offload
// (struct virtio_net_hdr of linux/virtio_net.h).
func sendSuperSegment(iface string, count, size int) error {
	device, err := net.InterfaceByName(iface)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	const offload, ip, tcp = 10, 20, 20
	p := make([]byte, offload+ip+tcp+count*size)
	p[0], p[1] = 1, 1                                    // the checksum is to be computed; TCP over IPv4
	p[2], p[4], p[5] = ip+tcp, byte(size), byte(size>>8) // lengths of headers and of a piece, little-endian
	p[6], p[8] = ip, 16                                  // where the checksum begins, and is
	h := p[offload:]
	h[0], h[2], h[3], h[8], h[9] = 0x45, byte(len(h)>>8), byte(len(h)), 64, 6
	copy(h[12:], netip.MustParseAddr(netns.VPSAddr).AsSlice())
	copy(h[16:], netip.MustParseAddr(netns.LaptopPublic).AsSlice())
	total := uint32(0)
	for i := 0; i < ip; i += 2 {
		total += uint32(h[i])<<8 | uint32(h[i+1])
	}
	total = ^(total&0xffff + total>>16)
	h[10], h[11] = byte(total>>8), byte(total)
	h[ip+1], h[ip+3], h[ip+12], h[ip+13] = 80, 90, tcp/4<<4, 0x10
	to := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: device.Index} // ETH_P_IP in network order
	return unix.Sendto(fd, p, 0, to)
}
