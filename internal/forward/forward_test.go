package forward

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// S3-02
func TestEachClientHasItsOwnSocketBeforeTheService(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		const n = 200
		clients := make([]*listener, n)
		for i := range clients {
			clients[i] = listen(t, p.laptopNet, "127.0.0.1:0", false)
			clients[i].send(addr(dialAddr), fmt.Sprintf("hello %d", i))
		}
		settle()
		_, from := service.take()
		seen := make(map[netip.AddrPort]bool)
		for _, a := range from {
			if !a.Addr().IsLoopback() {
				t.Errorf("the service on loopback sees %v", a)
			}
			seen[a] = true
		}
		if len(from) != n || len(seen) != n {
			t.Errorf("%d datagrams from %d addresses reached the service, want %d of each", len(from), len(seen), n)
		}
		for i, c := range clients {
			c.want(fmt.Sprintf("echo hello %d", i))
		}
		if p.laptop.Outgoing() != n || p.home.Outgoing() != 0 || p.home.Len() != n {
			t.Errorf("flows: %d, %d, %d", p.laptop.Outgoing(), p.home.Outgoing(), p.home.Len())
		}
		if s := p.services.List(); len(s) != 1 || s[0].Flows != n || s[0].Name != "wg" {
			t.Errorf("services: %+v", s)
		}
		if d := p.laptop.Dials(); len(d) != 1 || d[0].Flows != n || d[0].Listen != addr(dialAddr) || d[0].Error != "" {
			t.Errorf("dials: %+v", d)
		}
	})
}

func TestFirstDatagramNeedsNoRoundTripAndBurstsStayWhole(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, false)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		burst := dgram.Burst{Addr: addr(dialAddr), Buf: []byte("aaabbbcccd"), Size: 3}
		if err := client.Write(burst); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		synctest.Wait()
		service.want("aaa", "bbb", "ccc", "d")
		settle()
		if err := client.Write(burst); err != nil {
			t.Fatal(err)
		}
		settle()
		if len(service.bursts) != 1 || service.bursts[0].Size != 3 || string(service.bursts[0].Buf) != "aaabbbcccd" {
			t.Errorf("a burst arrived as %v", service.bursts)
		}
		if opens, _, _ := p.toHome.frames(); opens != 1 {
			t.Errorf("%d opens", opens)
		}
		if len(p.toHome.data) != 2 {
			t.Errorf("data went as %d bursts, want 2", len(p.toHome.data))
		}
	})
}

func TestLargeAndEmptyFirstDatagrams(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, false)
		p.dial("wg")
		large := string(bytes.Repeat([]byte{'x'}, payloadSize+1))
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), large)
		settle()
		service.want(large)
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "")
		settle()
		service.want("")
	})
}

func TestOpenIsRepeatedAndItsPayloadDeliveredOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, false)
		p.toLaptop.losing(func(f *proto.Frame) bool { return f.GetOpened() != nil })
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		var want []string
		for i := range 50 {
			d := fmt.Sprint("datagram ", i)
			want = append(want, d)
			client.send(addr(dialAddr), d)
			time.Sleep(10 * time.Millisecond)
		}
		p.tick(3 * time.Second)
		settle()
		service.want(want...)
		if opens, _, _ := p.toHome.frames(); opens < 5 || opens > 15 {
			t.Errorf("%d opens in half a second and three more", opens)
		}
		p.toLaptop.losing(nil)
		client.send(addr(dialAddr), "and on")
		settle()
		p.toHome.frames()
		client.send(addr(dialAddr), "and on")
		settle()
		service.want("and on", "and on")
		if opens, _, _ := p.toHome.frames(); opens != 0 {
			t.Error("an open flow was opened")
		}
	})
}

func TestLostOpenIsRepeatedWithoutTheClientsHelp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, false)
		first := true
		p.toHome.losing(func(*proto.Frame) bool { lost := first; first = false; return lost })
		p.dial("wg")
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "only one")
		p.tick(time.Second)
		settle()
		service.want("only one")
		p.tick(10 * time.Second)
		if opens, _, _ := p.toHome.frames(); opens != 2 {
			t.Errorf("%d opens", opens)
		}
	})
}

