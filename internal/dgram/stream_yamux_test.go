package dgram

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// S0-20: a relay leg within TLS is a stream of a multiplexer.
func TestStreamOnMultiplexer(t *testing.T) {
	x, y := tcpPair(t)
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	client, err := yamux.Client(x, config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := yamux.Server(y, config)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	out, err := client.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	in, err := server.AcceptStream()
	if err != nil {
		t.Fatal(err)
	}
	a, b := NewStream(out, farAway, StreamOptions{}), NewStream(in, farAway, StreamOptions{})
	const n = 600
	go func() {
		for i := range n {
			_ = a.Write(One(farAway, bytes.Repeat([]byte{byte(i)}, 1+i*2)))
		}
	}()
	for i, d := range gather(t, b, n) {
		if len(d) != 1+2*i || d[0] != byte(i) {
			t.Fatalf("datagram %d is of %d bytes", i, len(d))
		}
	}
	if at := a.LocalAddr(); !at.Addr().IsLoopback() {
		t.Errorf("local address %v", at)
	}
	// A write that is stuck ends when the stream does.
	for range 200 {
		_ = a.Write(Burst{Addr: farAway, Buf: make([]byte, 40*1400), Size: 1400})
	}
	if a.Dropped() == 0 {
		t.Error("a stream that nobody reads has dropped nothing")
	}
	_ = a.Close()
	select {
	case <-a.Done():
	case <-time.After(5 * time.Second):
		t.Error("the end is not told")
	}
	var arena Arena
	defer arena.Release()
	for err = nil; err == nil; {
		_, err = b.Read(&arena)
	}
	if !errors.Is(err, net.ErrClosed) || !errors.Is(b.Err(), io.EOF) {
		t.Errorf("the other end: %v, %v", err, b.Err())
	}
}
