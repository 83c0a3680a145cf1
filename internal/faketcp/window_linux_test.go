package faketcp

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
)

// The window of a SYN/ACK is not scaled, and Linux' connection tracking lets no
// more than twice that pass until it saw one that is. So who only receives
// sends an ACK as soon as it is open, before the usual one per 64 segments.
func TestOneWayFromTheStart(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	vps := listen(t, s.VPS, netns.VPSAddr+":443", nil, func(*Conn, netip.AddrPort, []byte) {})
	home := listen(t, s.Home, "0.0.0.0:0", nil, func(*Conn, netip.AddrPort, []byte) {})
	s.Home.CountArriving("answers", "meta l4proto 6")
	if err := home.Open(t.Context(), vps.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	netns.Eventually(t, 5*time.Second, "an ACK behind the SYN/ACK", func() error {
		if n := s.Home.Counter("answers").Packets; n < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	const bursts = 40 // which would not fit twice 64 KiB
	for range bursts {
		if err := home.Write(dgram.Burst{Addr: vps.LocalAddr(), Buf: pattern(16000), Size: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	netns.Eventually(t, 5*time.Second, "all datagrams", func() error {
		if vps.Counts().Received < 16*bursts {
			return errors.New("not all yet")
		}
		return nil
	})
}
