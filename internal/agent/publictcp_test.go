package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/stream"
)

// dialingStreams gives an agent the carriers of public TCP ports, as the command
// does.
func dialingStreams(c *Config) {
	c.Dialers.Streams = func(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (stream.Carrier, error) {
		d := rendezvous.NewDialer(pc)
		carrier, err := d.DialStreams(ctx, addr, pin, cert)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		return ownCarrier{carrier, d}, nil
	}
}

// ownCarrier is a carrier that closes its dialer.
type ownCarrier struct {
	stream.Carrier
	dialer *rendezvous.Dialer
}

func (c ownCarrier) Close() error { return errors.Join(c.Carrier.Close(), c.dialer.Close()) }

// publicTCP is a home with a TCP service at a public port, and a phone without
// an agent.
type publicTCP struct {
	*world
	homeHost, phone *natlab.Host
	home            *running
}

const publicWebAt = vpsAddr + ":51825"

func newPublicTCP(t *testing.T, options string, serve func(net.Conn)) *publicTCP {
	t.Helper()
	p := &publicTCP{world: newWorld(t)}
	p.homeHost, _, _ = p.world.home()
	p.phone, _ = p.world.road(natlab.Home())
	serveTCP(t, p.homeHost, webAt, serve)
	p.home = p.agent(p.homeHost, "home", all(dialingStreams, exposing(t, webName, "tcp://"+webAt+"?public=51825"+options)))
	p.settle()
	return p
}

// call connects the phone to the public port.
func (p *publicTCP) call(t *testing.T) net.Conn {
	t.Helper()
	c, err := p.phone.DialTCP(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort(publicWebAt))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A client without an agent reaches a TCP service at home, behind two NATs:
// S3-01 to S3-04 for TCP.
func TestPublicTCPPortReachesService(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicTCP(t, "", echoTCP)
		b := noise(1 << 20)
		var all []*pumped
		for range 5 {
			all = append(all, pump(p.call(t), b, 256<<10))
		}
		time.Sleep(time.Second)
		if st := p.home.Status().Services[0]; st.Flows != 5 || st.Public == nil || st.Public.Clients != 5 {
			t.Errorf("status counts %+v", st)
		}
		for _, u := range all {
			u.check(t, b, time.Second)
		}
	})
}

// The service learns who its client is: by a PROXY header (S3-22) and by an alias
// (S1-14).
func TestPublicTCPServiceIsToldItsClientsAddress(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		type seen struct {
			told, to string
			from     netip.Addr
		}
		saw := make(chan seen, 1)
		p := newPublicTCP(t, "&proxy&alias", func(c net.Conn) {
			in := bufio.NewReader(c)
			h, err := proxyproto.Read(in)
			if err != nil {
				t.Errorf("no header: %v", err)
				return
			}
			saw <- seen{h.SourceAddr.String(), h.DestinationAddr.String(), dgram.AddrOf(c.RemoteAddr()).Addr()}
			_, _ = io.Copy(struct{ io.Writer }{c}, in)
		})
		c := p.call(t)
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		got := <-saw
		if host, _, _ := net.SplitHostPort(got.told); host != "198.51.100.129" || got.to != publicWebAt {
			t.Errorf("told %+v", got)
		}
		if who, ok := p.home.aliases.Who(got.from); !ok || who != (forward.Client{Addr: netip.MustParseAddr("198.51.100.129")}) {
			t.Errorf("%v is %v's", got.from, who)
		}
	})
}

// A service that does not run refuses its clients by a reset, and so does a port
// whose service was withdrawn.
func TestPublicTCPRefusals(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicTCP(t, "", echoTCP)
		if err := p.home.Expose("idle", "tcp://127.0.0.1:9?public=51826"); err != nil {
			t.Fatal(err)
		}
		p.settle()
		c, err := p.phone.DialTCP(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort(vpsAddr+":51826"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client of a service that does not run sees %v", err)
		}
		live := p.call(t)
		if err := p.home.Unexpose(webName); err != nil {
			t.Fatal(err)
		}
		_ = live.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadAll(live); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client of a withdrawn service sees %v", err)
		}
		p.settle()
		if c, err := p.phone.DialTCP(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort(publicWebAt)); err == nil {
			_ = c.Close()
			t.Error("the port of a withdrawn service still takes connections")
		}
	})
}

// Home's address changes under a transfer from a public port: it goes on over
// another carrier.
func TestPublicTCPTransferSurvivesANewAddress(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicTCP(t, "", echoTCP)
		b := noise(32 * pace)
		u := pump(p.call(t), b, pace)
		time.Sleep(5 * time.Second)
		p.homeHost.Readdress("192.168.1.77")
		u.check(t, b, 20*time.Second)
	})
}
