package dgram

import (
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkStream writes bursts of 16 datagrams of 1400 bytes over loopback as
// fast as they are read: no faster, since a Stream drops what is too much.
func BenchmarkStream(b *testing.B) {
	b.Run("kernel", func(b *testing.B) { benchStream(b, func(c net.Conn) net.Conn { return c }) })
	b.Run("any", func(b *testing.B) { benchStream(b, func(c net.Conn) net.Conn { return onlyConn{c} }) })
}

func benchStream(b *testing.B, wrap func(net.Conn) net.Conn) {
	x, y := tcpPair(b)
	from, to := NewStream(wrap(x), farAway, StreamOptions{}), NewStream(wrap(y), farAway, StreamOptions{})
	defer from.Close()
	defer to.Close()
	const segments, size = 16, 1400
	var got, visits, bursts atomic.Int64
	credit := make(chan struct{}, 1)
	go func() {
		var arena Arena
		for {
			all, err := to.Read(&arena)
			if err != nil {
				return
			}
			for _, x := range all {
				got.Add(int64(x.Len()))
			}
			visits.Add(1)
			bursts.Add(int64(len(all)))
			select {
			case credit <- struct{}{}:
			default:
			}
		}
	}()
	burst := Burst{Addr: farAway, Buf: make([]byte, segments*size), Size: size}
	b.SetBytes(segments * size)
	b.ReportAllocs()
	begun := time.Now()
	for i := range b.N {
		for int64(i)*segments-got.Load()-int64(from.Dropped()) > 512 {
			<-credit
		}
		if err := from.Write(burst); err != nil {
			b.Fatal(err)
		}
	}
	for got.Load()+int64(from.Dropped()) < int64(b.N)*segments {
		<-credit
	}
	took := time.Since(begun)
	b.ReportMetric(float64(got.Load())/took.Seconds(), "datagrams/s")
	b.ReportMetric(float64(got.Load()*size*8)/took.Seconds()/1e9, "Gbit/s")
	b.ReportMetric(float64(from.Dropped()), "dropped")
	b.ReportMetric(float64(got.Load())/float64(visits.Load()), "datagrams/read")
	b.ReportMetric(float64(bursts.Load())/float64(visits.Load()), "bursts/read")
}
