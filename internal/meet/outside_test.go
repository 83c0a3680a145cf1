package meet

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/internal/stun"
)

// server answers STUN on a host's port 3478.
func server(t *testing.T, lab *natlab.Lab, name, addr string) netip.AddrPort {
	t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(addr), 3478)
	conn, err := lab.Host(name, addr).ListenUDP(at)
	if err != nil {
		t.Fatal(err)
	}
	r := stun.NewResponder(stun.Sockets{{at}})
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = path.Read(conn, func(b dgram.Burst) {
			if a, ok := r.Answer(time.Now(), stun.Socket{}, b.Addr, b.Buf); ok {
				_ = conn.Write(dgram.One(a.To, a.Message))
			}
		})
	}()
	t.Cleanup(func() { _ = conn.Close(); <-over })
	return at
}

// Our own outside address is told before the time, held open until then, and
// told again when it changes; the peer's is typed in meanwhile.
func TestOutsideAddressIsToldAndHeld(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		carrier := natlab.Carrier() // random ports, mappings of a minute
		w := newWorld(t, carrier, carrier)
		servers := []netip.AddrPort{server(t, w.lab, "stun", "203.0.113.10"), server(t, w.lab, "other", "203.0.113.11")}
		secret := seal.NewSecret()
		var typed [2]chan netip.AddrPort
		var sides [2]*side
		for i, h := range []*natlab.Host{w.one, w.two} {
			typed[i] = make(chan netip.AddrPort, 1)
			sides[i] = start(t, h, secret, "203.0.113.99:9", 10*time.Minute, func(c *Config) {
				c.Peer, c.STUN = netip.AddrPort{}, servers
				c.Learn = func(ctx context.Context) (netip.AddrPort, error) {
					select {
					case p := <-typed[i]:
						return p, nil
					case <-ctx.Done():
						return netip.AddrPort{}, ctx.Err()
					}
				}
			})
		}
		a, b := sides[0].await(Outside, 5*time.Second), sides[1].await(Outside, 5*time.Second)
		if a.Varies || netip.MustParseAddrPort(a.Addr).Addr().String() != onesAddr || a.Addr == ones {
			t.Fatalf("%+v", a)
		}
		time.Sleep(5 * time.Minute)
		typed[0] <- ap(b.Addr)
		typed[1] <- ap(a.Addr)
		if e := sides[0].await(Open, 6*time.Minute); e.Addr != b.Addr {
			t.Errorf("open to %s, it was told %s", e.Addr, b.Addr)
		}
		if _, n := sides[0].saw(Outside); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

func TestOutsideThatVariesOrIsNotKnown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Cellular(), natlab.Home())
		servers := []netip.AddrPort{server(t, w.lab, "stun", "203.0.113.10"), server(t, w.lab, "other", "203.0.113.11")}
		a := start(t, w.one, seal.NewSecret(), twos, time.Hour, func(c *Config) { c.STUN = servers })
		if e := a.await(Outside, 5*time.Second); !e.Varies {
			t.Errorf("%+v", e)
		}
		b := start(t, w.two, seal.NewSecret(), ones, time.Hour, func(c *Config) { c.STUN = []netip.AddrPort{ap("203.0.113.12:3478")} })
		if e := b.await(Outside, 5*time.Second); e.Addr != "" || e.Reason == "" {
			t.Errorf("%+v", e)
		}
	})
}
