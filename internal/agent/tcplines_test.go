package agent

import (
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
)

// onLine says whether the laptop's connections are on a line.
func (p *pair) onLine() bool {
	c := p.laptop.peers.all()[0].tcp
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.links[0].(lineLink)
	return ok
}

// Where the best path is a TCP connection, connections go over a byte stream in
// it. They leave it with data, and come back, without losing a byte.
func TestConnectionsOverTCPBetweenPeers(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := newPair(t, natlab.Home(), func(p *pair) {
			serveTCP(t, p.home, webAt, echoTCP)
			p.cafe.Set(natlab.NoUDP(true))
		}, all(unprivileged, exposing(t, webName, "tcp://"+webAt)), all(unprivileged, dialing(t, "home", webName, "tcp://"+webTo)))
		p.goes(t, path.DirectTCP.String())

		b := noise(40 * pace)
		transfer := pump(p.call(t), b, pace)
		time.Sleep(time.Second)
		if !p.onLine() {
			t.Error("a connection does not use the byte stream")
		}

		p.cafe.Set(natlab.TCPPorts(443))
		waitFor(t, "the relay", 20*time.Second, func() bool { return best(p.laptop, "home") == "relay-tls" })
		time.Sleep(2 * time.Second)
		if p.onLine() {
			t.Error("the byte stream is not left")
		}
		p.cafe.Set(natlab.TCPPorts())
		waitFor(t, "direct-tcp again", 2*time.Minute, func() bool { return best(p.laptop, "home") == "direct-tcp" })
		time.Sleep(4 * tendEvery)
		if !p.onLine() {
			t.Error("a connection does not come back to the byte stream")
		}
		transfer.check(t, b, 5*time.Second)
	})
}
