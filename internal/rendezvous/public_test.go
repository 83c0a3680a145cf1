package rendezvous

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// S3-01, S3-02, S3-04: clients without an agent reach the service at home,
// which tells them apart; the coordinator was told nothing of home.
func TestPublicPortServesClients(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		host := p.client("192.0.2.7/24")
		seen := map[string]bool{}
		for i := range 3 {
			c := p.phone(host)
			began := time.Now()
			c.say(fmt.Sprint("hello ", i))
			seen[c.mustHear(fmt.Sprint("hello ", i))] = true
			// S3-05: the first datagram takes no round trip more.
			if took := time.Since(began); took > 2*(homeWay+clientWay)+time.Millisecond {
				t.Errorf("the first answer took %v, the way there and back %v", took, 2*(homeWay+clientWay))
			}
			c.say("again")
			if from := c.mustHear("again"); !seen[from] {
				t.Error("a client changed its leg")
			}
			time.Sleep(time.Second)
		}
		if len(seen) != 3 {
			t.Errorf("the service saw %d clients, want 3", len(seen))
		}
		f := p.figures(51820)
		if f.clients != 3 || f.ready != defaultSpares {
			t.Errorf("%d clients and %d spares, want 3 and %d", f.clients, f.ready, defaultSpares)
		}
		p.wantTold(t)
		// S3-07: not a byte was added.
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, n := range p.sizes {
			if n != len("hello 0") && n != len("again") {
				t.Errorf("a datagram of %d bytes came", n)
			}
		}
	})
}

// wantTold looks at what status, metrics and log say of three clients.
// S3-23
func (p *publicLab) wantTold(t *testing.T) {
	t.Helper()
	st, err := p.Status()
	if err != nil || len(st.Public) != 1 {
		t.Fatalf("status tells of %d public ports, %v", len(st.Public), err)
	}
	got := st.Public[0]
	if got.Port != 51820 || got.Transport != "udp" || got.Member != "home" || got.Service != "wg" || !got.Online || !got.Raw || got.Clients != 3 || got.Total != 3 {
		t.Errorf("status: %+v", got)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(p.Collector())
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "rendezvous_public_") {
			found++
		}
		if f.GetName() == "rendezvous_public_clients" && f.GetMetric()[0].GetGauge().GetValue() != 3 {
			t.Errorf("metrics: %v", f)
		}
	}
	if found != 4 {
		t.Errorf("%d metrics tell of public ports", found)
	}
	for _, line := range []string{`"public port opened"`, `"total":7,"active":3,"spare":4`} {
		if p.log.count(line) == 0 {
			t.Errorf("no line says %s", line)
		}
	}
}

// S3-19: a client of IPv6 reaches a home of IPv4.
func TestPublicPortAcrossFamilies(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		host := p.client("2001:db8:7::2/64")
		conn, err := host.ListenUDP(netip.MustParseAddrPort("[::]:0"))
		if err != nil {
			t.Fatal(err)
		}
		c := p.phoneOn(conn)
		c.to = netip.MustParseAddrPort("[2001:db8::10]:51820")
		c.say("hello")
		c.mustHear("hello")
	})
}

