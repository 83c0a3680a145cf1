package agent

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/internal/rendezvous"
)

// virtual runs a test in virtual time. yamux keeps timers in a pool of the
// whole process, and one of another bubble's ends the test: so those that make
// TLS connections run one by one, and begin with an empty pool. It also holds a
// mutex while it waits for the rest of a frame, and virtual time stops where
// somebody wants to read meanwhile: so over TLS little is sent at once.
func virtual(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	runtime.GC() // the pool's become its victims
	runtime.GC() // and go
	bubble.Test(t, f)
}

// everything gives an agent on host all that it can reach others with, as the
// command does.
func everything(host *natlab.Host) func(*Config) {
	d := &rendezvous.TLSDialer{
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return host.DialTCP(ctx, netip.AddrPortFrom(dgram.Any(to.Addr()), 0), to)
		},
		Proxy: func(string) (*url.URL, error) { return nil, nil },
	}
	return func(c *Config) {
		c.Host.TCP, c.Host.FakeTCP = host, host
		c.Dialers.ConnectTLS = func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*Connection, error) {
			k, err := d.Connect(ctx, at, pin, cert)
			if err != nil {
				return nil, err
			}
			return &Connection{ControlConn: k, Addr: k.Addr(), Transport: "tls", RTT: k.RTT, Why: k.Err}, nil
		}
		c.Dialers.Splice = d.Splice
		c.Dialers.RelayTLS = func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (dgram.Conn, netip.AddrPort, error) {
			return d.Relay(ctx, at, pin, cert)
		}
	}
}

func unprivileged(c *Config) {
	c.Host.FakeTCP = nil
	c.Host.NoFakeTCP = &path.Failure{Reason: "unprivileged", Skipped: true, Evidence: "no CAP_NET_RAW", Advice: "setcap"}
}

func only(kinds ...path.Kind) func(*Config) { return func(c *Config) { c.Paths = kinds } }

func all(list ...func(*Config)) func(*Config) {
	return func(c *Config) {
		for _, f := range list {
			if f != nil {
				f(c)
			}
		}
	}
}

// pair is home behind a carrier and a laptop in a cafe, with a service and a
// dial.
type pair struct {
	*world
	home, road      *natlab.Host
	carrier, cafe   *natlab.NAT
	far, laptop     *running
	service, client *station
}

func newPair(t *testing.T, behaviour natlab.Behaviour, link func(p *pair), homeConfig, roadConfig func(*Config)) *pair {
	t.Helper()
	p := &pair{world: newWorld(t)}
	p.home, _, p.carrier = p.world.home()
	p.road, p.cafe = p.world.road(behaviour)
	p.lab.Delay(p.carrier, p.vps, 20*time.Millisecond)
	p.lab.Delay(p.cafe, p.vps, 20*time.Millisecond)
	p.lab.Delay(p.carrier, p.cafe, 20*time.Millisecond)
	link(p)
	p.service = listen(t, p.home, serviceAt, true)
	p.far = p.agent(p.home, "home", all(everything(p.home), homeConfig, exposing(t, "wg", "udp://"+serviceAt)))
	p.laptop = p.agent(p.road, "laptop", all(everything(p.road), roadConfig, dialing(t, "home", "wg", "udp://"+dialAt)))
	time.Sleep(10 * time.Second) // without UDP it takes longer to register
	p.client = listen(t, p.road, "127.0.0.1:0", false)
	return p
}

