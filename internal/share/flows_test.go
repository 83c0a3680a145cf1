package share

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

const udpRules = `
backends:
  vpn: {udp: "127.0.0.1:1194"}
  wg: {udp: "127.0.0.1:51820"}
  web: {udp: "127.0.0.1:8443"}
udp:
  - {is: openvpn, keys: tls-crypt, to: vpn}
  - {is: wireguard, to: wg}
  - {is: quic, names: www.example.org, to: web}
limits: {flows: 8, flows_per_source: 6, flows_second: 100, idle: 2m, unanswered: 30s}
`

// shop is a host whose port 443 is shared, with backends that echo, on an
// internet in memory.
type shop struct {
	*Sharing
	t       testing.TB
	lab     *natlab.Lab
	host    *natlab.Host
	conn    dgram.Conn
	log     bytes.Buffer
	mu      sync.Mutex
	own     []string            // what was ours
	backend map[string][]string // what each backend got
}

var shopAt = netip.MustParseAddrPort("203.0.113.10:443")

// openShop runs until stop.
func openShop(t *testing.T, rules string, backends ...string) (s *shop, stop func()) {
	t.Helper()
	s = &shop{t: t, lab: natlab.New(t, natlab.Options{Seed: 1}), backend: map[string][]string{}}
	s.host = s.lab.Host("vps", "203.0.113.10/24")
	c, err := parse(t, rules)
	if err != nil {
		t.Fatal(err)
	}
	s.Sharing = New(c, testOwn, s.host, s.host, zerolog.New(&s.log))
	var readers sync.WaitGroup
	read := func(conn dgram.Conn, handle func(dgram.Burst)) {
		readers.Go(func() { _ = path.Read(conn, handle) })
	}
	listen := func(at netip.AddrPort) dgram.Conn {
		conn, err := s.host.ListenUDP(at)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	s.conn = listen(shopAt)
	door := s.Door(s.conn)
	read(s.conn, func(b dgram.Burst) {
		door.Receive(b, func(own dgram.Burst) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for d := range own.All() {
				s.own = append(s.own, string(d))
			}
		})
	})
	conns := []dgram.Conn{s.conn}
	for _, b := range s.Backends() {
		if !slices.Contains(backends, b.Name) {
			continue
		}
		conn := listen(b.UDP)
		conns = append(conns, conn)
		read(conn, func(in dgram.Burst) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for d := range in.All() {
				s.backend[b.Name] = append(s.backend[b.Name], string(d))
				_ = conn.Write(dgram.One(in.Addr, append([]byte(b.Name+" "), d...)))
			}
		})
	}
	ended := make(chan struct{})
	ctx, cancel := contextOf(t)
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	return s, func() {
		cancel()
		<-ended
		for _, c := range conns {
			_ = c.Close()
		}
		readers.Wait()
	}
}

// guest is a client with what it has heard.
type guest struct {
	conn  dgram.Conn
	mu    sync.Mutex
	heard []string
}

func (s *shop) guest(name, addr string, port uint16) *guest {
	s.t.Helper()
	return s.at(s.lab.Host(name, addr+"/24", natlab.Delay(10*time.Millisecond)), addr, port)
}

func (s *shop) at(h *natlab.Host, addr string, port uint16) *guest {
	s.t.Helper()
	conn, err := h.ListenUDP(netip.AddrPortFrom(netip.MustParseAddr(addr), port))
	if err != nil {
		s.t.Fatal(err)
	}
	g := &guest{conn: conn}
	go func() {
		_ = path.Read(conn, func(b dgram.Burst) {
			g.mu.Lock()
			defer g.mu.Unlock()
			for d := range b.All() {
				g.heard = append(g.heard, string(d))
			}
		})
	}()
	s.t.Cleanup(func() { _ = conn.Close() })
	return g
}

