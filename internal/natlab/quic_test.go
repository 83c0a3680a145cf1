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

// packetConn is a net.PacketConn on a dgram.Conn.
type packetConn struct {
	dgram.Conn
	arena dgram.Arena
	rest  [][]byte
	addrs []netip.AddrPort
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for len(c.rest) == 0 {
		bursts, err := c.Read(&c.arena)
		if err != nil {
			return 0, nil, err
		}
		c.addrs = c.addrs[:0]
		for _, burst := range bursts {
			for d := range burst.All() {
				c.rest, c.addrs = append(c.rest, d), append(c.addrs, burst.Addr)
			}
		}
	}
	n, from := copy(b, c.rest[0]), c.addrs[0]
	c.rest, c.addrs = c.rest[1:], c.addrs[1:]
	return n, net.UDPAddrFromAddrPort(from), nil
}

func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	return len(b), c.Write(dgram.One(to.(*net.UDPAddr).AddrPort(), b))
}

func (c *packetConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.Conn.LocalAddr()) }

func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

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
		server := &quic.Transport{Conn: &packetConn{Conn: listen(t, vps, "0.0.0.0:443")}}
		client := &quic.Transport{Conn: &packetConn{Conn: listen(t, home, "0.0.0.0:0")}}
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
		for _, c := range []io.Closer{listener, client, server, client.Conn, server.Conn} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
