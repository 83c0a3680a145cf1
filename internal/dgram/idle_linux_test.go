package dgram

import (
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkIdleSockets tells the memory of a socket with a reader that waits:
// how an agent with thousands of flows spends its time. Each has received
// something before.
func BenchmarkIdleSockets(b *testing.B) {
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			const n = 5000
			network := System(k.opts)
			out := listen(b, network, loopbacks[0])
			var readers sync.WaitGroup
			for b.Loop() {
				debug.FreeOSMemory()
				before, conns := resident(b), make([]Conn, n)
				var got atomic.Int64
				for i := range conns {
					conn, err := network.ListenUDP(netip.AddrPortFrom(loopbacks[0], 0))
					if err != nil {
						b.Fatal(err)
					}
					conns[i] = conn
					readers.Go(func() { readAll(conn, &got) })
				}
				b.ReportMetric(float64(resident(b)-before)/n, "B/fresh-socket")
				for i, conn := range conns {
					if err := out.Write(One(conn.LocalAddr(), make([]byte, 1400))); err != nil {
						b.Fatal(err)
					}
					for got.Load() <= int64(i) {
						runtime.Gosched()
					}
				}
				b.ReportMetric(float64(resident(b)-before)/n, "B/used-socket")
				debug.FreeOSMemory()
				b.ReportMetric(float64(resident(b)-before)/n, "B/socket-after-GC")
				for _, conn := range conns {
					conn.Close()
				}
				readers.Wait()
			}
		})
	}
}

func readAll(conn Conn, got *atomic.Int64) {
	var arena Arena
	defer arena.Release()
	for {
		bursts, err := conn.Read(&arena)
		if err != nil {
			return
		}
		for _, b := range bursts {
			got.Add(int64(b.Len()))
		}
	}
}

// resident is this process's memory in bytes, as the kernel sees it.
func resident(b *testing.B) int64 {
	stat, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(stat))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
