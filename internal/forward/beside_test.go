package forward

import (
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// Who carries a raw flow's datagrams past us knows its addresses, and keeps it
// alive by what passes.
func TestRawFlowBeside(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.expose("wg", "udp://"+serviceAddr+"?raw")
		listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "sealed")
		settle()
		local, remote, ok := p.laptop.Near(1, 11, path.DirectUDP)
		if !ok || local != addr(dialAddr) || remote != client.addr {
			t.Errorf("the laptop's: %v, %v, %v", local, remote, ok)
		}
		if _, remote, ok = p.home.Near(1, 11, path.DirectUDP); !ok || remote != addr(serviceAddr) {
			t.Errorf("home's: %v, %v", remote, ok)
		}
		if _, _, ok = p.home.Near(1, 12, path.DirectUDP); ok {
			t.Error("another instance's flow is told")
		}
		p.home.find(1).answered.Store(false)
		for range 20 { // five minutes, longer than an idle flow lives
			time.Sleep(15 * time.Second)
			p.laptop.Passed(1, 11, true, false)
			p.home.Passed(1, 11, true, false)
			p.home.Passed(1, 12, true, false)
			p.laptop.Expire(time.Now())
			p.home.Expire(time.Now())
		}
		if p.laptop.Len() != 1 || p.home.Len() != 1 || !p.home.find(1).answered.Load() {
			t.Errorf("%d and %d flows live", p.laptop.Len(), p.home.Len())
		}
		p.home.Passed(1, 11, false, false)
		time.Sleep(4 * time.Minute)
		p.home.Expire(time.Now())
		if p.home.Len() != 0 {
			t.Error("a flow that nothing passes lives")
		}
		if _, _, ok = p.home.Near(1, 11, path.DirectUDP); ok {
			t.Error("a flow that has ended is told")
		}
	})
}

// A flow under a rule goes nowhere else.
func TestRawFlowBesideObeysItsRule(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.expose("wg", "udp://"+serviceAddr+"?raw&paths=relay-udp")
		listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "sealed")
		settle()
		if _, _, ok := p.laptop.Near(1, 11, path.DirectUDP); ok {
			t.Error("a flow that may take the relay alone is told for a direct path")
		}
	})
}
