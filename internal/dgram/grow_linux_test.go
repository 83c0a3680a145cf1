//go:build linux

package dgram

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// A message longer than those of the visit before was once joined to its
// forerunner over the head of the message behind it: that one was lost and the
// long one's bytes came twice.
func TestMessagesThatGrowDoNotRunOverThoseBehind(t *testing.T) {
	const size = 1000
	network := System(DefaultOptions())
	from, err := network.ListenUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := network.ListenUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	var next, want uint32
	send := func(count int) {
		buf := make([]byte, count*size)
		for i := range count {
			binary.BigEndian.PutUint32(buf[i*size:], next)
			next++
		}
		if err := from.Write(Burst{Addr: to.LocalAddr(), Buf: buf, Size: size}); err != nil {
			t.Fatal(err)
		}
	}
	var arena Arena
	read := func() {
		for want < next {
			if err := to.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			bursts, err := to.Read(&arena)
			if err != nil {
				t.Fatalf("after %d of %d: %v", want, next, err)
			}
			for _, b := range bursts {
				for d := range b.All() {
					if got := binary.BigEndian.Uint32(d); got != want || len(d) != size {
						t.Fatalf("datagram %d of %d bytes came where %d was due", got, len(d), want)
					}
					want++
				}
			}
		}
	}
	for _, visit := range [][]int{{1}, {1, 3, 1, 1}, {1, 1}, {1, 2, 1, 5, 2, 1, 7, 3}, {1}, {1, 1, 20, 1, 1, 1}, {2, 2}, {1, 30, 2, 40, 1}} {
		for _, n := range visit {
			send(n)
		}
		read()
	}
}
