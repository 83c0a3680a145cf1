package agent

import (
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
)

// onSplice says whether the laptop's connections are on a stream through the
// relay.
func (p *pair) onSplice() bool {
	c := p.laptop.peer("home").tcp
	c.mu.Lock()
	defer c.mu.Unlock()
	link, ok := c.links[0].(spliceLink)
	return ok && !link.ended()
}

// onTLSAlone is a pair whose legs are both over TLS until the networks let
// through more; or which has UDP from the beginning.
func onTLSAlone(t *testing.T, udp bool, home, road func(*Config)) *pair {
	t.Helper()
	return newPair(t, natlab.Home(), func(p *pair) {
		serveTCP(t, p.home, webAt, echoTCP)
		for _, nat := range []*natlab.NAT{p.cafe, p.carrier} {
			nat.Set(natlab.NoUDP(!udp), natlab.TCPPorts(443))
		}
	}, all(unprivileged, home, exposing(t, webName, "tcp://"+webAt)), all(unprivileged, road, dialing(t, "home", webName, "tcp://"+webTo)))
}

// Where both legs are over TLS, connections go over a stream through the relay,
// and leave it for UDP when that passes, without losing a byte.
func TestConnectionsOverTheRelaysTLS(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := onTLSAlone(t, false, nil, nil)
		b := noise(32 * pace)
		transfer := pump(p.call(t), b, pace)
		began := time.Now()
		waitFor(t, "the relay", 20*time.Second, func() bool { return best(p.laptop, "home") == "relay-tls" })
		waitFor(t, "a stream through the relay", 20*time.Second, p.onSplice)
		t.Logf("on a stream through the relay after %v", time.Since(began))
		time.Sleep(5 * time.Second)
		if !p.onSplice() {
			t.Error("it did not last")
		}
		p.cafe.Set(natlab.NoUDP(false))
		p.carrier.Set(natlab.NoUDP(false))
		for a, peer := range map[*running]string{p.laptop: "home", p.far: "laptop"} {
			a.link.check()
			a.peer(peer).networkChanged()
		}
		waitFor(t, "direct-udp", 20*time.Second, func() bool { return best(p.laptop, "home") == "direct-udp" })
		waitFor(t, "QUIC in the session", 20*time.Second, func() bool { return !p.onSplice() })
		select {
		case <-transfer.done:
			t.Error("the transfer had ended before it moved")
		default:
		}
		transfer.check(t, b, 3*time.Second)
		if st := p.laptop.peer("home").tcp.out.Status(); st.Broken != 0 || st.Resumed < 2 {
			t.Errorf("%+v", st)
		}
	})
}

// Where there is no such stream, because one of both knows none or the peer's leg
// is no stream, QUIC stays, without a pause.
func TestConnectionsStayOnQUICWithoutSplice(t *testing.T) {
	without := func(c *Config) { c.Dialers.Splice = nil }
	for name, c := range map[string]struct {
		home, road func(*Config)
		udp        bool
	}{
		"we know none":                {nil, without, false},
		"the peer knows none":         {without, nil, false},
		"the peer's leg is no stream": {only(path.RelayUDP), only(path.RelayTLS), true},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := onTLSAlone(t, c.udp, c.home, c.road)
				b := noise(40 << 10)
				transfer := pump(p.call(t), b, 2<<10)
				time.Sleep(15 * time.Second)
				if p.onSplice() {
					t.Error("there is a stream through the relay")
				}
				if now := best(p.laptop, "home"); now != "relay-tls" {
					t.Errorf("data takes %s", now)
				}
				transfer.check(t, b, time.Second)
				far := p.far.peer("laptop").tcp.splices.refused.Load()
				if asked := c.road == nil || c.udp; asked != (far > 0) {
					t.Errorf("the peer has refused %d", far)
				}
			})
		})
	}
}
