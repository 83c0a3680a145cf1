package faketcp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
)

// listen makes a Conn on a host, and a reader that gives each datagram to got.
func listen(t *testing.T, h *netns.Host, addr string, beside net.Listener, got func(c *Conn, from netip.AddrPort, b []byte)) *Conn {
	t.Helper()
	var c *Conn
	err := h.Do(func() error {
		network, err := System(DefaultOptions())
		if err != nil {
			return err
		}
		o, err := network.ListenFakeTCP(netip.MustParseAddrPort(addr), beside)
		if err == nil {
			c = o.(*Conn)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a := new(dgram.Arena)
		for {
			bursts, err := c.Read(a)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("read: %v", err)
				}
				return
			}
			for _, b := range bursts {
				for d := range b.All() {
					got(c, b.Addr, d)
				}
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c
}

// A laptop behind a NAT opens to a port on which a website answers too, and
// datagrams cross both ways in bursts: all of it on the kernel's own parts.
func TestConnsThroughNATBesideAWebsite(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	listener, client := website(t, s.VPS, netns.VPSAddr+":443")
	from(s.Home, client)
	var back, there int
	all := make(chan struct{})
	vps := listen(t, s.VPS, netns.VPSAddr+":443", listener, func(c *Conn, from netip.AddrPort, b []byte) {
		there++
		if err := c.Write(dgram.One(from, b)); err != nil {
			t.Errorf("answer %v: %v", from, err)
		}
	})
	home := listen(t, s.Home, "0.0.0.0:0", nil, func(_ *Conn, _ netip.AddrPort, b []byte) {
		if len(b) == 1000 && bytes.Equal(b[:8], pattern(16000)[back%16*1000:][:8]) {
			back++
		}
		if back == 160 {
			close(all)
		}
	})
	resets := watch(t, s.Home, home.LocalAddr())
	if err := home.Open(t.Context(), vps.LocalAddr()); err != nil {
		t.Fatalf("open: %v; %+v", err, vps.Counts())
	}
	for i := range 10 {
		if i == 1 {
			// What leaves within the first round trip should fit the window of a
			// SYN/ACK, 64 KiB.
			netns.Eventually(t, 5*time.Second, "the first answers", func() error {
				if home.Counts().Received < 16 {
					return errors.New("none yet")
				}
				return nil
			})
		}
		if err := home.Write(dgram.Burst{Addr: vps.LocalAddr(), Buf: pattern(16000), Size: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-all:
	case <-time.After(5 * time.Second):
		t.Fatalf("only some came back; home %+v %v, vps %+v %v", home.Counts(), home.DeviceCounts(), vps.Counts(), vps.DeviceCounts())
	}
	echo(t, client, "https://"+netns.VPSAddr+"/", 1<<20)
	if n := resets.count(); n > 0 {
		t.Errorf("%d RSTs left", n)
	}
	t.Logf("home %+v", home.Counts())
}
