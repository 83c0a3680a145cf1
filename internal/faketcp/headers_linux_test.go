package faketcp

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
)

// swapped is a UDP datagram as it would be under protocol 6.
func swapped(from, to uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// Shows the other half of S0-17, on Linux' own NAT: a UDP header under protocol
// 6 gets no mapping, whatever is behind it, though a bare SYN of ours that the
// same socket sends does.
func TestUDPUnderProtocol6DoesNotCrossANAT(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	raw := func(h *netns.Host, addr string) (conn net.PacketConn) {
		t.Helper()
		err := h.Do(func() (err error) {
			conn, err = new(net.ListenConfig).ListenPacket(context.Background(), "ip4:6", addr)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	vps, laptop := raw(s.VPS, netns.VPSAddr), raw(s.Laptop, netns.LaptopAddr)
	send := func(b []byte) {
		t.Helper()
		if _, err := laptop.WriteTo(b, &net.IPAddr{IP: net.ParseIP(netns.VPSAddr)}); err != nil {
			t.Fatal(err)
		}
	}
	const swappedPort, realPort = 41000, 41001
	random := rand.New(rand.NewPCG(17, 17))
	const n = 300
	for i := range n {
		payload := make([]byte, i%100)
		for k := range payload {
			if i < 200 {
				payload[k] = byte(random.Uint32())
			}
		}
		send(swapped(swappedPort, 443, payload))
	}
	syn := segment{
		local:  netip.AddrPortFrom(netip.MustParseAddr(netns.LaptopAddr), realPort),
		remote: netip.AddrPortFrom(netip.MustParseAddr(netns.VPSAddr), 443),
		seq:    1, flags: flagSYN, window: 0xffff,
	}
	packet := appendHeader(nil, &syn, 0, 0)
	complete(packet[ip4Size:], nil)
	send(packet[ip4Size:])

	if err := vps.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	came := make(map[uint16]int)
	buf := make([]byte, 2000)
	for came[realPort] == 0 {
		m, from, err := vps.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the SYN does not come either")
		}
		if err != nil {
			t.Fatal(err)
		}
		port := binary.BigEndian.Uint16(buf)
		came[port]++
		if port == swappedPort {
			t.Errorf("%d bytes of UDP under protocol 6 came from %v", m, from)
		}
	}
	if got := s.LaptopRouter.Counter("invalid").Packets; got != n {
		t.Errorf("%d of %d were INVALID to the NAT", got, n)
	}
}
