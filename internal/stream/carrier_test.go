package stream

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/quic-go/quic-go"
)

// yamuxPair is a session of yamux over a byte stream in memory.
func yamuxPair(t testing.TB) (a, b Carrier) {
	near, far := newDuplex(256 << 10)
	client, err := yamux.Client(near, YamuxConfig())
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(far, YamuxConfig())
	if err != nil {
		t.Fatal(err)
	}
	return OverYamux(client), OverYamux(server)
}

// quicPair is a QUIC connection over loopback.
func quicPair(t testing.TB) (a, b Carrier) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(nil, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	chain := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	listener, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: chain, NextProtos: []string{"test"}}, QUICConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	near, err := quic.DialAddr(ctx, listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"test"}}, QUICConfig())
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return OverQUIC(near), OverQUIC(far)
}

// tcpPair is a connection of the kernel's.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	near, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// Over each carrier, and from one to the other while bytes cross, between
// sockets of the kernel's.
func TestCarriers(t *testing.T) {
	tests := map[string][]func(testing.TB) (Carrier, Carrier){
		"QUIC":               {quicPair},
		"yamux":              {yamuxPair},
		"yamux, QUIC, yamux": {yamuxPair, quicPair, yamuxPair},
	}
	for name, carriers := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			services := make(chan *net.TCPConn, 1)
			p := newPair(t, func(_, far *Config) {
				far.Accept = func(context.Context, Request) (net.Conn, error) {
					local, service := tcpPair(t)
					services <- service
					return local, nil
				}
			})
			near, far := carriers[0](t)
			p.near.Use(near)
			p.far.Use(far)

			client, local := tcpPair(t)
			ended := make(chan error, 1)
			go func() { ended <- p.near.Carry(context.Background(), local, Request{Service: "ssh"}) }()
			service := <-services
			up, down := noise(3, 20<<20), noise(4, 30<<20)
			go sendTCP(t, client, up)
			go sendTCP(t, service, down)
			done := make(chan struct{})
			go func() { wantTCP(t, service, up); close(done) }()
			moved := make(chan struct{})
			go func() {
				defer close(moved)
				for _, more := range carriers[1:] {
					near, far := more(t)
					time.Sleep(20 * time.Millisecond) // in the midst of it
					p.near.Use(near)
					p.far.Use(far)
				}
			}()
			wantTCP(t, client, down)
			<-done
			<-moved
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