// goes sends a first datagram and says when it was answered, and when the
// path wanted was best on both sides.
func (p *pair) goes(t *testing.T, want string) {
	t.Helper()
	there := want
	if strings.HasPrefix(want, "relay") {
		there = "relay-udp" // each side's leg has a transport of its own
	}
	began := time.Now()
	p.client.send(dialAt, stamped(1, 148))
	for len(p.client.arrivals()) == 0 && time.Since(began) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	data := time.Since(began)
	var first string
	for time.Since(began) < 20*time.Second {
		now := best(p.laptop, "home")
		if first == "" {
			first = now
		}
		if now == want && best(p.far, "laptop") == there {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	got := best(p.laptop, "home")
	t.Logf("answer after %v over %s, %s after %v", data, first, got, time.Since(began))
	if got != want || best(p.far, "laptop") != there || time.Since(began) > 6*time.Second {
		t.Errorf("best are %q and %q after %v, want %q; laptop %s", got, best(p.far, "laptop"), time.Since(began), want, pathsText(p.laptop, "home"))
	}
	if data > 2*time.Second {
		t.Errorf("the first answer came after %v", data)
	}
	if t.Failed() {
		for _, a := range explained(t, p.laptop, "home") {
			t.Logf("%+v", a)
		}
	}
}

// S4-01, S0-20
func TestWithoutUDP(t *testing.T) {
	for name, c := range map[string]struct {
		behaviour  natlab.Behaviour
		link       func(p *pair)
		home, road func(*Config)
		want       string
	}{
		"dropped at the laptop": {natlab.Home(), func(p *pair) { p.cafe.Set(natlab.NoUDP(true)) }, nil, nil, "direct-faketcp"},
		"dropped at home":       {natlab.Home(), func(p *pair) { p.carrier.Set(natlab.NoUDP(true)) }, nil, nil, "direct-faketcp"},
		"dropped at both": {natlab.Home(), func(p *pair) {
			p.cafe.Set(natlab.NoUDP(true))
			p.carrier.Set(natlab.NoUDP(true))
		}, nil, nil, "direct-faketcp"},
		"dropped, laptop without privilege": {natlab.Home(), func(p *pair) { p.cafe.Set(natlab.NoUDP(true)) }, nil, unprivileged, "direct-tcp"},
		"dropped, home without privilege":   {natlab.Home(), func(p *pair) { p.cafe.Set(natlab.NoUDP(true)) }, unprivileged, nil, "direct-tcp"},
		"dropped, nobody has privilege": {natlab.Home(), func(p *pair) {
			p.cafe.Set(natlab.NoUDP(true))
			p.carrier.Set(natlab.NoUDP(true))
		}, unprivileged, unprivileged, "direct-tcp"},
		"TCP 443 out alone": {natlab.Home(), func(p *pair) { p.cafe.Set(natlab.NoUDP(true), natlab.TCPPorts(443)) }, nil, nil, "relay-faketcp"}, // home's carrier translates ports
		"TCP 443 out alone, without privilege": {natlab.Home(), func(p *pair) { p.cafe.Set(natlab.NoUDP(true), natlab.TCPPorts(443)) },
			nil, unprivileged, "relay-tls"},
		"UDP passes":                  {natlab.Home(), func(*pair) {}, nil, nil, "direct-udp"},
		"direct-tcp alone is allowed": {natlab.Home(), func(*pair) {}, nil, only(path.DirectTCP), "direct-tcp"},
		"relay-tls alone is allowed":  {natlab.Home(), func(*pair) {}, only(path.RelayUDP), only(path.RelayTLS), "relay-tls"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				newPair(t, c.behaviour, c.link, c.home, c.road).goes(t, c.want)
			})
		})
	}
}

// why is the reason and the result of the last attempts of each kind on one
// side, by path.
func (p *pair) why(t *testing.T, side string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, a := range explained(t, p.laptop, "home") {
		if a.Side == side {
			out[a.Path] = strings.TrimSpace(a.Result + " " + a.Reason)
		}
	}
	return out
}

func (p *pair) settled() {
	p.client.send(dialAt, stamped(1, 148))
	time.Sleep(15 * time.Second)
}

