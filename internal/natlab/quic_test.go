package natlab

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"rendezvous/internal/dgram"
)

// transport is a QUIC transport on a conn, as agents have it: their own reader
// delivers to it.
func transport(t *testing.T, c dgram.Conn) *quic.Transport {
	t.Helper()
	pc := dgram.NewPacketConn(c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var a dgram.Arena
		defer a.Release()
		for {
			bursts, err := c.Read(&a)
			if err != nil {
				return
			}
			for _, b := range bursts {
				pc.Deliver(b)
			}
		}
	}()
	tr := &quic.Transport{Conn: pc}
	t.Cleanup(func() {
		for _, end := range []io.Closer{tr, pc, c} {
			if err := end.Close(); err != nil {
				t.Error(err)
			}
		}
		<-done
	})
	return tr
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vps"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// echoOnce accepts one QUIC connection and gives back its first stream.
func echoOnce(ctx context.Context, t *testing.T, listener *quic.Listener) {
	conn, err := listener.Accept(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err = io.Copy(stream, stream); err != nil {
		t.Error(err)
	}
	if err = stream.Close(); err != nil {
		t.Error(err)
	}
	<-conn.Context().Done()
}

// QUIC from behind two NATs to a public host, over a link with loss.
func TestQUICRunsInVirtualTime(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		vps := l.Host("vps", "203.0.113.10", Delay(20*time.Millisecond), Loss(0.02))
		home := l.NAT("carrier", "198.51.100.1", Carrier()).NAT("router", "100.64.0.2", Home()).Host("home", "192.168.1.2")
		server, client := transport(t, listen(t, vps, "0.0.0.0:443")), transport(t, listen(t, home, "0.0.0.0:0"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		config := &quic.Config{DisablePathMTUDiscovery: true}
		listener, err := server.Listen(&tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: []string{"natlab"}}, config)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			echoOnce(ctx, t, listener)
		}()

		start := time.Now()
		conn, err := client.Dial(ctx, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.10:443")), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"natlab"}}, config)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 50*time.Millisecond {
			t.Errorf("the handshake took %v, less than a round trip", d)
		}
		stream, err := conn.OpenStreamSync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		const size = 1 << 20
		go func() {
			if _, err := stream.Write(make([]byte, size)); err != nil {
				t.Error(err)
			}
			if err := stream.Close(); err != nil {
				t.Error(err)
			}
		}()
		if n, err := io.Copy(io.Discard, stream); n != size || err != nil {
			t.Errorf("%d bytes came back, error %v", n, err)
		}
		t.Logf("1 MiB there and back with 2 %% loss: %v of virtual time", time.Since(start))
		if err := conn.CloseWithError(0, ""); err != nil {
			t.Error(err)
		}
		<-done
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	})
}
