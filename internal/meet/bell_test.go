package meet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/icmp"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// ether is ICMP between one that waits behind a NAT and one that calls: what the
// latter sends comes in while an echo request of the former is remembered.
type ether struct {
	mu    sync.Mutex
	echo  time.Time
	first time.Time
	comes chan []byte
	done  chan struct{}
	once  sync.Once
}

func newEther() *ether { return &ether{comes: make(chan []byte, 64), done: make(chan struct{})} }

func (e *ether) Send(to netip.Addr, m []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if to == icmp.Nowhere {
		if e.echo = time.Now(); e.first.IsZero() {
			e.first = e.echo
		}
		return nil
	}
	if time.Since(e.echo) < 30*time.Second && !e.first.IsZero() {
		e.comes <- append([]byte{}, m...)
	}
	return nil
}

func (e *ether) Receive() (netip.Addr, []byte, error) {
	select {
	case m := <-e.comes:
		return netip.MustParseAddr(twosAddr), m, nil
	case <-e.done:
		return netip.Addr{}, nil, net.ErrClosed
	}
}

func (e *ether) Close() error {
	e.once.Do(func() { close(e.done) })
	return nil
}

func window(at time.Duration) Window {
	return Window{At: time.Now().Add(at), For: time.Minute}
}

// One side knows only the secret and its own port: it is called by ICMP, and
// both punch. It may be the earlier one or the later.
//
// S4-16
func TestMeetingByICMP(t *testing.T) {
	for _, late := range []time.Duration{0, 5 * time.Second, -5 * time.Second} {
		for _, mine := range []string{twos, "0.0.0.0:40000"} {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, natlab.Home(), natlab.Home())
				secret, e := seal.NewSecret(), newEther()
				const at = 10 * time.Second
				began := time.Now()
				waiting := &Bell{Conn: e, Secret: secret, When: window(at)}
				a := start(t, w.one, secret, twos, at, func(c *Config) { c.Peer, c.Learn = netip.AddrPort{}, waiting.Wait })
				caller := &Bell{Conn: e, Secret: secret}
				b := start(t, w.two, secret, ones, at+late, func(c *Config) {
					c.Call = func(ctx context.Context, at netip.AddrPort) {
						if at != ap("0.0.0.0:40000") {
							t.Errorf("nobody told, and we are said to be seen at %v", at)
						}
						caller.Ring(ctx, netip.MustParseAddr(onesAddr), ap(mine))
					}
				})
				a.await(Open, 40*time.Second)
				b.await(Open, time.Second)
				if e.first.Sub(began) != at {
					t.Errorf("the first echo request left after %v", e.first.Sub(began))
				}
			})
		}
	}
}

func TestNobodyCalls(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := newEther()
		b := &Bell{Conn: e, Secret: seal.NewSecret(), When: window(time.Second)}
		e.comes <- []byte("nonsense")
		_, err := b.Wait(t.Context())
		var f *path.Failure
		if !errors.As(err, &f) || f.Reason != "no-call" || f.Advice == "" {
			t.Errorf("%v", err)
		}
	})
}

func TestCallsThatDoNotCount(t *testing.T) {
	secret, now := seal.NewSecret(), time.Unix(1_800_000_000, 0)
	from := netip.MustParseAddr("203.0.113.7")
	b := &Bell{Secret: secret}
	call := func(at string, made time.Time, by seal.Secret) []byte {
		c := proto.Call{At: ap(at), Made: made.Unix()}
		c.MAC = seal.CallMAC(by, c)
		return icmp.AppendExceeded(nil, netip.MustParseAddr(onesAddr), proto.AppendCall(nil, c))
	}
	for name, c := range map[string]struct {
		m    []byte
		want string
	}{
		"as it should be":      {call(twos, now, secret), twos},
		"not knowing where":    {call("0.0.0.0:40000", now, secret), "203.0.113.7:40000"},
		"clocks apart":         {call(twos, now.Add(time.Minute), secret), twos},
		"old":                  {call(twos, now.Add(-time.Hour), secret), ""},
		"of the future":        {call(twos, now.Add(time.Hour), secret), ""},
		"another secret":       {call(twos, now, seal.NewSecret()), ""},
		"loopback":             {call("127.0.0.1:53", now, secret), ""},
		"port 0":               {call("198.51.100.2:0", now, secret), ""},
		"without a call":       {icmp.AppendExceeded(nil, netip.MustParseAddr(onesAddr), nil), ""},
		"another ICMP message": {icmp.AppendEcho(nil), ""},
		"nothing in it at all": {nil, ""},
		"changed on its way":   {append(call(twos, now, secret)[:60], 0), ""},
	} {
		at, ok := b.called(from, c.m, now)
		if ok != (c.want != "") || ok && at.String() != c.want {
			t.Errorf("%s: %v, %v", name, at, ok)
		}
	}
}
