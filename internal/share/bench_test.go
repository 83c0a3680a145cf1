package share

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// median is what half of the runs took at most: on a busy machine a mean says
// more of the others.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds()) / 1e3
}

// BenchmarkNewConnection is the time from a client's SYN to the backend's first
// byte at the client, on loopback: through a proxy that looks at nothing, and
// through one that inspects. Inspecting may add 20 us.
func BenchmarkNewConnection(b *testing.B) {
	far := listenTCP(b, func(conn net.Conn) { _, _ = io.CopyN(conn, conn, 4) })
	c, err := parse(b, "backends: {web: {tcp: \""+far.String()+"\"}}\ntcp: [{is: tls, names: www.example.org, to: web}, {is: ssh, to: web}]")
	if err != nil {
		b.Fatal(err)
	}
	s := New(c, testOwn, nil, dgram.SystemStreams(), zerolog.Nop())
	plain := listenTCP(b, func(conn net.Conn) { s.Carry(conn, Look{to: s.all[0]}) })
	looking := listenTCP(b, func(conn net.Conn) {
		look, err := s.Inspect(conn, time.Now().Add(time.Second))
		if err != nil || !look.Foreign() {
			b.Errorf("it goes nowhere: %v", err)
			return
		}
		s.Carry(conn, look)
	})
	for name, first := range map[string][]byte{
		"TLS": helloBytes(b, "www.example.org", "h2", "http/1.1"), "SSH": []byte("SSH-2.0-OpenSSH_9.2\r\n"),
	} {
		b.Run(name, func(b *testing.B) {
			var took [2][]time.Duration
			for b.Loop() {
				for i, to := range []netip.AddrPort{plain, looking} {
					began := time.Now()
					conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
					if err != nil {
						b.Fatal(err)
					}
					_, err = conn.Write(first)
					if err == nil {
						_, err = io.ReadFull(conn, make([]byte, 4))
					}
					if err != nil {
						b.Fatal(err)
					}
					took[i] = append(took[i], time.Since(began))
					dgram.Reset(conn)
				}
			}
			b.ReportMetric(median(took[0]), "plain-us")
			b.ReportMetric(median(took[1])-median(took[0]), "added-us")
		})
	}
}

func listenTCP(b *testing.B, serve func(net.Conn)) netip.AddrPort {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			})
		}
	})
	b.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return dgram.AddrOf(l.Addr())
}

// BenchmarkNewFlow is the time from a new client's first datagram to the
// backend's answer, on loopback: where the first rule takes all, and where the
// datagram is inspected.
func BenchmarkNewFlow(b *testing.B) {
	network := dgram.System(dgram.DefaultOptions())
	listen := func() dgram.Conn {
		conn, err := network.ListenUDP(local)
		if err != nil {
			b.Fatal(err)
		}
		return conn
	}
	far := listen()
	c, err := parse(b, "backends: {vpn: {udp: \""+far.LocalAddr().String()+"\"}}\nudp: [{is: wireguard, to: vpn}, {is: openvpn, to: vpn}, {is: quic, names: example.com, to: vpn}]\nlimits: {flows_per_source: 100, flows: 100, flows_second: 1e6}")
	if err != nil {
		b.Fatal(err)
	}
	s := New(c, testOwn, network, nil, zerolog.Nop())
	plain, looking := listen(), listen()
	var readers sync.WaitGroup
	serve := func(conn dgram.Conn, handle func(dgram.Burst)) { readers.Go(func() { _ = path.Read(conn, handle) }) }
	serve(far, func(in dgram.Burst) { _ = far.Write(dgram.One(in.Addr, in.Buf[:1])) })
	unseen := s.Door(plain)
	serve(plain, func(in dgram.Burst) {
		s.begin(flowKey{unseen, in.Addr}, s.udp.rest[0], time.Now(), slices.Clone(in.Buf))
	})
	door := s.Door(looking)
	serve(looking, func(in dgram.Burst) { door.Receive(in, func(dgram.Burst) { b.Error("it goes nowhere") }) })
	defer func() {
		s.endFlows(s.flows.close())
		for _, conn := range []dgram.Conn{far, plain, looking} {
			_ = conn.Close()
		}
		readers.Wait()
	}()
	for name, first := range map[string][]byte{
		"OpenVPN": unhex(b, firsts["tls-crypt"].datagram), "WireGuard": append([]byte{1, 0, 0, 0}, make([]byte, 144)...), "QUIC": unhex(b, rfc9001),
	} {
		b.Run(name, func(b *testing.B) {
			var took [2][]time.Duration
			for b.Loop() {
				for i, to := range []dgram.Conn{plain, looking} {
					took[i] = append(took[i], firstAnswer(b, to.LocalAddr(), first))
					s.endFlows(s.flows.idle(time.Now().Add(time.Hour)))
				}
			}
			b.ReportMetric(median(took[0]), "plain-us")
			b.ReportMetric(median(took[1])-median(took[0]), "added-us")
		})
	}
}

func firstAnswer(b *testing.B, to netip.AddrPort, first []byte) time.Duration {
	b.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	began := time.Now()
	_, err = conn.Write(first)
	if err == nil {
		err = conn.SetReadDeadline(began.Add(5 * time.Second))
	}
	if err == nil {
		_, err = conn.Read(make([]byte, 10))
	}
	if err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}