func TestDataBeforeALostOpenBringsACloseAndAnOpen(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, false)
		first := true
		p.toHome.losing(func(f *proto.Frame) bool { lost := first; first = false; return lost })
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "one")
		client.send(addr(dialAddr), "two")
		settle()
		service.want("one") // the second met no flow
		p.wantDrops(p.home, unknownFlow, 1)
		client.send(addr(dialAddr), "three")
		settle()
		service.want("three")
	})
}

func TestSilentPeerIsAskedLessAndLess(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.toHome.losing(func(*proto.Frame) bool { return true })
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		for range 200 {
			client.send(addr(dialAddr), "x")
			time.Sleep(5 * time.Millisecond)
		}
		if opens, _, _ := p.toHome.frames(); opens < 5 || opens > 8 {
			t.Errorf("%d opens in a second", opens)
		}
		client.Close()
		p.tick(20 * time.Second)
		if opens, _, _ := p.toHome.frames(); opens > repeatTries {
			t.Errorf("%d opens without a burst", opens)
		}
	})
}

// S3-11
func TestIdleFlowsExpire(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		silent, talks := listen(t, p.homeNet, serviceAddr, false), listen(t, p.homeNet, "127.0.0.1:53", true)
		p.expose("dns", "udp://127.0.0.1:53")
		p.dial("wg")
		if _, err := p.laptop.Listen("dns", addr("127.0.0.1:5353"), 0); err != nil {
			t.Fatal(err)
		}
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "?")
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr("127.0.0.1:5353"), "?")
		settle()
		silent.want("?")
		talks.want("?")

		p.tick(59 * time.Second)
		if p.home.Len() != 2 || p.laptop.Len() != 2 {
			t.Errorf("flows after 59 s: %d, %d", p.laptop.Len(), p.home.Len())
		}
		p.tick(3 * time.Second)
		if p.home.Len() != 1 || p.laptop.Len() != 1 {
			t.Errorf("flows after 62 s: %d, %d", p.laptop.Len(), p.home.Len())
		}
		p.tick(117 * time.Second)
		if p.home.Len() != 1 || p.laptop.Len() != 1 {
			t.Errorf("flows after 179 s: %d, %d", p.laptop.Len(), p.home.Len())
		}
		p.tick(3 * time.Second)
		if p.home.Len() != 0 || p.laptop.Len() != 0 || p.homeNet.open() != 2 {
			t.Errorf("flows after 182 s: %d, %d; sockets at home: %d", p.laptop.Len(), p.home.Len(), p.homeNet.open())
		}
		if s := p.services.List(); s[0].Flows != 0 || s[1].Flows != 0 {
			t.Errorf("services: %+v", s)
		}
		if n := p.laptop.Drops()["flows-expired"] + p.home.Drops()["flows-expired"]; n < 2 {
			t.Errorf("%d flows were counted as expired", n)
		}
	})
}

// Who sleeps until Expire has something to do misses nothing.
func TestExpireSaysWhenItIsDue(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.laptop.Expire(time.Now())
		if next := p.laptop.Expire(time.Now()); next < 30*time.Second {
			t.Errorf("without a flow something is due in %v", next)
		}
		listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "x")
		settle()
		for _, flows := range []*Flows{p.laptop, p.home} {
			began := time.Now()
			for rounds, next := 0, time.Duration(0); flows.Len() > 0; rounds++ {
				if rounds > 8 {
					t.Fatalf("after %v and %d looks the flow still lives", time.Since(began), rounds)
				}
				time.Sleep(next)
				next = flows.Expire(time.Now())
			}
			if took := time.Since(began); took > 3*time.Minute+time.Second {
				t.Errorf("the flow ended after %v", took)
			}
		}
	})
}

func TestExpiryOnOneSideEndsTheOther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, func(p *pair) { p.lapConfig.Limits.Answered = 10 * time.Second })
		listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x")
		p.tick(12 * time.Second)
		settle()
		if p.home.Len() != 0 || p.laptop.Len() != 0 || p.homeNet.open() != 1 {
			t.Errorf("flows: %d, %d; sockets at home: %d", p.laptop.Len(), p.home.Len(), p.homeNet.open())
		}
	})
}

