package rendezvous

import (
	"bytes"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// TestGarbage sends what nobody should to a port, and looks that it is counted
// and that the coordinator goes on.
func TestGarbage(t *testing.T) {
	c, g := local(t, "home")
	home := g[0]
	conn, err := localNetwork().ListenUDP(loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	luck := rand.New(rand.NewPCG(1, 2))
	for _, to := range c.Addrs() {
		for _, first := range []byte{0x00, 0x01, 0x3f, 0x40, 0x7f, 0x80, 0x81, 0x83, 0x84, 0x85, 0xa0, 0xbf, 0xc0, 0xff} {
			for _, size := range []int{1, 2, 20, 43, 62, 1200, 1400} {
				b := make([]byte, size)
				for i := range b {
					b[i] = byte(luck.Uint32())
				}
				b[0] = first
				if err := conn.Write(dgram.One(to, b)); err != nil {
					t.Fatal(err)
				}
			}
			if err := conn.Write(dgram.One(to, nil)); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Write(dgram.One(to, wake)); err != nil {
			t.Fatal(err)
		}
	}
	// What was sent before this request was read before it.
	if _, err := home.register(); err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewPedanticRegistry()
	metrics.MustRegister(c.Collector())
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	dropped := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "rendezvous_drops_total" {
			for _, m := range f.GetMetric() {
				dropped[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if dropped["unknown-kind"] == 0 || dropped["relay-unknown-source"] == 0 {
		t.Errorf("counted %v", dropped)
	}
}

// TestSlowReader has an agent that does not read what it is sent.
func TestSlowReader(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c, home, _ := virtualPair(t)
		here, ok := c.present.find(home.key())
		if !ok {
			t.Fatal("home is not there")
		}
		m := &proto.ToAgent{Body: &proto.ToAgent_Offer{Offer: &proto.Offer{Body: make([]byte, maxOpening)}}}
		fits := eventBuffer + streamWindow/maxOpening + maxOutbox
		for range fits + 8 {
			here.conn.send(m)
			time.Sleep(5 * time.Millisecond) // less than the client's heartbeat in all
		}
		if n := c.drops.slow.Load(); n != 1 {
			t.Errorf("%d agents were cut off as slow", n)
		}
		for range home.Events() {
			continue // until the connection has ended
		}
		if home.Err() == nil || !strings.Contains(home.Err().Error(), "does not read") {
			t.Errorf("it ended with %v", home.Err())
		}
	})
}

func TestStandingReplaced(t *testing.T) {
	_, g := local(t, "home", "laptop")
	home, laptop := g[0], g[1]
	standing := func(b []byte) *proto.ToCoordinator {
		return &proto.ToCoordinator{Body: &proto.ToCoordinator_Standing{Standing: &proto.Standing{Sealed: b}}}
	}
	home.must(standing([]byte("new")))
	_, err := home.ask(standing(make([]byte, maxStanding+1)))
	wantCode(t, "a large one", err, proto.Code_CODE_BAD_REQUEST)
	if got := laptop.must(laptop.introduce(home, false, false)).GetIntroduced().GetStanding().GetSealed(); string(got) != "new" {
		t.Errorf("introduced with %q", got)
	}
}

// TestNoMessage writes what is no message on a control stream.
func TestNoMessage(t *testing.T) {
	c, g := local(t, "home")
	home := g[0]
	if _, err := home.stream.Write([]byte{255, 255, 255, 255, 15}); err != nil {
		t.Fatal(err)
	}
	if m, ok := <-home.Events(); ok {
		t.Errorf("got %v", m)
	}
	if n := c.drops.badMessage.Load(); n != 1 {
		t.Errorf("counted %d", n)
	}
}

// TestOtherProtocols refuses clients without a certificate or of another ALPN.
func TestOtherProtocols(t *testing.T) {
	c, g := local(t, "home")
	cert, err := g[0].id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	for _, alpn := range []string{"h3", ALPN} {
		config := clientTLS(c.pin, cert, "", func(*PinError) {})
		config.NextProtos = []string{alpn}
		if alpn == ALPN {
			config.Certificates = nil
		}
		conn, err := quic.DialAddr(t.Context(), net.UDPAddrFromAddrPort(c.Addrs()[0]).String(), config, nil)
		if err != nil {
			continue
		}
		// With TLS 1.3 the client may be done before the server has refused.
		select {
		case <-conn.Context().Done():
		case <-time.After(5 * time.Second):
			t.Errorf("a client of %q without a certificate stays connected", alpn)
		}
	}
}

func TestFullPortsSayWhatToDo(t *testing.T) {
	c, _ := local(t)
	registry := openTest(t)
	_, err := New(Config{Network: localNetwork(), Registry: registry, Listen: c.Addrs()[0], Alternate: NoAlternate})
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("--listen")) {
		t.Errorf("a main port in use gave %v", err)
	}
	_, err = New(Config{Network: localNetwork(), Registry: registry, Listen: loopback, Alternate: int(c.Addrs()[1].Port())})
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("alternate_port")) {
		t.Errorf("an alternate port in use gave %v", err)
	}
}
