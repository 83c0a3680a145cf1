package agent

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
)

// refusedBy connects and says how and when the client was refused.
func (p *pair) refusedBy(t *testing.T) (why string, after time.Duration) {
	t.Helper()
	began := time.Now()
	c := p.call(t)
	_, err := io.ReadAll(c)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
	after = time.Since(began)
	waitFor(t, "the reason in status", time.Second, func() bool {
		for _, d := range p.laptop.Status().Dials {
			if d.Service == webName && d.Error != "" {
				why = d.Error
			}
		}
		return why != ""
	})
	return why, after
}

func TestRefusalsResetTheClient(t *testing.T) {
	for name, c := range map[string]struct {
		expose string
		want   string
		before func(t *testing.T, p *pair)
	}{
		"nobody listens":      {"tcp://127.0.0.1:9", "connection refused", nil},
		"no such service":     {"", `no service "web" is exposed here`, nil},
		"it takes datagrams":  {"udp://" + webAt, "takes datagrams", nil},
		"the peer is offline": {"tcp://" + webAt, `"home"`, func(_ *testing.T, p *pair) { p.far.stop(); time.Sleep(time.Minute) }},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := newPair(t, natlab.Home(), func(*pair) {}, func(cfg *Config) {
					if c.expose != "" {
						exposing(t, webName, c.expose)(cfg)
					}
				}, dialing(t, "home", webName, "tcp://"+webTo))
				if c.before != nil {
					c.before(t, p)
				}
				why, after := p.refusedBy(t)
				t.Logf("after %v: %s", after, why)
				if !strings.Contains(why, c.want) || after > 15*time.Second {
					t.Errorf("refused after %v: %s", after, why)
				}
			})
		})
	}
}

// S0-25: a service's rule holds for connections too. The client, whose side
// learns of it with the first connection, need not connect again.
func TestConnectionsTakeThePathsOfTheirRule(t *testing.T) {
	for name, c := range map[string]struct{ exposed, dialed, kind string }{
		"by the exposed URL":     {"?paths=relay-udp", "", "relay-udp"},
		"by the dialed URL":      {"", "?paths=relay-udp", "relay-udp"},
		"by both":                {"?paths=relay-udp,direct-tcp", "?paths=relay-udp+direct-faketcp", "relay-udp"},
		"a kind to be found yet": {"?paths=direct-faketcp", "", "direct-faketcp"},
		"in a TCP connection":    {"?paths=direct-tcp", "", "direct-tcp"},
		"over TLS":               {"?paths=relay-tls", "", "relay-tls"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := tcpPair(t, echoTCP, c.exposed, c.dialed, nil, nil)
				p.goes(t, "direct-udp")
				kind, err := path.ParseKind(c.kind)
				if err != nil {
					t.Fatal(err)
				}
				for range 2 {
					before := p.took()
					b := noise(256 << 10)
					u := pump(p.call(t), b, 1<<20)
					u.check(t, b, 20*time.Second)
					after := p.took()
					if other := after[path.DirectUDP] - before[path.DirectUDP]; other > 150 || after[kind]-before[kind] < 200 {
						t.Errorf("%d datagrams took direct-udp, %d %v", other, after[kind]-before[kind], kind)
					}
				}
				if st := p.laptop.Status().Dials; len(st) != 2 || strings.Join(st[1].Paths, " ") != c.kind {
					t.Errorf("status: %+v", st)
				}
			})
		})
	}
}

func TestRulesWithNothingInCommonRefuse(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "?paths=relay-udp", "?paths=direct-udp", nil, nil)
		p.goes(t, "direct-udp")
		if why, _ := p.refusedBy(t); !strings.Contains(why, "none in common") {
			t.Errorf("refused: %s", why)
		}
	})
}

