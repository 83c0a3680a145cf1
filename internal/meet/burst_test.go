package meet

import (
	"encoding/binary"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/seal"
)

// Nothing of a client's first datagrams is lost: not while the flow opens, nor
// while the size of the path is sought.
func TestNothingIsLostAtTheBeginning(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Home(), natlab.Home())
		secret := seal.NewSecret()
		echo(t, w.one, "127.0.0.1:7")
		a := start(t, w.one, secret, twos, 0, exposing(t, "udp://127.0.0.1:7"))
		b := start(t, w.two, secret, ones, 0, dialing("127.0.0.1:7007"))
		a.await(Open, 20*time.Second)
		b.await(Open, 20*time.Second)
		conn, err := w.two.ListenUDP(ap("127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const n = 300
		go func() {
			for i := range n {
				d := make([]byte, 1000)
				binary.BigEndian.PutUint32(d, uint32(i))
				_ = conn.Write(dgram.One(ap("127.0.0.1:7007"), d))
				time.Sleep(2 * time.Millisecond)
			}
		}()
		seen := map[uint32]int{}
		var arena dgram.Arena
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		for len(seen) < n {
			bursts, err := conn.Read(&arena)
			if err != nil {
				break
			}
			for _, burst := range bursts {
				for d := range burst.All() {
					seen[binary.BigEndian.Uint32(d)]++
				}
			}
		}
		for i := range uint32(n) {
			if seen[i] != 1 {
				t.Errorf("datagram %d came back %d times", i, seen[i])
			}
		}
	})
}
