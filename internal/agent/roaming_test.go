package agent

import (
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// trip is a pair of agents with a service at home and traffic through it.
type trip struct {
	*world
	homeHost, roadHost    *natlab.Host
	router, carrier, cafe *natlab.NAT
	home, laptop          *running
	service, client       *station
}

func newTrip(t *testing.T, configure ...func(*Config)) *trip {
	t.Helper()
	r := &trip{world: newWorld(t)}
	r.homeHost, r.router, r.carrier = r.world.home()
	r.roadHost, r.cafe = r.road(natlab.Home())
	r.service = listen(t, r.homeHost, serviceAt, true)
	r.client = listen(t, r.roadHost, "127.0.0.1:0", false)
	both := func(one func(*Config)) func(*Config) {
		return func(c *Config) {
			for _, f := range append(configure, one) {
				f(c)
			}
		}
	}
	r.home = r.agent(r.homeHost, "home", both(exposing(t, "echo", "udp://"+serviceAt)))
	r.laptop = r.agent(r.roadHost, "laptop", both(dialing(t, "home", "echo", "udp://"+dialAt)))
	r.settle()
	return r
}

// S1-16
func TestTrafficIsBackWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	again := func(n *natlab.NAT) { n.Reseed(); n.Flush() }
	for name, disturb := range map[string]func(r *trip){
		"the laptop gets another address": func(r *trip) { r.roadHost.Readdress("192.168.2.77") },
		"the laptop goes behind another NAT": func(r *trip) {
			r.roadHost.MoveTo(r.lab.NAT("train", "198.51.100.200", natlab.Carrier()), "10.1.1.9")
		},
		"the laptop goes onto the internet": func(r *trip) { r.roadHost.MoveTo(r.lab, "203.0.113.50") },
		"the laptop comes home":             func(r *trip) { r.roadHost.MoveTo(r.router, "192.168.1.3") },
		"home goes behind another NAT": func(r *trip) {
			r.homeHost.MoveTo(r.lab.NAT("flat", "198.51.100.201", natlab.Home()), "192.168.7.2")
		},
		"the cafe's NAT forgets":      func(r *trip) { again(r.cafe) },
		"the home router forgets":     func(r *trip) { again(r.router) },
		"the carrier's NAT forgets":   func(r *trip) { again(r.carrier) },
		"all NATs forget":             func(r *trip) { again(r.cafe); again(r.router); again(r.carrier) },
		"the carrier changes address": func(r *trip) { r.carrier.Readdress("198.51.100.77") },
		"the laptop is unplugged for 10 s": func(r *trip) {
			r.roadHost.Unplug()
			time.Sleep(10 * time.Second)
			r.roadHost.Plug()
		},
		"home is unplugged for 10 s": func(r *trip) {
			r.router.Unplug()
			time.Sleep(10 * time.Second)
			r.router.Plug()
		},
		"home is unplugged for a minute": func(r *trip) {
			r.router.Unplug()
			time.Sleep(time.Minute)
			r.router.Plug()
		},
		"the laptop sleeps for ten minutes": func(r *trip) {
			r.roadHost.Unplug()
			time.Sleep(10 * time.Minute)
			r.roadHost.Plug()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				r := newTrip(t)
				pace := 20 * time.Millisecond
				if strings.Contains(name, "minute") {
					pace *= 10
				}
				s := startStream(r.client, dialAt, pace)
				defer s.end()
				waitFor(t, "direct-udp", 5*time.Second, func() bool { return best(r.laptop, "home") == "direct-udp" })
				time.Sleep(2 * time.Second)
				disturb(r)
				since := time.Now()
				time.Sleep(8 * time.Second)
				there, back := gap(r.service, since, time.Now()), gap(r.client, since, time.Now())
				t.Logf("no datagram for %v at the service, %v at the client", there, back)
				within := 2 * time.Second
				if since.Sub(s.began) > 30*time.Second {
					within = 6 * time.Second // consent has ended and the coordinator has to be found first
				}
				if there > within || back > within {
					t.Errorf("no datagram for %v at the service, %v at the client; want at most %v", there, back, within)
				}
				waitFor(t, "direct-udp again, not "+pathsText(r.laptop, "home"), 20*time.Second, func() bool {
					return best(r.laptop, "home") == "direct-udp" && best(r.home, "laptop") == "direct-udp"
				})
				if _, err := r.laptop.Ping(t.Context(), "home"); err != nil {
					t.Error(err)
				}
				if n := len(r.service.sources()); n != 1 && since.Sub(s.began) < 3*time.Minute { // after that flows expire
					t.Errorf("the service saw %d source addresses of one client", n)
				}
			})
		})
	}
}