// S3-22: the service learns the client's address by a header of the PROXY
// protocol, before all else.
func TestServiceIsToldItsClientsAddress(t *testing.T) {
	virtual(t, func(t *testing.T) {
		told := make(chan string, 1)
		p := tcpPair(t, func(c net.Conn) {
			in := bufio.NewReader(c)
			h, err := proxyproto.Read(in)
			if err != nil {
				t.Errorf("no header: %v", err)
				return
			}
			rest, _ := io.ReadAll(in)
			told <- h.SourceAddr.String() + " " + h.DestinationAddr.String() + " " + string(rest)
		}, "?proxy", "", nil, nil)
		c := p.call(t)
		_, _ = io.WriteString(c, "then this")
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		want := c.LocalAddr().String() + " " + webTo + " then this"
		if got := <-told; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

// S1-14: connections of a peer come from a loopback address that is the peer's
// own.
func TestConnectionsComeFromTheirPeersAlias(t *testing.T) {
	virtual(t, func(t *testing.T) {
		from := make(chan netip.Addr, 2)
		p := tcpPair(t, func(c net.Conn) { from <- dgram.AddrOf(c.RemoteAddr()).Addr(); echoTCP(c) }, "?alias", "", nil, nil)
		var seen []netip.Addr
		for range 2 {
			c := p.call(t)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			_, _ = io.ReadAll(c)
			seen = append(seen, <-from)
		}
		if !forward.AliasRange.Contains(seen[0]) || seen[0] != seen[1] {
			t.Errorf("seen from %v", seen)
		}
		if who, ok := p.far.aliases.Who(seen[0]); !ok || who.Peer != "laptop" {
			t.Errorf("%v is %v's", seen[0], who)
		}
	})
}

// A peer has so many connections at once, and no more.
func TestConnectionsAreBounded(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "", "", nil, func(c *Config) { c.Flows.Max = 10 })
		var calls []net.Conn
		for range 10 {
			c := p.call(t)
			if _, err := io.WriteString(c, "x"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			calls = append(calls, c)
		}
		if why, _ := p.refusedBy(t); !strings.Contains(why, "too many") {
			t.Errorf("refused: %s", why)
		}
		if st := p.laptop.Status().Dials[1]; st.Flows != 10 {
			t.Errorf("status counts %d", st.Flows)
		}
		if st := p.far.Status().Services; st[0].Flows+st[1].Flows != 10 {
			t.Errorf("status counts %+v", st)
		}
		_ = calls[0].Close()
		time.Sleep(time.Second)
		b := noise(1000)
		pump(p.call(t), b, 1<<20).check(t, b, time.Second)
	})
}

// What is withdrawn, or hung up, ends its connections at once.
func TestUnexposeAndHangupEndConnections(t *testing.T) {
	for name, end := range map[string]func(p *pair) error{
		"unexpose": func(p *pair) error { return p.far.Unexpose(webName) },
		"hangup":   func(p *pair) error { return p.laptop.Hangup("home", webName, "") },
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := tcpPair(t, echoTCP, "", "", nil, nil)
				c := p.call(t)
				if _, err := io.WriteString(c, "x"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				if err := end(p); err != nil {
					t.Fatal(err)
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client sees %v", err)
				}
				waitFor(t, "no connection is left", time.Second, func() bool {
					return p.far.peer("laptop").tcp.live()+p.laptop.peer("home").tcp.live() == 0
				})
			})
		})
	}
}

// QUIC's connection ends some time after the last of what it carried, so that
// it keeps no path awake; the next client makes another.
func TestIdleCarriersEnd(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "", "", nil, nil)
		b := noise(1000)
		pump(p.call(t), b, 1<<20).check(t, b, time.Second)
		carriers := func() int {
			return p.laptop.peer("home").tcp.out.Status().Carriers + p.far.peer("laptop").tcp.in.Status().Carriers
		}
		if n := carriers(); n != 2 {
			t.Errorf("%d ends of carriers", n)
		}
		time.Sleep(time.Minute)
		if n := carriers(); n != 0 {
			t.Errorf("%d ends of carriers are left", n)
		}
		pump(p.call(t), b, 1<<20).check(t, b, time.Second)
		time.Sleep(10 * time.Minute)
		if best(p.laptop, "home") != "" {
			t.Error("the session does not end")
		}
	})
}

// Two dials of one service at different addresses are separate: to end one leaves
// the other's connections alone.
func TestHangupEndsOneDial(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "", "", nil, nil)
		const other = "tcp://127.0.0.1:8082"
		if err := p.laptop.Dial("home", webName, other); err != nil {
			t.Fatal(err)
		}
		c := p.call(t)
		echo := func() error {
			_, err := io.WriteString(c, "x")
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			_, readErr := io.ReadFull(c, make([]byte, 1))
			return errors.Join(err, readErr)
		}
		if err := echo(); err != nil {
			t.Fatal(err)
		}
		if err := p.laptop.Hangup("home", webName, ""); err == nil || !strings.Contains(err.Error(), "say which") {
			t.Errorf("without an address: %v", err)
		}
		if err := p.laptop.Hangup("home", webName, other); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if err := echo(); err != nil {
			t.Errorf("the other dial's connection: %v", err)
		}
		if d := p.laptop.Status().Dials; len(d) == 0 || slices.ContainsFunc(d, func(s DialStatus) bool { return s.Listen == other }) {
			t.Errorf("left are %+v", d)
		}
	})
}
