package stun_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/stun"
)

// inHost are the TCP connections of a host of the lab.
type inHost struct{ *netns.Host }

func (h inHost) ListenTCP(addr netip.AddrPort) (l net.Listener, err error) {
	err = h.Do(func() error { l, err = dgram.SystemStreams().ListenTCP(addr); return err })
	return l, err
}

func (h inHost) DialTCP(ctx context.Context, local, remote netip.AddrPort) (c net.Conn, err error) {
	err = h.Do(func() error { c, err = dgram.SystemStreams().DialTCP(ctx, local, remote); return err })
	return c, err
}

// answerTCP serves STUN over TCP as the coordinator does.
func answerTCP(t *testing.T, host *netns.Host, r *stun.Responder, at netip.AddrPort) {
	t.Helper()
	l, err := inHost{host}.ListenTCP(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
				for {
					b, err := stun.ReadMessage(conn)
					if err != nil {
						return
					}
					if a, ok := r.Answer(time.Now(), stun.Socket{}, from, b); ok {
						_, _ = conn.Write(a.Message)
					}
				}
			}()
		}
	}()
}

// S4-12: the same box maps TCP otherwise than UDP, and keeps or changes ports.
// The port asked from also listens, as one that is to be punched does.
func TestTCPMappingOfKernelNATs(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	servers := []netip.AddrPort{
		netip.MustParseAddrPort(netns.VPSAddr + ":3478"), netip.MustParseAddrPort(netns.VPSAddr + ":3479"),
		netip.MustParseAddrPort(netns.VPSOtherAddr + ":3478"),
	}
	responder := stun.NewResponder(stun.Sockets{{servers[0]}})
	for _, at := range servers {
		answerTCP(t, s.VPS, responder, at)
	}
	for i, c := range []struct {
		name    string
		nat     netns.NAT
		mapping stun.Behaviour
		keeps   bool
	}{
		{"masquerade", netns.Masquerade(), eim, true},
		{"TCP alone has random ports", netns.Masquerade().RandomTCP(), apdm, false},
		{"sequential", netns.SequentialPorts(1), apdm, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.LaptopRouter.SetNAT(c.nat, netns.WAN, netns.LAN, netns.LaptopPublic)
			s.LaptopRouter.FlushConntrack()
			local := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(45000+i))
			l, err := inHost{s.Laptop}.ListenTCP(local)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			r, conns, err := stun.DiscoverTCP(t.Context(), inHost{s.Laptop}, local, servers)
			if err != nil {
				t.Fatal(err)
			}
			for _, conn := range conns {
				defer conn.Close()
			}
			if r.Mapping != c.mapping || r.PortPreserving != c.keeps || len(conns) != 3 || r.Mapped[0].Addr().String() != netns.LaptopPublic {
				t.Errorf("got %+v", r)
			}
		})
	}
}