func (g *guest) send(t testing.TB, d ...[]byte) {
	t.Helper()
	for _, each := range d {
		if err := g.conn.Write(dgram.One(shopAt, each)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond) // of virtual time
}

func (g *guest) last() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.heard) == 0 {
		return ""
	}
	return g.heard[len(g.heard)-1]
}

func (s *shop) got(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.backend[name])
}

func (s *shop) ours() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.own)
}

// Clients' first datagrams decide, what follows goes the same way whatever it
// looks like, and what is surely ours is ours also in the middle.
// S2-06
func TestFlows(t *testing.T) {
	vpn := unhex(t, firsts["tls-crypt"].datagram)
	wg := append([]byte{1, 0, 0, 0}, make([]byte, 144)...)
	bubble.Test(t, func(t *testing.T) {
		s, stop := openShop(t, udpRules, "vpn", "wg")
		defer stop()
		a, b := s.guest("a", "198.51.100.1", 1000), s.guest("b", "192.0.2.1", 1000)
		a.send(t, vpn)
		if want := "vpn " + string(vpn); a.last() != want {
			t.Errorf("heard %q", a.last())
		}
		a.send(t, []byte("anything"), wg)
		if a.last() != "vpn "+string(wg) || s.got("vpn") != 3 || s.got("wg") != 0 {
			t.Errorf("heard %q; the backends got %d and %d", a.last(), s.got("vpn"), s.got("wg"))
		}
		b.send(t, []byte("anything"), unhex(t, firsts["plain"].datagram))
		if s.ours() != 2 || b.last() != "" {
			t.Errorf("%d were ours, b heard %q", s.ours(), b.last())
		}
		a.send(t, []byte("ours, surely"))
		if s.ours() != 3 || s.got("vpn") != 3 {
			t.Errorf("%d were ours", s.ours())
		}
		b.send(t, wg)
		if b.last() != "wg "+string(wg) {
			t.Errorf("b heard %q", b.last())
		}
		st := s.Status()
		if len(st) != 3 || st[0].Flows != 1 || st[2].Flows != 1 || st[0].Total != 1 {
			t.Errorf("status %+v", st)
		}
	})
}

// A flow ends when its client is silent, and sooner when its backend is; then
// that is logged once, and once that it is back.
func TestFlowsEnd(t *testing.T) {
	vpn := unhex(t, firsts["tls-crypt"].datagram)
	wg := append([]byte{1, 0, 0, 0}, make([]byte, 144)...)
	bubble.Test(t, func(t *testing.T) {
		s, stop := openShop(t, udpRules, "wg")
		defer stop()
		a, b := s.guest("a", "198.51.100.1", 1000), s.guest("b", "192.0.2.1", 1000)
		b.send(t, wg)
		for range 5 {
			a.send(t, vpn)
			time.Sleep(40 * time.Second)
		}
		if n := strings.Count(s.log.String(), "does not answer"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, s.log.String())
		}
		st := s.Status()
		if st[0].Flows != 0 || st[0].Total != 5 || st[0].Problem == "" || st[2].Flows != 0 || st[2].Problem != "" {
			t.Errorf("status %+v", st)
		}
		if d := s.Drops(); d["share-udp-unanswered"] != 5 {
			t.Errorf("drops %v", d)
		}
		b.send(t, wg)
		time.Sleep(100 * time.Second)
		b.send(t, []byte("still the same flow"))
		if s.got("wg") != 3 {
			t.Errorf("the backend got %d", s.got("wg"))
		}
	})
}