// S3-06: as many new clients as there are spares come at once, and none waits
// nor loses anything; of more, none loses anything.
func TestBurstOfClients(t *testing.T) {
	for _, tt := range []struct{ spares, clients int }{{8, 8}, {1, 1}, {4, 200}} {
		bubble.Test(t, func(t *testing.T) {
			p := newPublicLab(t, nil)
			ask := port(51820)
			ask.Spares = uint32(tt.spares)
			p.mustPublish(ask)
			host := p.client("192.0.2.7/24")
			began := time.Now()
			var clients []*phone
			for i := range tt.clients {
				c := p.phone(host)
				c.say(fmt.Sprint("one ", i))
				c.say(fmt.Sprint("two ", i))
				clients = append(clients, c)
			}
			for i, c := range clients {
				from := c.mustHear(fmt.Sprint("one ", i))
				if other := c.mustHear(fmt.Sprint("two ", i)); other != from {
					t.Error("two legs served one client")
				}
			}
			plain := 2 * (homeWay + clientWay)
			took := time.Since(began)
			t.Logf("%d clients at once with %d spares: all answered after %v, of which the way is %v", tt.clients, tt.spares, took, plain)
			if most := plain + 2*homeWay + 5*time.Millisecond; took > most || tt.clients <= tt.spares && took > plain+time.Millisecond {
				t.Errorf("the last answer came after %v", took)
			}
			if n := p.served(); n != tt.clients {
				t.Errorf("%d legs served %d clients", n, tt.clients)
			}
			p.wantNoDrops(51820)
			// S3-11: what the rush needed is given back.
			time.Sleep(5 * time.Second)
			if f := p.figures(51820); f.ready != tt.spares || f.spares != tt.spares {
				t.Errorf("afterwards %d of %d spares are ready, want %d", f.ready, f.spares, tt.spares)
			}
		})
	}
}

func (p *publicLab) wantNoDrops(n uint16) {
	p.t.Helper()
	for why, n := range p.figures(n).drops {
		if n > 0 {
			p.t.Errorf("%d datagrams were dropped: %s", n, why)
		}
	}
}

// S3-20: where no agent is connected, datagrams are dropped, and one line tells
// of it.
func TestNoAgentIsThere(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		host := p.client("192.0.2.7/24")
		for round := 1; round <= 2; round++ {
			p.leave()
			time.Sleep(40 * time.Second) // its legs lapse
			for range 100 {
				p.phone(host).say("anybody?")
			}
			time.Sleep(3 * time.Second)
			if n := p.log.count("no agent is connected"); n != round {
				t.Errorf("%d lines in outage %d", n, round)
			}
			if n := p.figures(51820).drops["no-agent"]; n != uint64(100*round) {
				t.Errorf("%d datagrams were dropped for it, want %d", n, 100*round)
			}
			p.back(p)
			p.mustPublish(port(51820))
			c := p.phone(host)
			c.say("hello")
			c.mustHear("hello")
		}
		if n := p.log.count("its agent is back"); n != 2 {
			t.Errorf("%d lines say that it is back", n)
		}
	})
}

// A control connection that breaks takes nothing from the clients, and a new
// one of the same run nothing either.
func TestControlConnectionBreaks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		host := p.client("192.0.2.7/24")
		old := p.phone(host)
		old.say("hello")
		from := old.mustHear("hello")
		p.hangUp()
		time.Sleep(time.Second)
		fresh := p.phone(host) // a spare is still there
		fresh.say("and me?")
		fresh.mustHear("and me?")
		p.back(p)
		p.mustPublish(port(51820))
		old.say("still here")
		if again := old.mustHear("still here"); again != from {
			t.Error("the client got another leg")
		}
		if f := p.figures(51820); f.clients != 2 || f.ready != defaultSpares {
			t.Errorf("%d clients and %d spares", f.clients, f.ready)
		}
	})
}

// An agent that has started anew knows none of the legs: a client gets another
// with its next datagram.
func TestAgentStartsAnew(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		c := p.phone(p.client("192.0.2.7/24"))
		c.say("hello")
		from := c.mustHear("hello")
		p.leave()
		p.instance++
		p.back(p)
		p.mustPublish(port(51820))
		c.say("again")
		if again := c.mustHear("again"); again == from {
			t.Error("the leg of an agent that is gone was used")
		}
	})
}

// A port is kept for its member for a while, and free after that.
func TestPortIsKept(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		other := p.agent("other", p.lab.Host("elsewhere", "192.0.2.66/24"))
		if got := other.publish(port(51820))[0].GetRefused(); !strings.Contains(got, `held by "home"`) {
			t.Errorf("a port that is held was refused with %q", got)
		}
		p.leave()
		time.Sleep(publicGrace - 5*time.Second)
		if got := other.publish(port(51820))[0].GetRefused(); got == "" {
			t.Error("another member took a port that is kept")
		}
		time.Sleep(10 * time.Second)
		other.mustPublish(port(51820))
		p.back(p)
		if got := p.publish(port(51820))[0].GetRefused(); !strings.Contains(got, `held by "other"`) {
			t.Errorf("its former member was answered %q", got)
		}
	})
}

