package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
)

const (
	ruledAt = "127.0.0.1:51830"
	ruledTo = "127.0.0.1:51831"
)

// ruledPair is a pair with a second service beside wg, under a rule of the
// exposing side, the dialing side, or both.
func ruledPair(t *testing.T, exposed, dialed string, homeConfig, roadConfig func(*Config)) (*pair, *station) {
	t.Helper()
	var service *station
	p := newPair(t, natlab.Home(), func(p *pair) { service = listen(t, p.home, ruledAt, true) },
		all(homeConfig, exposing(t, "ruled", "udp://"+ruledAt+exposed)), all(roadConfig, dialing(t, "home", "ruled", "udp://"+ruledTo+dialed)))
	return p, service
}

// took is how many datagrams took each kind of path, those of both agents.
func (p *pair) took() map[path.Kind]uint64 {
	out := make(map[path.Kind]uint64)
	for a, peer := range map[*running]string{p.laptop: "home", p.far: "laptop"} {
		if as := a.peer(peer).association(); as != nil {
			for _, r := range as.Paths() {
				out[r.Kind] += r.Tx
			}
		}
	}
	return out
}

// S0-25
func TestServiceThatMayUseFakeTCPAloneDoesSoBesideOneThatUsesUDP(t *testing.T) {
	for name, c := range map[string]struct{ exposed, dialed string }{
		"by the exposed URL":    {"?paths=direct-faketcp", ""},
		"by the dialed URL":     {"", "?paths=direct-faketcp"},
		"by both":               {"?paths=direct-faketcp,direct-tcp", "?paths=direct-faketcp+relay-tls"},
		"raw, and yet not UDP":  {"?raw&paths=direct-faketcp", ""},
		"raw by the dialed URL": {"?raw", "?paths=direct-faketcp"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p, service := ruledPair(t, c.exposed, c.dialed, nil, nil)
				p.goes(t, "direct-udp")
				ageless(p.laptop, p.far)
				client := listen(t, p.road, "127.0.0.1:0", false)
				s := startStream(client, ruledTo, 20*time.Millisecond)
				d := waitFor(t, "an answer over fake TCP", 10*time.Second, func() bool {
					return len(client.arrivals()) > 0 && p.laptop.peer("home").association().Serves(path.KindsOf(path.DirectFakeTCP))
				})
				t.Logf("answered over fake TCP after %v", d)
				time.Sleep(time.Second)
				before, got := p.took(), len(client.arrivals())
				time.Sleep(10 * time.Second)
				after, more := p.took(), len(client.arrivals())-got
				fake, udp := after[path.DirectFakeTCP]-before[path.DirectFakeTCP], after[path.DirectUDP]-before[path.DirectUDP]
				if more < 490 || fake < 990 || udp > 20 {
					t.Errorf("of 500 datagrams %d came back; %d took direct-faketcp and %d direct-udp; %s", more, fake, udp, pathsText(p.laptop, "home"))
				}
				if best(p.laptop, "home") != "direct-udp" || best(p.far, "laptop") != "direct-udp" {
					t.Errorf("the other service takes %s", best(p.laptop, "home"))
				}
				if st := p.laptop.Status().Dials; len(st) != 2 || strings.Join(st[0].Paths, " ") != "direct-faketcp" {
					t.Errorf("status: %+v", st)
				}
				// The path is lost: what the client sends waits, and nothing takes UDP.
				before = p.took()
				p.cafe.Set(natlab.TCPPorts(443))
				time.Sleep(8 * time.Second)
				at := len(service.arrivals())
				p.client.send(dialAt, stamped(2, 100))
				time.Sleep(time.Second)
				if len(p.client.arrivals()) != 2 {
					t.Error("the other service waits as well")
				}
				p.cafe.Set(natlab.TCPPorts())
				d = waitFor(t, "data over fake TCP again", 30*time.Second, func() bool { return len(service.arrivals()) > at })
				t.Logf("over fake TCP again after %v", d)
				time.Sleep(2 * time.Second)
				s.end()
				after = p.took()
				if n := after[path.DirectUDP] - before[path.DirectUDP]; n > 40 {
					t.Errorf("%d datagrams took UDP meanwhile", n)
				}
				if after[path.RelayUDP]+after[path.RelayTLS]+after[path.DirectTCP] > 20 {
					t.Errorf("other kinds were taken: %v", after)
				}
				counts := p.laptop.Status().Counters
				if counts["held-too-long"] == 0 && d+8*time.Second > heldFor {
					t.Errorf("what waited too long is not counted: %v", counts)
				}
			})
		})
	}
}

