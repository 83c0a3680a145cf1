package agent

import (
	"bytes"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
)

// words counts what crosses a NAT's link with the marker in it, and all.
type words struct{ plain, all atomic.Int64 }

func (w *words) at(n *natlab.NAT) {
	n.DropWhen(func(_, _ netip.AddrPort, d []byte) bool {
		w.all.Add(1)
		if bytes.Contains(d, marker[:48]) {
			w.plain.Add(1)
		}
		return false
	})
}

// No kind of path is ever without seals, TCP between the agents least of all: what
// crosses the laptop's link is nowhere what clients sent. A ?raw service shows
// that the test would see it.
//
// S4-20
func TestEveryKindOfPathIsSealed(t *testing.T) {
	for _, c := range []struct {
		kind path.Kind
		raw  string
	}{
		{path.DirectUDP, ""}, {path.DirectFakeTCP, ""}, {path.DirectTCP, ""},
		{path.RelayUDP, ""}, {path.RelayFakeTCP, ""}, {path.RelayTLS, ""},
		{path.DirectUDP, "?raw"},
	} {
		t.Run(c.kind.String()+c.raw, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := newPair(t, natlab.Home(), func(p *pair) {
					serveTCP(t, p.home, webAt, echoTCP)
					listen(t, p.home, "127.0.0.1:51830", true)
				}, all(exposing(t, webName, "tcp://"+webAt), exposing(t, "plain", "udp://127.0.0.1:51830"+c.raw)),
					all(only(c.kind), dialing(t, "home", webName, "tcp://"+webTo), dialing(t, "home", "plain", "udp://127.0.0.1:51831")))
				var seen words
				seen.at(p.cafe)
				p.goes(t, c.kind.String())
				time.Sleep(5 * time.Second)
				for range 20 {
					p.client.send("127.0.0.1:51831", marker)
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(time.Second)
				if n := len(p.client.arrivals()); n != 21 {
					t.Errorf("%d datagrams came back", n)
				}
				conn := p.call(t)
				sent := bytes.Repeat(marker, 10)
				if _, err := conn.Write(sent); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(sent))
				if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("over TCP: %v", err)
				}
				if n := seen.plain.Load(); (n > 0) != (c.raw != "") || seen.all.Load() < 50 {
					t.Errorf("%d of %d datagrams and segments show what clients sent", n, seen.all.Load())
				}
			})
		})
	}
}
