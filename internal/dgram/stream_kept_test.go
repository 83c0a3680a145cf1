package dgram

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/natlab/bubble"
)

// What must be kept is, however long it waits and whatever else is sent; other
// datagrams are dropped for their age as ever, but for what stands behind it.
func TestKeptDatagramsAreNotDropped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		at := netip.MustParseAddrPort("192.0.2.1:443")
		s, peer := NewStream(near, at, StreamOptions{}), NewStream(far, at, StreamOptions{})
		defer func() { _, _ = s.Close(), peer.Close() }()
		stop := make(chan struct{})
		const n = 200
		sent := make(chan error)
		go func() {
			for i := range n {
				if _, err := s.AwaitKept(stop); err != nil {
					sent <- err
					return
				}
				if err := s.WriteKept(Burst{Buf: append([]byte{1, byte(i)}, make([]byte, 998)...), Size: 500}); err != nil {
					sent <- err
					return
				}
				_ = s.Write(One(at, []byte{2, byte(i)}))
			}
			close(sent)
		}()
		var a Arena
		kept := 0
		for kept < n {
			time.Sleep(200 * time.Millisecond) // longer than datagrams grow old
			bursts, err := peer.Read(&a)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range bursts {
				for d := range b.All() {
					if d[0] != 1 {
						continue
					}
					if d[1] != byte(kept) {
						t.Fatalf("datagram %d came, %d was due", d[1], kept)
					}
					kept++
				}
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}

		// Who waits is let go, by his own wish or the stream's end.
		_ = s.WriteKept(One(at, make([]byte, 100)))
		_ = s.WriteKept(One(at, make([]byte, 100)))
		waits := make(chan error)
		go func() { _, err := s.AwaitKept(stop); waits <- err }()
		synctest.Wait()
		close(stop)
		if err := <-waits; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		go func() { _, err := s.AwaitKept(nil); waits <- err }()
		synctest.Wait()
		_ = s.Close()
		if err := <-waits; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}
