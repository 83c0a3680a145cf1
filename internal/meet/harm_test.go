package meet

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// What was recorded, sent again, has nobody adopted, and stops nothing.
func TestRecordedMessagesDoNoHarm(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Behaviour{}, natlab.Behaviour{})
		secret := seal.NewSecret()
		var mu sync.Mutex
		var recorded [][]byte
		watch := func(_, _ netip.AddrPort, b []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			if k := proto.KindOf(b); k == proto.KindMeet || k == proto.KindMet {
				recorded = append(recorded, append([]byte{}, b...))
			}
			return false
		}
		w.one.DropWhen(watch)
		meet := func() (a, b *side) {
			a, b = start(t, w.one, secret, twos, 0), start(t, w.two, secret, ones, 0)
			a.await(Open, 20*time.Second)
			b.await(Open, 20*time.Second)
			return a, b
		}
		a, b := meet()
		b.stop()
		b.ended()
		a.ended()
		mu.Lock()
		old := recorded
		mu.Unlock()
		eve := w.lab.Host("eve", "203.0.113.66")
		conn, err := eve.ListenUDP(ap("0.0.0.0:40000"))
		if err != nil {
			t.Fatal(err)
		}
		replay := func() {
			for _, d := range old {
				for _, to := range []string{ones, twos} {
					_ = conn.Write(dgram.One(ap(to), d))
				}
			}
		}
		stop := make(chan struct{})
		over := make(chan struct{})
		go func() {
			defer close(over)
			for {
				replay()
				select {
				case <-stop:
					return
				case <-time.After(300 * time.Millisecond):
				}
			}
		}()
		a, b = meet()
		time.Sleep(time.Minute)
		close(stop)
		<-over
		for _, s := range []*side{a, b} {
			if last, n := s.saw(Open); n != 1 || strings.Contains(last.Addr, "203.0.113.66") {
				t.Errorf("opened %d times, last %+v", n, last)
			}
		}
		sent := w.lab.SentTo(netip.MustParseAddr("203.0.113.66"))
		if sent > 400 {
			t.Errorf("eve was sent %d datagrams for hers", sent)
		}
	})
}

func TestGarbageIsDropped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Behaviour{}, natlab.Behaviour{})
		secret := seal.NewSecret()
		a := start(t, w.one, secret, twos, 0)
		eve := w.lab.Host("eve", "203.0.113.66")
		conn, err := eve.ListenUDP(ap("0.0.0.0:0"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, d := range [][]byte{nil, {0x87}, make([]byte, 58), append([]byte{0x87}, make([]byte, 58)...), append([]byte{0x88}, make([]byte, 58)...),
			append([]byte{0x81}, make([]byte, 90)...), append([]byte{0xa0}, make([]byte, 90)...), append([]byte{0x87}, make([]byte, 1000)...)} {
			_ = conn.Write(dgram.One(ap(ones), d))
		}
		b := start(t, w.two, secret, ones, 0)
		a.await(Open, 20*time.Second)
		b.await(Open, 20*time.Second)
	})
}

func TestFaultsAreToldBeforeTheTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Home(), natlab.Home())
		echo(t, w.one, "127.0.0.1:7")
		a := start(t, w.one, seal.NewSecret(), twos, time.Hour, dialing("127.0.0.1:7"))
		if err := <-a.err; err == nil || !strings.Contains(err.Error(), "is the address this host's, and the port free?") {
			t.Errorf("%v", err)
		}
		echo(t, w.one, "0.0.0.0:40000")
		b := start(t, w.one, seal.NewSecret(), twos, time.Hour)
		if err := <-b.err; err == nil || !strings.Contains(err.Error(), "--local") {
			t.Errorf("%v", err)
		}
	})
}
