package rendezvous

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/stream"
)

// counted is a connection that notes the length of each write.
type counted struct {
	net.Conn
	writes chan int
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes <- len(b)
	return c.Conn.Write(b)
}

// TestFrameLeavesWhole wants a datagram's header and body in one write.
func TestFrameLeavesWhole(t *testing.T) {
	near, far := net.Pipe()
	below := &counted{Conn: near, writes: make(chan int, 100)}
	client, err := yamux.Client(stream.WholeFrames(below), muxConfig(zerolog.Nop()))
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(stream.WholeFrames(far), muxConfig(zerolog.Nop()))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() {
		if s, err := server.AcceptStream(); err == nil {
			all, _ := io.ReadAll(s)
			got <- all
		}
	}()
	s, err := client.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789ab"), 100) // pieces that look like headers
	for _, piece := range [][]byte{want[:12], want[12:13], want[13:]} {
		if _, err := s.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if all := <-got; !bytes.Equal(all, want) {
		t.Errorf("%d bytes came, want %d", len(all), len(want))
	}
	_, _ = client.Close(), server.Close()
	close(below.writes)
	var sizes []int
	for n := range below.writes {
		if n > 12 {
			sizes = append(sizes, n)
		}
	}
	if len(sizes) != 3 || sizes[0] != 24 || sizes[1] != 13 || sizes[2] != len(want)-13+12 {
		t.Errorf("writes of %v bytes", sizes)
	}
}

// BenchmarkRelayTLS is a relay leg's way through TLS on loopback, from a UDP
// socket's datagrams in the coordinator to the agent's conn.
func BenchmarkRelayTLS(b *testing.B) {
	c := newStreamCoordinator(b)
	laptop, home := tlsGuest(b, c, "laptop"), udpGuest(b, c, "home")
	in := laptop.must(laptop.introduce(home, false, true)).GetIntroduced()
	other := home.event().GetOffer().GetAllocation()
	conn, far, err := straight().Relay(b.Context(), c.tcp(b), c.pin, laptop.certificate())
	if err != nil {
		b.Fatal(err)
	}
	received := make(chan int, 1<<16)
	go func() {
		var arena dgram.Arena
		for {
			bursts, err := conn.Read(&arena)
			if err != nil {
				close(received)
				return
			}
			n := 0
			for _, each := range bursts {
				n += each.Len()
			}
			received <- n
		}
	}()
	if err := conn.Write(dgram.One(far, bindOf(in.GetAllocation(), 1))); err != nil {
		b.Fatal(err)
	}
	<-received
	from := home.conn.LocalAddr()
	c.relay.Receive(c.sockets[0].conn, dgram.One(from, bindOf(other, 1)))
	<-received
	const size, window, burst = 1280, 256, 32
	load := dgram.Burst{Addr: from, Buf: bytes.Repeat([]byte{0xa0}, burst*size), Size: size}
	b.SetBytes(size)
	b.ResetTimer()
	sent, got := 0, 0
	for got < b.N {
		for sent-got < window && sent < b.N {
			c.relay.Receive(c.sockets[0].conn, load)
			sent += burst
		}
		select {
		case n := <-received:
			got += n
		case <-time.After(time.Second):
			got = sent // the rest was dropped
		}
	}
	b.StopTimer()
	_ = conn.Close()
}
