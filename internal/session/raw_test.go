package session

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// S3-07, S3-08
func TestRawPayloadIsNeverEatenAndNothingIsAdded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 1, true)
		p.try(t, 0)
		time.Sleep(2 * time.Second)
		token := p.a.PeerToken()
		awkward := [][]byte{
			append(append([]byte{0x81}, token[:]...), make([]byte, 100)...), // as a probe begins, not sealed
			append([]byte{0xa0, 0, 0, 0}, make([]byte, 40)...),              // as sealed data
			{}, {0x40}, bytes.Repeat([]byte{0x81}, proto.ProbeSize), make([]byte, 1472),
		}
		for _, d := range awkward {
			if !p.a.Send(0, dgram.One(netip.AddrPort{}, d)) {
				t.Fatalf("%d bytes were refused", len(d))
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		got := p.b.received()
		if len(got) != len(awkward) {
			t.Fatalf("%d of %d arrived: %v", len(got), len(awkward), p.b.Counts().Dropped)
		}
		for i := range got {
			if !bytes.Equal(got[i], awkward[i]) {
				t.Errorf("datagram %d was changed", i)
			}
		}
		if p.a.Send(0, dgram.One(netip.AddrPort{}, make([]byte, 1473))) {
			t.Error("a raw datagram larger than the path was taken")
		}
	})
}

func TestRawPayloadFromUnprovenAddressIsDropped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 1, true)
		p.try(t, 0)
		from := path.Path{Conn: p.b.conns[0], Addr: netip.MustParseAddrPort("203.0.113.66:9")}
		p.b.Receive(NewRx(), from, path.DirectUDP, dgram.One(from.Addr, []byte("spoofed")))
		if len(p.b.received()) != 0 || p.b.Counts().Dropped["unproven-address"] != 1 {
			t.Errorf("got %d, drops %v", len(p.b.received()), p.b.Counts().Dropped)
		}
	})
}
