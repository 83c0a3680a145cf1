package natlab

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"rendezvous/internal/dgram"
)

// session makes a yamux session over TLS from one host to another, both ends.
func session(t *testing.T, from *Host, ln net.Listener, to string) (client, server *yamux.Session) {
	t.Helper()
	c, s := connect(t, from, ln, to)
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	config.EnableKeepAlive = false
	secure := tls.Server(s, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	ready := make(chan error, 1)
	go func() { ready <- secure.HandshakeContext(context.Background()) }()
	conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	if err := conn.HandshakeContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(secure, config)
	if err != nil {
		t.Fatal(err)
	}
	client, err = yamux.Client(conn, config)
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// Datagrams in streams of yamux, through TLS, in both directions at more than
// the line takes: what a relay's legs are. Virtual time must not stop.
func TestDatagramsThroughTLSAndYamux(t *testing.T) {
	for name, links := range map[string][]Option{
		"clean":    nil,
		"loss":     {Loss(0.03)},
		"2 Mbit/s": {Bandwidth(2e6, 100*time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			runtime.GC() // yamux keeps timers in a pool of the process; those of another bubble may not be used
			runtime.GC()
			inBubble(t, Options{}, func(t *testing.T, l *Lab) {
				vps := l.Host("vps", "203.0.113.10")
				home := l.NAT("router", "198.51.100.1", Home(), links...).Host("home", "192.168.1.2")
				client, server := session(t, home, listenTCP(t, vps, "0.0.0.0:443"), "203.0.113.10:443")
				var ends []*dgram.Stream
				for range 2 {
					a, err := client.Open()
					if err != nil {
						t.Fatal(err)
					}
					b, err := server.Accept()
					if err != nil {
						t.Fatal(err)
					}
					ends = append(ends, datagramsOver(a), datagramsOver(b))
				}
				counts := make(chan int)
				for _, c := range ends {
					go func() { counts <- arrivals(c) }()
				}
				const n = 20000
				for i := range n / 10 { // 10 datagrams of 1200 bytes each ms: 4 x 96 Mbit/s
					for _, c := range ends {
						_ = c.Write(dgram.Burst{Addr: netip.MustParseAddrPort("203.0.113.10:443"), Buf: make([]byte, 12000), Size: 1200})
					}
					if i%100 == 0 {
						time.Sleep(100 * time.Millisecond)
					}
				}
				time.Sleep(10 * time.Second)
				for _, c := range ends {
					_ = c.Close()
				}
				for range ends {
					got := <-counts
					t.Logf("%d of %d datagrams arrived", got, n)
					if got < n/400 {
						t.Errorf("%d of %d datagrams arrived", got, n)
					}
				}
				_, _ = client.Close(), server.Close()
			})
		})
	}
}

func datagramsOver(c net.Conn) *dgram.Stream {
	return dgram.NewStream(c, netip.MustParseAddrPort("203.0.113.10:443"), dgram.StreamOptions{})
}

func arrivals(c dgram.Conn) (n int) {
	var a dgram.Arena
	for {
		bursts, err := c.Read(&a)
		if err != nil {
			return n
		}
		for _, b := range bursts {
			n += b.Len()
		}
	}
}
