package share

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// TestInitialVectors opens the client's Initial of RFC 9001 and RFC 9369.
func TestInitialVectors(t *testing.T) {
	for _, vector := range []string{rfc9001, rfc9369} {
		d := unhex(t, vector)
		p, err := parseInitial(d)
		if err != nil {
			t.Fatal(err)
		}
		frames, err := p.open()
		if err != nil || len(frames) != 1162 {
			t.Fatalf("%d bytes, %v", len(frames), err)
		}
		var g gathering
		hello, err := g.add(frames)
		if err != nil || hello == nil {
			t.Fatalf("no ClientHello: %v", err)
		}
		h, err := parseHello(hello)
		if err != nil || h.ServerName != "example.com" || !slices.Equal(h.Protocols, []string{"alpn"}) {
			t.Errorf("%+v, %v", h, err)
		}
		d[700] ^= 1
		if p, err = parseInitial(d); err == nil {
			_, err = p.open()
		}
		if err == nil {
			t.Error("a forged one opens")
		}
	}
}

// clientFlight is what a QUIC client sends first.
func clientFlight(t testing.TB, version quic.Version, name string, alpn ...string) [][]byte {
	t.Helper()
	sink, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = quic.DialAddr(ctx, sink.LocalAddr().String(), &tls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true},
			&quic.Config{Versions: []quic.Version{version}})
	}()
	var out [][]byte
	buf := make([]byte, 2000)
	_ = sink.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		n, _, err := sink.ReadFromUDP(buf)
		if err != nil {
			break
		}
		out = append(out, bytes.Clone(buf[:n]))
		_ = sink.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	}
	cancel()
	<-done
	return out
}

// TestQUICFlights reads what a real client sends, of both versions; its
// ClientHello takes two datagrams and comes in pieces.
func TestQUICFlights(t *testing.T) {
	for _, version := range []quic.Version{quic.Version1, quic.Version2} {
		flight := clientFlight(t, version, "www.Example.org", "h3", "other")
		var g gathering
		var hello []byte
		for i, d := range flight {
			p, err := parseInitial(d)
			if err != nil {
				t.Fatalf("%v: datagram %d of %d: %v", version, i, len(flight), err)
			}
			frames, err := p.open()
			if err == nil {
				hello, err = g.add(frames)
			}
			if err != nil {
				t.Fatalf("%v: datagram %d: %v", version, i, err)
			}
			if hello != nil {
				break
			}
		}
		if hello == nil {
			t.Fatalf("%v: no whole ClientHello in %d datagrams", version, len(flight))
		}
		h, err := parseHello(hello)
		if err != nil || h.ServerName != "www.example.org" || !slices.Equal(h.Protocols, []string{"h3", "other"}) {
			t.Errorf("%v: %+v, %v of %d datagrams", version, h, err, len(flight))
		}
	}
}

func FuzzInitial(f *testing.F) {
	f.Add(unhex(f, rfc9001))
	f.Add(make([]byte, 1200))
	f.Fuzz(func(t *testing.T, d []byte) {
		p, err := parseInitial(d)
		if err != nil {
			return
		}
		before := bytes.Clone(d)
		_, _ = p.open()
		if !bytes.Equal(before, d) {
			t.Error("the datagram was changed")
		}
	})
}

// FuzzFrames takes any frames: what is whole is what was put there.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 1, 6, 0, 4, 1, 0, 0, 0})
	f.Add([]byte{6, 4, 2, 'x', 'y', 6, 0, 4, 1, 0, 0, 2})
	f.Add([]byte{2, 0, 0, 0, 0, 6, 0, 1, 1})
	f.Fuzz(func(t *testing.T, frames []byte) {
		var g gathering
		hello, _ := g.add(frames)
		if len(g.hello) > mostHello || len(g.pieces) > gatherPieces {
			t.Errorf("%d bytes in %d pieces are held", len(g.hello), len(g.pieces))
		}
		if hello != nil {
			_, _ = parseHello(hello)
		}
	})
}

func BenchmarkInitial(b *testing.B) {
	d := unhex(b, rfc9001)
	b.ReportAllocs()
	for b.Loop() {
		p, err := parseInitial(d)
		if err != nil {
			b.Fatal(err)
		}
		frames, err := p.open()
		var g gathering
		hello, err2 := g.add(frames)
		if err != nil || err2 != nil {
			b.Fatal(err, err2)
		}
		if _, err := parseHello(hello); err != nil {
			b.Fatal(err)
		}
	}
}
