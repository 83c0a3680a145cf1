package dgram

import (
	"fmt"
	"testing"
)

// BenchmarkWrite sends bursts of 1400-byte datagrams to a socket that nobody
// reads: the cost of the send, and of the loopback behind it.
func BenchmarkWrite(b *testing.B) {
	for _, k := range kinds {
		for _, n := range []int{1, 16, 46} {
			b.Run(fmt.Sprintf("%s/burst=%d", k.name, n), func(b *testing.B) {
				network := System(k.opts)
				in, out := listen(b, network, loopbacks[0]), listen(b, network, loopbacks[0])
				burst, _ := burstOf(in.LocalAddr(), n, 1400, 1400)
				b.SetBytes(int64(len(burst.Buf)))
				b.ReportAllocs()
				for b.Loop() {
					if err := out.Write(burst); err != nil {
						b.Fatal(err)
					}
				}
				perDatagram(b, n)
			})
		}
	}
}

// BenchmarkRead reads what waits in the socket's buffer. How it came there is
// not measured.
func BenchmarkRead(b *testing.B) {
	for _, k := range kinds {
		for _, n := range []int{1, 16, 46} {
			b.Run(fmt.Sprintf("%s/sent=%d", k.name, n), func(b *testing.B) {
				network := System(k.opts)
				in, out := listen(b, network, loopbacks[0]), listen(b, network, loopbacks[0])
				burst, _ := burstOf(in.LocalAddr(), n, 1400, 1400)
				var arena Arena
				defer arena.Release()
				const fill = 736
				bursts := 0
				b.SetBytes(1400)
				b.ReportAllocs()
				b.ResetTimer()
				for done := 0; done < b.N; done += fill {
					b.StopTimer()
					for range fill / n {
						if err := out.Write(burst); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
					for got := 0; got < fill; {
						all, err := in.Read(&arena)
						if err != nil {
							b.Fatal(err)
						}
						bursts += len(all)
						for _, one := range all {
							got += one.Len()
						}
					}
				}
				b.ReportMetric(float64(b.N)/float64(bursts), "datagrams/burst")
			})
		}
	}
}

// BenchmarkForward is a hop as internal/forward makes it: read what waits,
// write it on. This is what the length of the bursts that a read returns
// decides.
func BenchmarkForward(b *testing.B) {
	for _, k := range kinds {
		for _, n := range []int{1, 16, 46} {
			b.Run(fmt.Sprintf("%s/sent=%d", k.name, n), func(b *testing.B) {
				network := System(k.opts)
				in, out, sink := listen(b, network, loopbacks[0]), listen(b, network, loopbacks[0]), listen(b, network, loopbacks[0])
				burst, _ := burstOf(in.LocalAddr(), n, 1400, 1400)
				var arena Arena
				defer arena.Release()
				const fill = 736
				b.SetBytes(1400)
				b.ReportAllocs()
				b.ResetTimer()
				for done := 0; done < b.N; done += fill {
					b.StopTimer()
					for range fill / n {
						if err := out.Write(burst); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
					for got := 0; got < fill; {
						all, err := in.Read(&arena)
						if err != nil {
							b.Fatal(err)
						}
						for _, one := range all {
							got += one.Len()
							one.Addr = sink.LocalAddr()
							if err := out.Write(one); err != nil {
								b.Fatal(err)
							}
						}
					}
				}
			})
		}
	}
}

func perDatagram(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/datagram")
}

// BenchmarkQuiet is one datagram that comes alone: what a reader at a low rate
// spends on it.
func BenchmarkQuiet(b *testing.B) {
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			network := System(k.opts)
			in, out := listen(b, network, loopbacks[0]), listen(b, network, loopbacks[0])
			one := One(in.LocalAddr(), make([]byte, 100))
			var arena Arena
			defer arena.Release()
			b.ReportAllocs()
			for b.Loop() {
				if err := out.Write(one); err != nil {
					b.Fatal(err)
				}
				if _, err := in.Read(&arena); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
