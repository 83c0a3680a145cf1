package session

import (
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

func TestReplayedAndForgedDatagramsAreCountedAndDropped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false)
		p.try(t, 0)
		from := path.Path{Conn: p.b.conns[0], Addr: p.addr(0, 0)}
		rx := NewRx()
		k := p.a.keys.sending.Load()
		d := k.sealer.Seal(nil, k.epoch, 5, k.counter.Add(1)-1, []byte("once"))
		for range 3 {
			p.b.Receive(rx, from, path.DirectUDP, dgram.One(from.Addr, d))
		}
		forged := k.sealer.Seal(nil, k.epoch, 5, k.counter.Add(1)-1, []byte("once"))
		forged[len(forged)-1] ^= 1
		p.b.Receive(rx, from, path.DirectUDP, dgram.One(from.Addr, forged))
		p.b.Receive(rx, from, path.DirectUDP, dgram.One(from.Addr, []byte{0xa0}))
		p.b.Receive(rx, from, path.DirectUDP, dgram.One(from.Addr, []byte("garbage that is no datagram of ours")))
		if n := len(p.b.received()); n != 1 {
			t.Errorf("%d datagrams delivered, want 1", n)
		}
		drops := p.b.Counts().Dropped
		if drops["replayed"] != 2 || drops["bad-header"] != 2 || drops["bad-seal"] != 1 {
			t.Errorf("drops %v", drops)
		}
	})
}

// S1-16
func TestPeerReflexiveAddressBecomesAPath(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false, natlab.Delay(10*time.Millisecond))
		p.try(t, 0)
		time.Sleep(time.Second)
		p.hosts[0].Readdress("198.51.100.77")
		for i := range uint32(300) {
			p.a.Send(1, dgram.One(netip.AddrPort{}, numbered(i, 60)))
			p.b.Send(2, dgram.One(netip.AddrPort{}, numbered(i, 60)))
			time.Sleep(10 * time.Millisecond)
		}
		r := p.b.Paths()
		if len(r) == 0 || r[0].Path.Addr.Addr() != netip.MustParseAddr("198.51.100.77") {
			t.Errorf("b sends to %+v", r)
		}
		if n := len(p.a.received()); n < 150 {
			t.Errorf("a got %d of 300 after it moved", n)
		}
	})
}