// S4-11, S4-12: UDP is mapped by destination on both sides and TCP is not, as
// some boxes do; explain has every kind.
func TestTCPMappingIsMeasuredApart(t *testing.T) {
	virtual(t, func(t *testing.T) {
		varies := natlab.Cellular().WithTCP(func(b *natlab.Behaviour) { *b = natlab.Home() })
		p := newPair(t, varies, func(p *pair) { p.carrier.Behave(varies) }, nil, nil)
		p.goes(t, "direct-faketcp")
		time.Sleep(10 * time.Second)
		for path, want := range map[string]string{"direct-udp": "failed both-mappings-vary", "direct-faketcp": "ok", "relay-udp": "ok", "relay-tls": "skipped not-needed"} {
			if got := p.why(t, "local")[path]; got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
	})
}

// S0-20, S4-11
func TestExplainHasEveryKind(t *testing.T) {
	for name, c := range map[string]struct {
		link       func(p *pair)
		home, road func(*Config)
		best       string
		want       map[string]string
	}{
		"laptop unprivileged, no SYN comes in": {
			func(p *pair) {
				p.cafe.Set(natlab.NoUDP(true), natlab.NoInboundSYN(true))
				p.carrier.Set(natlab.NoInboundSYN(true))
			}, nil, unprivileged, "relay-tls",
			map[string]string{
				"direct-udp": "failed blocked", "direct-faketcp": "skipped unprivileged", "direct-tcp": "failed syn-blocked", "relay-udp": "skipped blocked",
				"relay-faketcp": "skipped unprivileged", "relay-tls": "ok",
			},
		},
		"the peer is unprivileged": {
			func(p *pair) { p.cafe.Set(natlab.NoUDP(true)) }, unprivileged, nil, "direct-tcp",
			map[string]string{"direct-faketcp": "skipped unsupported", "direct-tcp": "ok", "relay-udp": "skipped blocked", "relay-faketcp": "ok"},
		},
		"some are not allowed": {
			func(*pair) {}, nil, only(path.DirectTCP, path.RelayTLS), "direct-tcp",
			map[string]string{
				"direct-udp": "skipped not-allowed", "direct-faketcp": "skipped not-allowed", "direct-tcp": "ok",
				"relay-udp": "skipped not-allowed", "relay-faketcp": "skipped not-allowed", "relay-tls": "ok",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := newPair(t, natlab.Home(), c.link, c.home, c.road)
				p.settled()
				if got := best(p.laptop, "home"); got != c.best {
					t.Errorf("best is %q, want %q", got, c.best)
				}
				got := p.why(t, "local")
				for path, want := range c.want {
					if got[path] != want {
						t.Errorf("%s: %q, want %q", path, got[path], want)
					}
				}
				if t.Failed() {
					for _, a := range explained(t, p.laptop, "home") {
						t.Logf("%+v", a)
					}
				}
			})
		})
	}
}

// S4-08, S4-10
func TestRoutersThatAnswerAnEarlySYN(t *testing.T) {
	resets := natlab.Home()
	resets.Unsolicited = natlab.RejectUnsolicited
	for name, config := range map[string]func(*Config){"direct-faketcp": nil, "direct-tcp": unprivileged} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				newPair(t, resets, func(p *pair) {
					p.cafe.Set(natlab.NoUDP(true))
					p.carrier.Behave(resets)
				}, config, config).goes(t, name)
			})
		})
	}
}

// S0-19
func TestDataLeavesUDPThatIsHeldBack(t *testing.T) {
	for name, config := range map[string]func(*Config){
		"direct-faketcp": nil, "direct-tcp": unprivileged,
		"relay-faketcp": only(path.DirectUDP, path.RelayUDP, path.RelayFakeTCP),
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := newPair(t, natlab.Home(), func(*pair) {}, config, config)
				p.goes(t, "direct-udp")
				p.cafe.Set(natlab.UDPLoss(0.2))
				s := startStream(p.client, dialAt, 5*time.Millisecond)
				defer s.end()
				d := waitFor(t, name+" on both sides", time.Minute, func() bool {
					return best(p.laptop, "home") == name && best(p.far, "laptop") == name
				})
				t.Logf("with a fifth of UDP lost, %s after %v", name, d)
				for _, a := range explained(t, p.laptop, "home") {
					if a.Reason == "degraded" {
						t.Logf("%s: %s", a.Path, a.Evidence)
						return
					}
				}
				t.Error("explain does not say why")
			})
		})
	}
}

// A stream that breaks is replaced, and nothing of it is left.
func TestBrokenStreamIsReplaced(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := newPair(t, natlab.Home(), func(p *pair) { p.cafe.Set(natlab.NoUDP(true)) }, unprivileged, unprivileged)
		p.goes(t, "direct-tcp")
		before := sizes(p.laptop)
		for range 3 {
			p.cafe.Set(natlab.TCPPorts(443))
			s := startStream(p.client, dialAt, 100*time.Millisecond)
			waitFor(t, "the relay", 20*time.Second, func() bool { return best(p.laptop, "home") == "relay-tls" })
			p.cafe.Set(natlab.TCPPorts())
			d := waitFor(t, "direct-tcp again", 2*time.Minute, func() bool { return best(p.laptop, "home") == "direct-tcp" })
			t.Logf("direct-tcp again after %v", d)
			s.end()
			time.Sleep(time.Minute)
		}
		notGrown(t, "laptop", before, sizes(p.laptop))
	})
}
