package rendezvous

import (
	"fmt"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// silentLines are what the log says of an agent that does not answer.
const silentLines = "its agent does not answer"

// come has new clients come, one a second, until one is answered; it gives how
// long that took.
func (p *publicLab) come(host *natlab.Host, most time.Duration) (took time.Duration) {
	p.t.Helper()
	for began := time.Now(); time.Since(began) < most; {
		c := p.phone(host)
		c.say("hello")
		if _, what := c.hear(time.Second); what != "" {
			return time.Since(began)
		}
	}
	p.t.Errorf("no client was answered in %v", most)
	return most
}

// An agent that is gone without a word is noticed as soon as a client waits,
// whether that is a new one or one of before, and so is it when it is back.
func TestSilentAgentIsNoticed(t *testing.T) {
	for _, fresh := range []bool{true, false} {
		t.Run(fmt.Sprint(fresh), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				p := newPublicLab(t, nil)
				p.mustPublish(port(51820))
				host := p.client("192.0.2.7/24")
				old := p.phone(host)
				old.say("hello")
				old.mustHear("hello")
				time.Sleep(10 * time.Second)
				p.home.Unplug()
				cut := time.Now()
				for p.log.count(silentLines) == 0 && time.Since(cut) < 15*time.Second {
					if fresh {
						old = p.phone(host)
					}
					old.say("x")
					time.Sleep(500 * time.Millisecond)
				}
				if took := time.Since(cut); took > 6*time.Second {
					t.Errorf("noticed after %v", took)
				} else {
					t.Logf("noticed after %v", took)
				}
				before := p.figures(51820)
				for range 5 {
					p.phone(host).say("in vain")
				}
				time.Sleep(100 * time.Millisecond)
				after := p.figures(51820)
				if n := after.drops["no-agent"] - before.drops["no-agent"]; n != 5 || after.drops["held-too-long"] != 0 {
					t.Errorf("of 5 datagrams %d are counted as without agent: %v", n, after.drops)
				}
				if st, _ := p.status(); st.Public[0].Online || !st.Public[0].Silent {
					t.Errorf("status: %+v", st.Public[0])
				}
				p.home.Plug()
				t.Logf("answered %v after it was back", p.come(host, 5*time.Second))
				if n := p.log.count(silentLines); n != 1 {
					t.Errorf("%d lines tell of it", n)
				}
				if p.log.count("answers again") != 1 {
					t.Error("no line says that it is back")
				}
			})
		})
	}
}

// A service that answers nothing is no silent agent, and to find that out takes
// few datagrams; without clients none.
func TestMuteServiceIsNoSilentAgent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		p.mustPublish(port(51820))
		p.mu.Lock()
		p.mute = true
		p.mu.Unlock()
		asked := func() uint64 {
			p.public.mu.Lock()
			defer p.public.mu.Unlock()
			return p.public.ports[publicKey{number: 51820}].conn.look().heard
		}
		idle := asked()
		time.Sleep(time.Minute)
		idle = asked() - idle
		c := p.phone(p.client("192.0.2.7/24"))
		busy := asked()
		for range 120 {
			c.say("measured 21 degrees")
			time.Sleep(500 * time.Millisecond)
		}
		busy = asked() - busy
		t.Logf("in a minute %d datagrams of control came without clients, %d with one", idle, busy)
		if p.log.count(silentLines) != 0 || p.figures(51820).drops["no-agent"] != 0 {
			t.Error("the agent is taken for silent")
		}
		if n := p.served(); n != 1 {
			t.Errorf("%d legs served", n)
		}
		if idle > 10 || busy > 40 {
			t.Errorf("%d datagrams came without clients, %d with one", idle, busy)
		}
	})
}

// TCP clients are reset where they would wait for an agent that is gone; those
// that it has taken go on when it is back.
func TestSilentAgentResetsTCP(t *testing.T) {
	for _, name := range []string{"quic", "tls"} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := newPublicLab(t, nil)
				e := p.echo()
				p.mustPublish(tcpPort(51820, "ssh"))
				e.Use(e.dialers()[name]())
				host := p.client("192.0.2.7/24")
				old := visit(t, host, 51820)
				crossTCP(t, old, 10, func() {})
				time.Sleep(10 * time.Second)
				p.home.Unplug()
				began := time.Now()
				wantReset(t, visit(t, host, 51820))
				if took := time.Since(began); took > 6*time.Second {
					t.Errorf("the first client was reset after %v", took)
				} else {
					t.Logf("the first client was reset after %v", took)
				}
				began = time.Now()
				wantReset(t, visit(t, host, 51820))
				if took := time.Since(began); took > time.Second {
					t.Errorf("the second client was reset after %v", took)
				}
				time.Sleep(time.Second)
				if n := p.log.count(silentLines); n != 1 || p.figures(51820).drops["no-agent"] != 2 {
					t.Errorf("%d lines, drops %v", n, p.figures(51820).drops)
				}
				p.home.Plug()
				time.Sleep(4 * time.Second)
				crossTCP(t, visit(t, host, 51820), 10, func() {})
				crossTCP(t, old, 10, func() {})
			})
		})
	}
}

// The control connection over TLS is asked by a ping.
func TestSilentAgentOverTLS(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := newPublicLab(t, nil)
		cert, err := p.id.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		p.hangUp()
		p.Client, err = in(p.home).Connect(t.Context(), p.Addrs()[0].String(), p.pin, cert)
		if err != nil {
			t.Fatal(err)
		}
		p.done = make(chan struct{})
		if _, err := p.fakeHome.register(); err != nil {
			t.Fatal(err)
		}
		go p.listen(p.Client, p.done)
		p.mustPublish(port(51820))
		p.mu.Lock()
		p.mute = true
		p.mu.Unlock()
		c := p.phone(p.client("192.0.2.7/24"))
		for range 20 {
			c.say("x")
			time.Sleep(500 * time.Millisecond)
		}
		if p.log.count(silentLines) != 0 {
			t.Error("an agent that answers pings is taken for silent")
		}
		p.home.Unplug()
		cut := time.Now()
		for p.log.count(silentLines) == 0 && time.Since(cut) < 15*time.Second {
			c.say("x")
			time.Sleep(500 * time.Millisecond)
		}
		if took := time.Since(cut); took > 8*time.Second {
			t.Errorf("noticed after %v", took)
		}
		p.home.Plug()
		time.Sleep(4 * time.Second)
		if p.log.count("answers again") == 0 {
			t.Error("it is not back")
		}
	})
}