// A coordinator that is restarted gives ports back to those who had them, not to
// who asks first.
func TestRestartKeepsPorts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820), port(51821))
		other := p.agent("other", p.lab.Host("elsewhere", "192.0.2.66/24"))
		other.mustPublish(port(51822))
		other.mustPublish() // given back: nobody's
		p.leave()
		other.leave()
		p.restart()

		other.back(p)
		if got := other.publish(port(51820))[0].GetRefused(); !strings.Contains(got, `kept for "home"`) {
			t.Errorf("a port of before the restart was refused to another member with %q", got)
		}
		p.back(p)
		p.mustPublish(port(51820), port(51822))
		time.Sleep(publicGrace)
		other.mustPublish(port(51821))
		if n := p.log.count("its agent is back"); n != 0 {
			t.Errorf("%d lines say that an agent is back that was not away", n)
		}
		for range 3 {
			other.publish(port(51820))
		}
		if n := p.log.count("public port refused"); n != 2 { // kept, held
			t.Errorf("%d lines for two refusals", n)
		}
	})
}

func TestPublishIsAnswered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		taken := port(51821)
		conn, err := p.vps.ListenUDP(netip.MustParseAddrPort("0.0.0.0:51821"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ask := port(51820)
		ask.Spares, ask.KeepaliveS = 1000, 1
		out := p.publish(ask, taken, port(7000), port(6000), port(51820), port(0), port(70000), port(51822))
		for i, want := range []string{"", "in use", "no port 7000", "other members", "twice", "1 to 65535", "1 to 65535", ""} {
			got := out[i].GetRefused()
			if (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("port %d was answered %q, want %q in it", out[i].GetPort(), got, want)
			}
		}
		// S3-09: what was granted is told, and goes with each leg.
		if out[0].GetSpares() != maxSpares || out[0].GetKeepaliveS() != 5 || len(out[0].GetAddrs()) != 2 {
			t.Errorf("granted: %v", out[0])
		}
		if at, _ := out[0].GetAddrs()[0].AddrPort(); at != wgPort {
			t.Errorf("clients are to come to %v", at)
		}
		if out[7].GetSpares() != defaultSpares || out[7].GetKeepaliveS() != 25 {
			t.Errorf("by default: %v", out[7])
		}
		// What is not asked for any more is closed, and can be another's.
		p.mustPublish(port(51822))
		if n := len(p.public.all()); n != 1 {
			t.Errorf("%d ports are open, want 1", n)
		}
		p.mustPublish()
		if n := len(p.public.all()); n != 0 {
			t.Errorf("%d ports are open, want none", n)
		}
		if st := p.relay.Stats(); st.Public != 0 {
			t.Errorf("%d allocations live", st.Public)
		}
	})
}

// A flood of sources that are forged, or never listened to, neither grows nor
// pushes out those whom the service answers; and nothing goes to any of them.
func TestFloodOfForgedSources(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, func(r *PublishRule) { r.MaxClients, r.NewClients = 50, 400 })
		p.mustPublish(port(51820))
		friend := p.phone(p.client("192.0.2.7/24"))
		friend.say("hello")
		from := friend.mustHear("hello")
		p.fakeHome.mu.Lock()
		p.mute = true
		p.fakeHome.mu.Unlock()
		victims := p.client("192.0.2.99/24")
		var all []*phone
		for i := range 3000 {
			c := p.phone(victims)
			c.say(strings.Repeat("x", 100))
			all = append(all, c)
			if i%10 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		time.Sleep(5 * time.Second)
		f := p.figures(51820)
		t.Logf("3000 forged sources: %+v", f)
		if f.clients > 50 {
			t.Errorf("%d clients are over the cap", f.clients)
		}
		if f.evicted == 0 || f.drops["new-client-rate"]+f.drops["full"]+f.drops["source-rate"] == 0 {
			t.Error("nothing was counted")
		}
		for _, c := range all {
			if n := len(c.got); n > 0 {
				t.Fatalf("a source that nobody answered was sent %d datagrams", n)
			}
		}
		p.fakeHome.mu.Lock()
		p.mute = false
		p.fakeHome.mu.Unlock()
		friend.say("still here")
		if again := friend.mustHear("still here"); again != from {
			t.Error("a client that is answered was pushed out by those who are not")
		}
	})
}

