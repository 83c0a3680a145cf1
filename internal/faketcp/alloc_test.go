package faketcp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
)

// still is a device that takes everything, and brings the same run for ever.
type still struct {
	seg   segment
	given segment
	burst dgram.Burst
	ended bool
}

func (d *still) send(*segment, dgram.Burst) error { return nil }

func (d *still) receive(a *dgram.Arena, visit func(s *segment, b dgram.Burst)) error {
	if d.ended {
		return net.ErrClosed
	}
	a.Reset()
	d.given = d.seg
	visit(&d.given, d.burst)
	d.seg.seq += uint32(len(d.burst.Buf))
	return nil
}

func (d *still) local() netip.AddrPort           { return rightAddr }
func (d *still) setReadDeadline(time.Time) error { return nil }
func (d *still) close() error                    { d.ended = true; return nil }

// carrying is a Conn with one established flow on a device that costs nothing.
func carrying() (*Conn, *still) {
	d := &still{burst: dgram.Burst{Addr: leftAddr, Buf: make([]byte, 16*1400), Size: 1400}}
	c := newConn(d, Options{}, false)
	iss := c.table.cookies.mint(c.now(), leftAddr, sawMask)
	d.seg = segment{local: rightAddr, remote: leftAddr, seq: 1, ack: iss + 1, flags: flagACK | flagPSH, window: 0xFE00}
	return c, d
}

// Nothing is allocated for a datagram, nor for a burst.
func TestDataAllocatesNothing(t *testing.T) {
	if racing {
		t.Skip("sync.Pool forgets at random")
	}
	c, _ := carrying()
	var a dgram.Arena
	defer a.Release()
	b := dgram.Burst{Addr: leftAddr, Buf: make([]byte, 16*1400), Size: 1400}
	if n := testing.AllocsPerRun(1000, func() {
		if bursts, err := c.Read(&a); err != nil || len(bursts) != 1 {
			t.Fatal(bursts, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a read", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a write", n)
	}
}

// BenchmarkConn is what the protocol costs for a burst of 16, without a kernel.
func BenchmarkConn(b *testing.B) {
	burst := dgram.Burst{Addr: leftAddr, Buf: make([]byte, 16*1400), Size: 1400}
	b.Run("read", func(b *testing.B) {
		c, _ := carrying()
		var a dgram.Arena
		b.ReportAllocs()
		b.SetBytes(int64(len(burst.Buf)))
		for b.Loop() {
			if _, err := c.Read(&a); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("write", func(b *testing.B) {
		c, _ := carrying()
		var a dgram.Arena
		if _, err := c.Read(&a); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		b.SetBytes(int64(len(burst.Buf)))
		for b.Loop() {
			if err := c.Write(burst); err != nil {
				b.Fatal(err)
			}
		}
	})
}