// S3-21
func TestFlowInUseDoesNotExpire(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, false)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		for range 60 {
			client.send(addr(dialAddr), "x")
			p.tick(10 * time.Second)
		}
		_, from := service.take()
		for _, a := range from {
			if a != from[0] {
				t.Fatalf("the far socket changed: %v and %v", from[0], a)
			}
		}
	})
}

func TestLeastRecentlyUsedFlowMakesRoom(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, func(p *pair) { p.homeConfig.Limits.Max = 3 })
		service := listen(t, p.homeNet, serviceAddr, false)
		p.dial("wg")
		clients := make([]*listener, 4)
		for i := range clients[:3] {
			clients[i] = listen(t, p.laptopNet, "127.0.0.1:0", false)
			clients[i].send(addr(dialAddr), fmt.Sprint("new ", i))
			time.Sleep(time.Second)
		}
		clients[0].send(addr(dialAddr), "still here")
		time.Sleep(2 * time.Second)
		_, from := service.take()
		clients[3] = listen(t, p.laptopNet, "127.0.0.1:0", false)
		clients[3].send(addr(dialAddr), "new 3")
		settle()
		if p.home.Len() != 3 {
			t.Errorf("%d flows at home", p.home.Len())
		}
		p.wantDrops(p.home, evictedFlow, 1)
		service.take()
		clients[0].send(addr(dialAddr), "kept")
		settle()
		if _, now := service.take(); len(now) != 1 || now[0] != from[0] {
			t.Errorf("the flow that was used later was evicted: %v, %v", now, from)
		}
		clients[1].send(addr(dialAddr), "again") // the evicted one opens again
		settle()
		if got, now := service.take(); len(now) != 1 || got[0] != "again" || now[0] == from[1] {
			t.Errorf("the evicted flow: %q from %v", got, now)
		}
		p.wantDrops(p.home, evictedFlow, 2)
	})
}

func TestSocketsStayWhenTheSessionIsReplaced(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "before")
		settle()
		p.toHome.frames()

		all := func(*proto.Frame) bool { return true }
		p.toHome.losing(all)
		p.toLaptop.losing(all)
		client.send(addr(dialAddr), "lost")
		time.Sleep(10 * time.Second)
		p.toHome.losing(nil)
		p.toLaptop.losing(nil)
		p.laptop.Reopen()
		p.home.Reopen()
		client.send(addr(dialAddr), "after")
		settle()
		got, from := service.take()
		if fmt.Sprint(got) != fmt.Sprint([]string{"before", "after"}) || from[0] != from[1] {
			t.Errorf("service: %q from %v", got, from)
		}
		client.want("echo before", "echo after")
		if opens, _, _ := p.toHome.frames(); opens != 1 {
			t.Errorf("%d opens after Reopen", opens)
		}
	})
}

func TestReopenAnnouncesEveryFlow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		for range 200 {
			listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x")
		}
		settle()
		p.toHome.frames()
		// The far agent restarts and knows no flow.
		p.home.Close()
		p.homeConfig.Instance++
		p.home = New(p.homeConfig)
		p.toHome.aim(p.home)
		p.laptop.Reopen()
		settle()
		if opens, _, _ := p.toHome.frames(); opens != repeatMost {
			t.Errorf("%d opens at once", opens)
		}
		p.tick(4 * time.Second)
		if n := p.home.Len(); n != 200 {
			t.Errorf("%d flows live again at home", n)
		}
	})
}

func TestRestartOfTheDialingAgent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "first run")
		settle()
		p.toHome.mu.Lock()
		late := p.toHome.sent[0]
		p.toHome.mu.Unlock()

		p.laptop.Close()
		p.lapConfig.Instance++
		p.laptop = New(p.lapConfig)
		p.toLaptop.aim(p.laptop)
		p.dial("wg")
		client.send(addr(dialAddr), "second run")
		settle()
		client.want("echo first run", "echo second run")
		got, from := service.take()
		if len(got) != 2 || from[0] == from[1] {
			t.Errorf("service: %q from %v", got, from)
		}
		p.home.Frame(late) // an Open of the first run that was on its way
		settle()
		service.want()
		if p.home.Len() != 1 || p.homeNet.open() != 2 {
			t.Errorf("flows at home: %d, sockets: %d", p.home.Len(), p.homeNet.open())
		}
	})
}