// Where all clients are answered, the one that was silent longest makes room,
// but none that was heard of lately.
func TestFullPort(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, func(r *PublishRule) { r.MaxClients = 3 })
		p.mustPublish(port(51820))
		host := p.client("192.0.2.7/24")
		var clients []*phone
		for range 3 {
			c := p.phone(host)
			c.say("hello")
			c.mustHear("hello")
			clients = append(clients, c)
			time.Sleep(time.Second)
		}
		late := p.phone(host)
		late.say("too late")
		if _, got := late.hear(time.Second); got != "" {
			t.Error("a client was pushed out that was heard of 3 s ago")
		}
		if n := p.figures(51820).drops["full"]; n != 1 {
			t.Errorf("%d were dropped for it", n)
		}
		time.Sleep(evictAfter)
		clients[0].say("I am here") // so the second is the oldest
		clients[0].mustHear("I am here")
		late.say("now")
		late.mustHear("now")
		if f := p.figures(51820); f.clients != 3 || f.evicted != 1 {
			t.Errorf("%+v", f)
		}
		from := clients[0].mustSayAgain()
		if clients[0].mustSayAgain() != from {
			t.Error("the first client was pushed out")
		}
	})
}

func (c *phone) mustSayAgain() string {
	c.t.Helper()
	c.say("again")
	return c.mustHear("again")
}

// What an agent can't bind in time is dropped and counted; nothing piles up.
func TestAgentThatBindsNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.deaf = true
		p.mustPublish(port(51820))
		host := p.client("192.0.2.7/24")
		c := p.phone(host)
		for range 20 {
			c.say("hello?")
			time.Sleep(time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		if f := p.figures(51820); f.waiting != 1 || f.drops["held-too-much"] != 20-lineDatagrams {
			t.Errorf("while one waits: %+v", f)
		}
		time.Sleep(3 * time.Second)
		if f := p.figures(51820); f.waiting != 0 || f.drops["held-too-long"] != lineDatagrams {
			t.Errorf("after it waited too long: %+v", f)
		}
		time.Sleep(time.Minute)
		p.fakeHome.mu.Lock()
		defer p.fakeHome.mu.Unlock()
		if f := p.figures(51820); f.spares > defaultSpares || p.pushes > 8 {
			t.Errorf("after a minute %d allocations stand, and the agent got %d messages", f.spares, p.pushes)
		}
	})
}

// S3-11: an agent gives legs back, and a leg that is not bound any more ends.
func TestLegsEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		host := p.client("192.0.2.7/24")
		for range 2 {
			p.phone(host).mustSayAgain()
		}
		var ids [][]byte
		p.fakeHome.mu.Lock()
		for id, l := range p.legs {
			if len(l.got) > 0 {
				ids = append(ids, id[:])
			}
		}
		p.fakeHome.mu.Unlock()
		p.must(&proto.ToCoordinator{Body: &proto.ToCoordinator_Release{Release: &proto.Release{Ids: ids[:1]}}})
		if f := p.figures(51820); f.clients != 1 {
			t.Errorf("%d clients after one was given back", f.clients)
		}
		p.fakeHome.mu.Lock()
		l := p.legs[proto.Token(ids[1])]
		p.fakeHome.mu.Unlock()
		l.end()
		time.Sleep(36 * time.Second)
		if f := p.figures(51820); f.clients != 0 || f.ready != defaultSpares {
			t.Errorf("after the other lapsed: %+v", f)
		}
		if _, err := p.ask(&proto.ToCoordinator{Body: &proto.ToCoordinator_Release{Release: &proto.Release{Ids: [][]byte{{1}}}}}); err == nil {
			t.Error("an id of one byte was taken")
		}
	})
}