// S0-25: each kind is climbed for a service that wants it, though UDP works.
func TestKindsAreClimbedForAServiceThatWantsThem(t *testing.T) {
	for _, kind := range []path.Kind{path.DirectTCP, path.RelayFakeTCP, path.RelayTLS} {
		t.Run(kind.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p, service := ruledPair(t, "?paths="+kind.String(), "", nil, nil)
				p.goes(t, "direct-udp")
				client := listen(t, p.road, "127.0.0.1:0", false)
				s := startStream(client, ruledTo, 50*time.Millisecond)
				only := path.KindsOf(kind)
				d := waitFor(t, "data over "+kind.String(), 30*time.Second, func() bool {
					return p.laptop.peer("home").association().Serves(only) && p.far.peer("laptop").association().Serves(only)
				})
				t.Logf("%v after %v", kind, d)
				before, at := p.took(), len(service.arrivals())
				time.Sleep(5 * time.Second)
				s.end()
				after := p.took()
				if n := after[kind] - before[kind]; n < 190 || len(service.arrivals())-at < 95 {
					t.Errorf("%d of 200 datagrams took %v, %d reached the service: %v", n, kind, len(service.arrivals())-at, after)
				}
				if best(p.laptop, "home") != "direct-udp" {
					t.Errorf("the other service takes %s", best(p.laptop, "home"))
				}
			})
		})
	}
}

// S0-25: what is not to be had is waited for, and the other services go on.
func TestServiceWhoseKindIsNotToBeHadHarmsNobody(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p, service := ruledPair(t, "", "?paths=direct-faketcp", unprivileged, nil)
		p.goes(t, "direct-udp")
		client := listen(t, p.road, "127.0.0.1:0", false)
		s := startStream(client, ruledTo, 10*time.Millisecond)
		time.Sleep(time.Minute)
		if n := len(service.arrivals()); n > 0 {
			t.Errorf("%d datagrams reached the service", n)
		}
		p.client.send(dialAt, stamped(2, 100))
		time.Sleep(time.Second)
		if len(p.client.arrivals()) != 2 {
			t.Error("the other service is hindered")
		}
		s.end()
		if n := p.laptop.Status().Counters["held-too-long"]; n < 4000 {
			t.Errorf("%d of 6000 datagrams are counted as held too long", n)
		}
	})
}

// What can't be sent goes back in front, in its order and with its age; too
// much of it makes room from the oldest.
func TestQueueTakesBackWhatHasNoPath(t *testing.T) {
	var q queue
	began := time.Now()
	for i := range 3 {
		q.put(began, held{flow: uint16(i), burst: dgram.One(netip.AddrPort{}, make([]byte, 10))})
	}
	list := q.take(began)
	q.put(began.Add(time.Second), held{flow: 3, burst: dgram.One(netip.AddrPort{}, make([]byte, 10))})
	q.putBack(list[1:])
	if q.bytes != 30 || len(q.list) != 3 || q.list[0].flow != 1 || q.list[2].flow != 3 {
		t.Errorf("%d bytes, %+v", q.bytes, q.list)
	}
	if q.expire(began.Add(heldFor + time.Millisecond)); len(q.list) != 1 || q.lost() != 2 {
		t.Errorf("%d are left, %d lost", len(q.list), q.lost())
	}
	q.putBack(make([]held, maxHeld))
	if len(q.list) != maxHeld || q.list[maxHeld-1].flow != 3 {
		t.Errorf("%d are held", len(q.list))
	}
	q.putBack(nil)
}
