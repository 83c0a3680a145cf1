package stream

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// chunky is what one read of a busy client brings.
const chunky = 64 << 10

// flood is a local connection that gives as much as is asked for, or takes it,
// without touching the memory: what is measured is the layer alone.
type flood struct {
	net.Conn
	left  int
	total int
	over  chan struct{}
}

func (f *flood) Read(b []byte) (int, error) {
	if f.left == 0 {
		if f.total > 0 {
			<-f.over // it only takes
		}
		return 0, io.EOF
	}
	n := min(len(b), f.left, chunky)
	f.left -= n
	return n, nil
}

func (f *flood) Write(b []byte) (int, error) {
	if f.total -= len(b); f.total == 0 {
		close(f.over)
	}
	return len(b), nil
}

func (f *flood) CloseWrite() error { return nil }
func (f *flood) Close() error      { return nil }

// The layer alone, on a carrier in memory of which each byte is copied twice.
func BenchmarkLayer(b *testing.B) {
	total := b.N * chunky
	p := newPair(b, func(_, far *Config) {
		far.Accept = func(context.Context, Request) (net.Conn, error) {
			return &flood{total: total, over: make(chan struct{})}, nil
		}
	})
	p.use(256<<10, 0)
	b.SetBytes(chunky)
	b.ReportAllocs()
	b.ResetTimer()
	if err := p.near.Carry(context.Background(), &flood{left: total}, Request{}); err != nil {
		b.Error(err)
	}
	b.StopTimer()
}

// Between sockets of the kernel's, over each carrier; "none" is the two
// sockets with a copy between them.
func BenchmarkTCP(b *testing.B) {
	for name, carriers := range map[string]func(testing.TB) (Carrier, Carrier){
		"memory": func(testing.TB) (Carrier, Carrier) { return newCarriers2() },
		"QUIC":   quicPair,
		"yamux":  yamuxPair,
		"line":   lineCarriers,
		"none":   nil,
	} {
		b.Run(name, func(b *testing.B) {
			services := make(chan *net.TCPConn, 1)
			client, local := tcpPair(b)
			if carriers == nil {
				far, service := tcpPair(b)
				services <- service
				go func() { _, _ = io.Copy(struct{ io.Writer }{far}, struct{ io.Reader }{local}) }()
			} else {
				p := newPair(b, func(_, far *Config) {
					far.Accept = func(context.Context, Request) (net.Conn, error) {
						far, service := tcpPair(b)
						services <- service
						return far, nil
					}
				})
				near, far := carriers(b)
				p.near.Use(near)
				p.far.Use(far)
				go func() { _ = p.near.Carry(context.Background(), local, Request{}) }()
			}
			service := <-services
			b.SetBytes(chunky)
			b.ResetTimer()
			go func() {
				buf := make([]byte, chunky)
				for range b.N {
					_, _ = client.Write(buf)
				}
			}()
			buf := make([]byte, chunky)
			for range b.N {
				if _, err := io.ReadFull(service, buf); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
		})
	}
}

func newCarriers2() (Carrier, Carrier) { return newCarriers(256<<10, 0) }

// A question and its answer of 64 bytes each.
func BenchmarkRoundTrip(b *testing.B) {
	services := make(chan *net.TCPConn, 1)
	p := newPair(b, func(_, far *Config) {
		far.Accept = func(context.Context, Request) (net.Conn, error) {
			far, service := tcpPair(b)
			services <- service
			return far, nil
		}
	})
	p.use(256<<10, 0)
	client, local := tcpPair(b)
	go func() { _ = p.near.Carry(context.Background(), local, Request{}) }()
	service := <-services
	go func() { _, _ = io.Copy(service, service) }()
	buf := make([]byte, 64)
	_ = client.SetDeadline(time.Now().Add(time.Minute))
	for b.Loop() {
		_, _ = client.Write(buf)
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
}