// S3-15: without ?raw the datagrams are sealed between coordinator and agent,
// whatever their size.
func TestPublicPortSealed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.sealed = true
		ask := port(51820)
		ask.Raw = false
		p.mustPublish(ask)
		c := p.phone(p.client("192.0.2.7/24"))
		for _, n := range []int{1, 33, 53, 100, 1380, 1400, 1452, 1466} {
			what := strings.Repeat("z", n)
			c.say(what)
			c.mustHear(what)
		}
		p.wantNoDrops(51820)
		p.fakeHome.mu.Lock()
		defer p.fakeHome.mu.Unlock()
		if p.sizes[0] != 1+proto.Overhead || len(p.sizes) != 8+3 || slices.Max(p.sizes) > 1400 {
			t.Errorf("datagrams of %v bytes crossed", p.sizes)
		}
		if st, _ := p.status(); st.Public[0].Split != 3 {
			t.Errorf("status: %+v", st.Public[0])
		}
	})
}

// A datagram of the service that comes in parts, of which one is lost, is counted.
func TestPublicPortSealedLosesAPart(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.sealed = true
		ask := port(51820)
		ask.Raw = false
		p.mustPublish(ask)
		c := p.phone(p.client("192.0.2.7/24"))
		what := strings.Repeat("z", 1460)
		lost, home := false, p.home.Addr()
		p.home.DropWhen(func(from, _ netip.AddrPort, d []byte) bool { // the first of the answer's two parts
			first := !lost && from.Addr() == home && len(d) > 500
			lost = lost || first
			return first
		})
		c.say(what)
		if _, got := c.hear(2 * time.Second); got != "" {
			t.Errorf("%d bytes came", len(got))
		}
		c.say(what)
		c.mustHear(what)
		f := p.figures(51820)
		if f.drops["incomplete"] != 1 || f.split != 2 {
			t.Errorf("%+v", f)
		}
	})
}

// The agent is told who its clients are, where it asks.
func TestAgentIsToldOfClients(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		ask := port(51820)
		ask.Clients = true
		p.mustPublish(ask)
		host := p.client("192.0.2.7/24")
		for range 300 {
			p.phone(host).say("hello")
		}
		time.Sleep(time.Second)
		p.fakeHome.mu.Lock()
		defer p.fakeHome.mu.Unlock()
		if len(p.clients) != 300 {
			t.Errorf("the agent was told of %d clients, want 300", len(p.clients))
		}
		for id, at := range p.clients {
			if at.Addr().String() != "192.0.2.7" || p.legs[id] == nil || len(p.legs[id].got) == 0 {
				t.Errorf("leg %x was said to be of %v", id, at)
			}
		}
	})
}

func TestRevokedMemberLosesItsPorts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		other := p.agent("other", p.lab.Host("elsewhere", "192.0.2.66/24"))
		other.must(other.revocation(p.fakeHome.guest))
		if n := len(p.public.all()); n != 0 {
			t.Errorf("%d ports are open", n)
		}
		if st := p.relay.Stats(); st.Public != 0 {
			t.Errorf("%d allocations live", st.Public)
		}
	})
}

// A burst of a client's stays one burst.
func TestPublicBurstStaysWhole(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		c := p.phone(p.client("192.0.2.7/24"))
		burst := dgram.Burst{Addr: wgPort, Buf: []byte(strings.Repeat("abcdefgh", 16)), Size: 8}
		if err := c.conn.Write(burst); err != nil {
			t.Fatal(err)
		}
		for range 16 {
			c.mustHear("abcdefgh")
		}
		p.wantNoDrops(51820)
	})
}
