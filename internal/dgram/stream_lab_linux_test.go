package dgram_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
)

// S0-20: a stream that is offered more than it can take delivers what is new,
// not what is old: on a link of 2 Mbit/s, offered 6, all that arrives is young,
// and the link is used.
func TestStreamStaysYoungOnSlowLink(t *testing.T) {
	const rate, offered = 2e6, 6e6
	s := netns.Standard(t, netns.Options{VPSLaptop: 15 * time.Millisecond})
	s.SetBoth("vps", "laptoprouter", func(l *hop.Link) { l.Rate = rate; l.Queue = 100 * time.Millisecond })
	at := netip.MustParseAddrPort(netns.VPSAddr + ":7001")
	var listener net.Listener
	var conn net.Conn
	err := s.VPS.Do(func() (err error) { listener, err = dgram.SystemStreams().ListenTCP(at); return err })
	if err == nil {
		err = s.Laptop.Do(func() (err error) {
			conn, err = dgram.SystemStreams().DialTCP(t.Context(), netip.AddrPort{}, at)
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	to := dgram.NewStream(accepted, at, dgram.StreamOptions{})
	from := dgram.NewStream(conn, at, dgram.StreamOptions{})
	defer to.Close()
	defer from.Close()

	const size, run = 1200, 4 * time.Second
	begun := time.Now()
	go func() {
		pace := time.NewTicker(10 * time.Millisecond)
		defer pace.Stop()
		sent := 0
		for now := range pace.C {
			if now.Sub(begun) > run {
				_ = from.Close()
				return
			}
			for ; float64(sent)*size*8 < offered*time.Since(begun).Seconds(); sent++ {
				_ = from.Write(dgram.One(at, binary.BigEndian.AppendUint64(make([]byte, size-8, size), uint64(time.Since(begun)))))
			}
		}
	}()
	var ages []time.Duration
	var arena dgram.Arena
	defer arena.Release()
	for {
		bursts, err := to.Read(&arena)
		if err != nil {
			break
		}
		for _, b := range bursts {
			for d := range b.All() {
				ages = append(ages, time.Since(begun)-time.Duration(binary.BigEndian.Uint64(d[size-8:])))
			}
		}
	}
	got := float64(len(ages)) * size * 8 / run.Seconds()
	slices.Sort(ages)
	if len(ages) == 0 {
		t.Fatal("nothing arrived")
	}
	t.Logf("%.2f of %.0f Mbit/s; age: median %v, 95 %% %v, most %v; %d dropped", got/1e6, rate/1e6,
		ages[len(ages)/2], ages[len(ages)*95/100], ages[len(ages)-1], from.Dropped())
	if got < 0.6*rate {
		t.Errorf("%.2f Mbit/s arrived over a link of %.0f", got/1e6, rate/1e6)
	}
	if p := ages[len(ages)*95/100]; p > time.Second {
		t.Errorf("datagrams of %v", p)
	}
}