// More clients than there is room for: those that nobody has answered make room,
// and one source has not all of it.
func TestFlowsAreBounded(t *testing.T) {
	vpn := unhex(t, firsts["tls-crypt"].datagram)
	wg := append([]byte{1, 0, 0, 0}, make([]byte, 144)...)
	bubble.Test(t, func(t *testing.T) {
		s, stop := openShop(t, udpRules, "wg")
		defer stop()
		good := s.guest("good", "198.51.100.1", 1000)
		good.send(t, wg)
		for n := range 4 {
			addr := fmt.Sprintf("192.0.%d.1", n+2)
			h := s.lab.Host(fmt.Sprint("flood", n), addr+"/24")
			for port := range uint16(10) {
				s.at(h, addr, 2000+port).send(t, vpn)
			}
		}
		good.send(t, []byte("still there"))
		if good.last() != "wg still there" {
			t.Errorf("heard %q", good.last())
		}
		d := s.Drops()
		if d["share-udp-refused"] != 4*4 && d["share-udp-refused"] == 0 || d["share-udp-evicted"] == 0 {
			t.Errorf("drops %v", d)
		}
		if st := s.Status(); st[0].Flows+st[2].Flows > 8 {
			t.Errorf("status %+v", st)
		}
	})
}

// QUIC goes by its ClientHello, which takes several datagrams, in any order; an
// agent's is ours whatever name it says, also from where another program's
// client was before.
func TestQUICByItsHello(t *testing.T) {
	flights := map[string][][]byte{
		"web":   clientFlight(t, quic.Version1, "www.example.org", "h3"),
		"agent": clientFlight(t, quic.Version1, "www.example.org", "rdv/1"),
		"other": clientFlight(t, quic.Version2, "www.example.net", "h3"),
	}
	vpn := unhex(t, firsts["tls-crypt"].datagram)
	bubble.Test(t, func(t *testing.T) {
		s, stop := openShop(t, udpRules, "web", "vpn")
		defer stop()
		n := 0
		for name, flight := range flights {
			for _, order := range []string{"forth", "back"} {
				if order == "back" {
					slices.Reverse(flight)
				}
				n++
				addr := fmt.Sprintf("192.0.%d.1", n)
				g := s.guest(fmt.Sprint("guest", n), addr, 1000)
				web, ours := s.got("web"), s.ours()
				g.send(t, flight...)
				wantWeb, wantOurs := 0, len(flight)
				if name == "web" {
					wantWeb, wantOurs = wantOurs, 0
				}
				if web, ours = s.got("web")-web, s.ours()-ours; web != wantWeb || ours != wantOurs {
					t.Errorf("%s, %s: of %d datagrams %d came to the web server and %d to us", name, order, len(flight), web, ours)
				}
			}
		}
		g := s.guest("both", "192.0.100.1", 1000)
		g.send(t, vpn)
		before := s.ours()
		g.send(t, flights["agent"]...)
		g.send(t, vpn[:20])
		if n := s.ours() - before; n != len(flights["agent"])+1 {
			t.Errorf("%d were ours of an agent behind a client's address", n)
		}
		half := s.guest("half", "192.0.101.1", 1000)
		half.send(t, flights["web"][0])
		time.Sleep(2 * gatherFor)
		if d := s.Drops(); len(flights["web"]) > 1 && d["share-quic-incomplete"] != 1 {
			t.Errorf("drops %v", d)
		}
	})
}

// Garbage of all lengths and first bytes makes no flow, and is left to whoever
// counts it.
func TestGarbageMakesNoFlow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, stop := openShop(t, udpRules, "vpn", "wg", "web")
		defer stop()
		luck := rand.New(rand.NewPCG(1, 2))
		g := s.guest("g", "198.51.100.1", 1000)
		sent := 0
		for first := range 256 {
			for _, size := range []int{1, 2, 14, 20, 54, 148, 1200, 1400} {
				b := make([]byte, size)
				for i := range b {
					b[i] = byte(luck.Uint32())
				}
				b[0] = byte(first)
				g.send(t, b)
				sent++
			}
		}
		if s.ours() != sent {
			t.Errorf("of %d datagrams %d were left", sent, s.ours())
		}
		for _, st := range s.Status() {
			if st.Total != 0 {
				t.Errorf("%s had clients", st.Name)
			}
		}
	})
}
