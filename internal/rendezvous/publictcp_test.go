package rendezvous

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
	"rendezvous/internal/stream"
	"rendezvous/proto"
)

// echo is the agent's part of public TCP ports: it accepts whatever comes, and
// its service gives back what it hears.
type echo struct {
	*stream.Conns
	p  *publicLab
	at netip.AddrPort // its service's

	mu   sync.Mutex
	asks []stream.Request
}

func (p *publicLab) echo() *echo {
	e := &echo{p: p, at: netip.MustParseAddrPort("192.168.1.2:22")}
	service, err := p.home.ListenTCP(e.at)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = service.Close() })
	go func() {
		for {
			conn, err := service.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	e.Conns = stream.New(stream.Config{Instance: 7, Accept: func(_ context.Context, r stream.Request) (net.Conn, error) {
		e.mu.Lock()
		e.asks = append(e.asks, r)
		e.mu.Unlock()
		if r.Service == "shut" {
			return nil, errors.New("the service is down")
		}
		return p.home.DialTCP(p.t.Context(), anyV4, e.at)
	}})
	p.t.Cleanup(e.Close)
	return e
}

// dialers are the two ways to a carrier.
func (e *echo) dialers() map[string]func() stream.Carrier {
	p := e.p
	cert, err := p.id.Certificate()
	if err != nil {
		p.t.Fatal(err)
	}
	must := func(c stream.Carrier, err error) stream.Carrier {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
		return c
	}
	return map[string]func() stream.Carrier{
		"quic": func() stream.Carrier {
			d := NewDialer(p.packets(p.home))
			p.t.Cleanup(func() { _ = d.Close() })
			return must(d.DialStreams(p.t.Context(), p.Addrs()[0], p.pin, cert))
		},
		"tls": func() stream.Carrier {
			return must(in(p.home).DialStreams(p.t.Context(), p.Addrs()[0].String(), p.pin, cert))
		},
	}
}

// packets is a new socket of a host, for QUIC.
func (p *publicLab) packets(host *natlab.Host) net.PacketConn {
	p.t.Helper()
	conn, err := host.ListenUDP(anyV4)
	if err != nil {
		p.t.Fatal(err)
	}
	pc := dgram.NewPacketConn(conn)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_ = path.Read(conn, func(b dgram.Burst) { pc.Deliver(b) })
	}()
	p.t.Cleanup(func() {
		_ = pc.Close()
		_ = conn.Close()
		<-read
	})
	return pc
}

func tcpPort(n uint32, service string) *proto.PublicPort {
	return &proto.PublicPort{Service: service, Port: n, Tcp: true}
}

// visit connects to a public port as a client does.
func visit(t *testing.T, host *natlab.Host, n uint16) net.Conn {
	t.Helper()
	c, err := host.DialTCP(t.Context(), anyV4, netip.AddrPortFrom(wgPort.Addr(), n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func noise(n int) []byte {
	out := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(out)
	return out
}

// crossTCP sends bytes and wants them back; meanwhile is called in the midst.
func crossTCP(t *testing.T, c net.Conn, n int, meanwhile func()) {
	t.Helper()
	sent := noise(n)
	go func() {
		_, _ = c.Write(sent[:n/2])
		meanwhile()
		_, _ = c.Write(sent[n/2:])
	}()
	got := make([]byte, n)
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if k, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("after %d of %d bytes: %v", k, n, err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what came back is not what was sent")
	}
}

// S3-01 for TCP: clients without an agent reach a service at home over a public
// TCP port, whatever carries it, and while that is replaced.
func TestPublicTCP(t *testing.T) {
	for first, second := range map[string]string{"quic": "tls", "tls": "quic"} {
		t.Run(first, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := newPublicLab(t, nil)
				e := p.echo()
				p.mustPublish(tcpPort(51820, "ssh"))
				dial := e.dialers()
				e.Use(dial[first]())
				host := p.client("192.0.2.7/24")
				c := visit(t, host, 51820)
				crossTCP(t, c, 1<<20, func() { e.Use(dial[second]()) })
				// And the service is told who it is.
				e.mu.Lock()
				ask := e.asks[0]
				e.mu.Unlock()
				if ask.Service != "ssh" || ask.Client != dgram.AddrOf(c.LocalAddr()) || ask.Listen != wgPort {
					t.Errorf("the service was asked for by %+v", ask)
				}
				if st := e.Status(); st.Resumed == 0 {
					t.Errorf("the connection did not move: %+v", st)
				}
				if f := p.figures(51820); f.clients != 1 || f.started != 1 {
					t.Errorf("%+v", f)
				}
				_ = c.Close()
				time.Sleep(5 * time.Second)
				if f := p.figures(51820); f.clients != 0 {
					t.Errorf("after it was closed: %+v", f)
				}
			})
		})
	}
}

// wantReset says that the connection was taken and then broken.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the connection was not broken: %v", err)
	}
}

// Nobody waits for an agent that is not there, nor for a service that is down;
// caps and rates are those of the port.
func TestPublicTCPRefuses(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := newPublicLab(t, func(r *PublishRule) { r.MaxClients, r.NewClientsSource = 3, 1 })
		e := p.echo()
		p.mustPublish(tcpPort(51820, "ssh"), tcpPort(51821, "shut"))
		e.Use(e.dialers()["quic"]())
		host := p.client("192.0.2.7/24")
		wantReset(t, visit(t, host, 51821))
		if n := p.figures(51821).drops["refused"]; n != 1 {
			t.Errorf("%d were refused by the agent", n)
		}
		for range 3 {
			crossTCP(t, visit(t, host, 51820), 10, func() {})
		}
		wantReset(t, visit(t, host, 51820))
		if n := p.figures(51820).drops["full"]; n != 1 {
			t.Errorf("%d were too many", n)
		}
		for range 20 { // 16 may come at once, and one a second
			wantReset(t, visit(t, host, 51821))
		}
		if n := p.figures(51821).drops["source-rate"]; n == 0 {
			t.Error("no source came too often")
		}
		e.Close()
		p.leave()
		time.Sleep(time.Second)
		wantReset(t, visit(t, p.client("192.0.2.8/24"), 51820))
		if n := p.figures(51820).drops["no-agent"]; n != 1 {
			t.Errorf("%d came in vain", n)
		}
		time.Sleep(2 * time.Second)
		if n := p.log.count("no agent is connected"); n != 1 {
			t.Errorf("%d lines tell of it", n)
		}
	})
}

// A carrier is for those who have a public TCP port.
func TestCarrierOfNobody(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		e := p.echo()
		for name, dial := range e.dialers() {
			c := dial()
			select {
			case <-c.Done():
			case <-time.After(10 * time.Second):
				t.Errorf("%s: it was taken", name)
			}
			_ = c.Close()
		}
		p.mustPublish(tcpPort(51820, "ssh"))
		c := e.dialers()["quic"]()
		e.Use(c)
		crossTCP(t, visit(t, p.client("192.0.2.7/24"), 51820), 10, func() {})
		p.mustPublish()
		select {
		case <-c.Done():
		case <-time.After(10 * time.Second):
			t.Error("the carrier outlived its port")
		}
		if _, err := p.status(); err != nil {
			t.Error(err)
		}
	})
}

func (p *publicLab) status() (Status, error) { return p.Server.Status() }
