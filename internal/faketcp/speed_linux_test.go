package faketcp

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

// BenchmarkBursts sends bursts of 16 datagrams of 1,400 bytes across a
// forwarding router; the figure is what arrives.
func BenchmarkBursts(b *testing.B) {
	for _, c := range []struct {
		name  string
		count int
		whole bool
	}{{"one", 1, false}, {"16", 16, false}, {"45", 45, false}, {"16 one by one", 16, true}} {
		b.Run(c.name, func(b *testing.B) { benchmarkBursts(b, c.count, c.whole) })
	}
}

func benchmarkBursts(b *testing.B, count int, whole bool) {
	w := newRoad(b)
	from, to := open(b, w.a, addrA4, 0, nil), open(b, w.b, addrB4, 0, nil)
	meet(b, from, to, from.local(), to.local())
	from.whole.Store(whole)
	var bytes, datagrams int
	done := make(chan error)
	go func() {
		a := new(dgram.Arena)
		for {
			err := to.receive(a, func(_ *segment, b dgram.Burst) {
				bytes += len(b.Buf)
				datagrams += b.Len()
			})
			if err != nil {
				done <- err
				return
			}
		}
	}()
	burst := dgram.Burst{Buf: pattern(count * 1400), Size: 1400}
	s := segment{local: from.local(), remote: to.local(), flags: flagPSH | flagACK, window: highWindow}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := from.send(&s, burst); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
			b.Fatal(err)
		}
		s.seq += uint32(len(burst.Buf))
	}
	took := b.Elapsed()
	b.StopTimer()
	_ = to.setReadDeadline(time.Now().Add(50 * time.Millisecond))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		b.Fatal(err)
	}
	b.ReportMetric(float64(bytes)*8/1e9/took.Seconds(), "Gbit/s")
	b.ReportMetric(100-100*float64(datagrams)/float64(b.N*count), "%lost")
}
