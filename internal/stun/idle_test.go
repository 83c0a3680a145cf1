package stun_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/stun"
)

const serverAt = "203.0.113.10:443"

// answering is a STUN server on a host of the lab's internet. deaf says that it
// answers who asked, whatever port was wanted.
func answering(t *testing.T, lab *natlab.Lab, deaf bool) netip.AddrPort {
	t.Helper()
	at := netip.MustParseAddrPort(serverAt)
	conn, err := lab.Host("server", at.Addr().String()).ListenUDP(netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()))
	if err != nil {
		t.Fatal(err)
	}
	r := stun.NewResponder(stun.Sockets{{at}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		var arena dgram.Arena
		defer arena.Release()
		for {
			bursts, err := conn.Read(&arena)
			if err != nil {
				return
			}
			for _, b := range bursts {
				for d := range b.All() {
					a, ok := r.Answer(time.Now(), stun.Socket{}, b.Addr, d)
					if deaf {
						a.To = b.Addr
					}
					if ok {
						_ = conn.Write(dgram.One(a.To, a.Message))
					}
				}
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return at
}

func TestIdleLifetime(t *testing.T) {
	for name, c := range map[string]struct {
		nat  natlab.Behaviour
		want time.Duration
	}{
		"shorter than any":       {natlab.Behaviour{Lifetime: 8 * time.Second}, 0},
		"a cliff itself":         {natlab.Behaviour{Lifetime: 30 * time.Second}, 10 * time.Second},
		"between two":            {natlab.Behaviour{Lifetime: 65 * time.Second}, time.Minute},
		"Linux":                  {natlab.Home(), time.Minute}, // 120 s
		"five minutes":           {natlab.Behaviour{Lifetime: 5 * time.Minute}, 3 * time.Minute},
		"ports kept":             {natlab.Behaviour{Filtering: natlab.AddressAndPortDependent, Lifetime: 40 * time.Second}, 30 * time.Second},
		"renewed from outside":   {natlab.Behaviour{InboundRefresh: true, Lifetime: 40 * time.Second}, 30 * time.Second},
		"depends on destination": {natlab.Behaviour{Mapping: natlab.AddressAndPortDependent, Ports: natlab.Random(1024, 65535), Lifetime: 40 * time.Second}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				lab := natlab.New(t, natlab.Options{})
				server := answering(t, lab, false)
				host := lab.NAT("nat", "198.51.100.1", c.nat).Host("host", "10.0.0.2")
				began := time.Now()
				got, err := stun.Idle(t.Context(), host, server)
				if err != nil || got != c.want {
					t.Errorf("%v, %v; want %v", got, err, c.want)
				}
				if took := time.Since(began); took > 10*time.Minute {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestIdleLifetimeWhereNothingAnswers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab := natlab.New(t, natlab.Options{})
		host := lab.NAT("nat", "198.51.100.1", natlab.Home()).Host("host", "10.0.0.2")
		began := time.Now()
		if got, err := stun.Idle(t.Context(), host, netip.MustParseAddrPort(serverAt)); err == nil || got != 0 {
			t.Errorf("%v, %v", got, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		server := answering(t, lab, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := stun.Idle(ctx, host, server); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after a minute: %v", err)
		}
	})
}

// A server that answers to no other port leaves it unknown.
func TestIdleLifetimeNeedsResponsePort(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab := natlab.New(t, natlab.Options{})
		server := answering(t, lab, true)
		host := lab.NAT("nat", "198.51.100.1", natlab.Home()).Host("host", "10.0.0.2")
		if got, err := stun.Idle(t.Context(), host, server); !errors.Is(err, stun.ErrNoIdle) {
			t.Errorf("%v, %v", got, err)
		}
	})
}
