package tun

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
)

// end is a host with a device, whose link ends with the test.
type end struct {
	host   *netns.Host
	device *Device
	link   *Link
}

// openEnd makes a device on a new host; its link takes packets of at most room
// bytes.
func openEnd(t *testing.T, lab *netns.Lab, name string, room int, peers Peers, conns ...dgram.Conn) *end {
	t.Helper()
	e := &end{host: lab.Host(name)}
	err := e.host.Do(func() (err error) {
		e.device, err = Open(Settings{Name: "rdv0", MTU: 1500, Spans: []Span{span(t, DefaultSpan4), span(t, DefaultSpan6)}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	e.link = NewLink(Config{Device: e.device, Own: e.device.Own(), Conns: conns, Peers: peers, Now: time.Now}, room)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.link.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

// twoEnds are two hosts whose kernels reach each other's TCP: the first dials
// the second.
func twoEnds(t *testing.T, room int) (a, b *end) {
	t.Helper()
	lab, network := netns.New(t), newFakeNet()
	four, six, port := network.listen("127.0.0.1:4"), network.listen("127.0.0.1:6"), network.listen("127.0.0.1:7")
	home := NewHome(map[netip.Addr]dgram.Conn{peer4: four, peer6: six})
	home.Reach(port.local)
	guests := NewGuests(span(t, DefaultSpan4), span(t, DefaultSpan6), nil)
	a, b = openEnd(t, lab, "left", room, home, four, six), openEnd(t, lab, "right", 1500, guests, port)
	go home.Greet(t.Context())
	netns.Eventually(t, time.Second, "both families to be heard", func() error {
		if n := guests.Len(); n != 2 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	return a, b
}

// transfer sends bytes from one host to the peer's address and checks them.
func transfer(t *testing.T, a, b *end, to netip.Addr, size int) {
	t.Helper()
	const port = "7777"
	var listener net.Listener
	if err := b.host.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":"+port)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	got := make(chan []byte, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer func() { _ = conn.Close() }()
		all, _ := io.ReadAll(conn) // what is missing shows
		got <- all
	}()
	var conn net.Conn
	if err := a.host.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(to.String(), port), 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := pattern(size)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(want); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if all := <-got; !bytes.Equal(all, want) {
		t.Errorf("%d bytes came of %d, or others", len(all), len(want))
	}
}

// Two kernels take what we make for each other's, in super-segments.
// S1-05, S1-15
func TestKernelsTakeWhatWeMake(t *testing.T) {
	for _, offload := range []string{"0", "1"} {
		t.Run("RENDEZVOUS_NO_OFFLOAD="+offload, func(t *testing.T) {
			t.Setenv(dgram.EnvNoOffload, offload)
			a, b := twoEnds(t, 1500)
			if own := a.device.Own(); len(own) != 2 || own[0].String() != "198.19.0.1" || a.device.NoIPv6() != nil {
				t.Fatalf("the device has %v; %v", own, a.device.NoIPv6())
			}
			transfer(t, a, b, peer4, 3<<20)
			transfer(t, b, a, peer6, 3<<20)
			for _, e := range []*end{a, b} {
				s := e.link.Stats()
				delete(s.Dropped, NotTCP.String()) // listener reports of IPv6
				if len(s.Dropped) != 0 {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

// A kernel believes our ICMP, and sends what crosses.
func TestTheKernelHeedsTooBig(t *testing.T) {
	for name, to := range map[string]netip.Addr{"IPv4": peer4, "IPv6": peer6} {
		t.Run(name, func(t *testing.T) {
			a, b := twoEnds(t, 1340)
			transfer(t, a, b, to, 1<<20)
			if n := a.link.Stats().Dropped["too_large"]; n == 0 || n > 100 {
				t.Errorf("%d were too large", n)
			}
		})
	}
}

// A device that is there keeps its address, and stays.
func TestADeviceThatExists(t *testing.T) {
	h := netns.New(t).Host("host")
	h.IP("tuntap add mine mode tun", "address add 10.5.5.5/24 dev mine", "link set mine up")
	err := h.Do(func() error {
		d, err := Open(Settings{Name: "mine", MTU: 1400, Spans: []Span{span(t, "10.6.0.0/24")}, Routes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
		if err != nil {
			return err
		}
		if own := d.Own(); len(own) != 1 || own[0].String() != "10.5.5.5" {
			t.Errorf("its address is %v", own)
		}
		if err := d.SetMTU(1380); err != nil {
			t.Error(err)
		}
		if mtu, err := InterfaceMTU("mine"); err != nil || mtu != 1380 {
			t.Errorf("its MTU is %d; %v", mtu, err)
		}
		if _, err := Open(Settings{Name: "mine", MTU: 1400}); err == nil || !strings.Contains(err.Error(), "another program holds it") {
			t.Errorf("it is opened twice: %v", err)
		}
		return d.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	routes := h.Run("ip", "route", "show", "dev", "mine")
	for _, want := range []string{"10.5.5.0/24", "10.6.0.0/24", "192.0.2.0/24"} {
		if !strings.Contains(routes, want) {
			t.Errorf("%s does not lead there: %s", want, routes)
		}
	}
}

// One that we made goes with us, and its removal ends the link.
func TestADeviceThatIsRemoved(t *testing.T) {
	h := netns.New(t).Host("host")
	var d *Device
	open := func() (err error) {
		d, err = Open(Settings{Name: "rdv0", MTU: 1400, Spans: []Span{span(t, DefaultSpan4)}})
		return err
	}
	if err := h.Do(open); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := h.Try("ip", "link", "show", "rdv0"); err == nil {
		t.Errorf("it is still there: %s", out)
	}
	if err := h.Do(open); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		done <- NewLink(Config{Device: d, Own: d.Own(), Peers: NewFixed(1), Now: time.Now}, 1400).Run(t.Context())
	}()
	h.IP("link del rdv0")
	if err := <-done; err == nil || !strings.Contains(err.Error(), "was it removed?") {
		t.Errorf("the link ended with %v", err)
	}
}

// Where TUN devices can't be had it is said why.
func TestNoDevice(t *testing.T) {
	if os.Geteuid() == 0 {
		h := netns.New(t).Host("host")
		err := h.Do(func() error { _, err := Open(Settings{Name: "lo", MTU: 1400}); return err })
		if err == nil || !strings.Contains(err.Error(), "no TUN device") {
			t.Errorf("the loopback interface: %v", err)
		}
		return
	}
	if _, err := Open(Settings{Name: "rdv0", MTU: 1400}); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("without privilege: %v", err)
	}
}

// The peer's addresses in these tests.
var (
	peer4 = netip.MustParseAddr("198.19.0.2")
	peer6 = netip.MustParseAddr("fd72:6476:7475:6e00::2")
)
