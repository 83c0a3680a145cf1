package rendezvous

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// quicOpen is how many QUIC connections the coordinator has.
func quicOpen(c *coordinator) (n int) {
	for _, a := range c.conns.all() {
		if _, ok := a.carrier.(overQUIC); ok {
			n++
		}
	}
	return n
}

// leanOpen is how many lean connections it has.
func leanOpen(c *coordinator) int {
	c.lean.mu.RLock()
	defer c.lean.mu.RUnlock()
	return len(c.lean.all)
}

// taken is how many count against the limit.
func taken(c *coordinator) int {
	c.door.mu.Lock()
	defer c.door.mu.Unlock()
	return c.door.open
}

// onVPS is a coordinator with one address on an internet of its own.
func onVPS(t *testing.T, configure func(*Config)) (*natlab.Lab, *coordinator) {
	lab := natlab.New(t, natlab.Options{Seed: 1})
	vps := lab.Host("vps", "203.0.113.10/24")
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	return lab, startCoordinator(t, registry, vps, netip.MustParseAddrPort("203.0.113.10:443"), func(c *Config) {
		c.Alternate = NoAlternate
		configure(c)
	})
}

func TestAgentsLeaveQUICBehind(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c, home, laptop := virtualPair(t)
		time.Sleep(time.Second)
		if n := quicOpen(c); n != 0 || leanOpen(c) != 2 || taken(c) != 2 {
			t.Errorf("%d on QUIC, %d without, %d counted", n, leanOpen(c), taken(c))
		}
		if trip := home.RTT(); trip < 50*time.Millisecond || trip > 55*time.Millisecond {
			t.Errorf("the round trip is said to be %v", trip)
		}
		st, err := c.Status()
		if err != nil || st.Members[0].RTT < 50 || st.Members[0].RTT > 55 {
			t.Errorf("status %+v, %v", st.Members, err)
		}
		for _, g := range []*guest{home, laptop} {
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		if leanOpen(c) != 0 || taken(c) != 0 || len(c.conns.all()) != 0 {
			t.Errorf("%d are left, %d counted", leanOpen(c), taken(c))
		}
	})
}

// What the coordinator has no room for stays on the connection that it has.
func TestAFullCoordinatorStaysWithQUIC(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab, c := onVPS(t, func(c *Config) { c.Limits.Connections = 1 })
		home := newGuest(t, "home")
		if err := home.connect(t.Context(), lab.Host("home", "198.51.100.1/24"), anyV4, c.Addrs()[0], c.pin); err != nil {
			t.Fatal(err)
		}
		home.join(c.invite(t))
		if leanOpen(c) != 0 || quicOpen(c) != 1 {
			t.Errorf("%d without QUIC, %d with", leanOpen(c), quicOpen(c))
		}
	})
}

func TestSilentAgentsAndStrangersGo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab, c := onVPS(t, func(*Config) {})
		home, stranger := newGuest(t, "home"), newGuest(t, "stranger")
		at := lab.Host("home", "198.51.100.1/24")
		for _, g := range []*guest{home, stranger} {
			if err := g.connect(t.Context(), at, anyV4, c.Addrs()[0], c.pin); err != nil {
				t.Fatal(err)
			}
		}
		home.join(c.invite(t))
		time.Sleep(knockWithin + 2*time.Second)
		if leanOpen(c) != 1 {
			t.Errorf("%d are left after the stranger's time", leanOpen(c))
		}
		at.DropWhen(func(_, _ netip.AddrPort, _ []byte) bool { return true })
		time.Sleep(keepAlive + answerTimeout + time.Second)
		if home.Err() == nil {
			t.Error("the agent has not noticed that nothing passes")
		}
		time.Sleep(idleAfter)
		if leanOpen(c) != 0 || len(c.present.all()) != 0 {
			t.Errorf("%d are left, %d present", leanOpen(c), len(c.present.all()))
		}
	})
}

// What was heard on the way keeps nobody alive who is gone, when somebody else
// sends it again, nor moves them.
func TestReplaysAreNoSignsOfLife(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab, c := onVPS(t, func(*Config) {})
		home := newGuest(t, "home")
		at, where := lab.Host("home", "198.51.100.1/24"), netip.MustParseAddr("198.51.100.1")
		if err := home.connect(t.Context(), at, anyV4, c.Addrs()[0], c.pin); err != nil {
			t.Fatal(err)
		}
		home.join(c.invite(t))
		var mu sync.Mutex
		var overheard [][]byte
		cut := false
		at.DropWhen(func(from, _ netip.AddrPort, d []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			if !cut && from.Addr() == where {
				overheard = append(overheard, slices.Clone(d))
			}
			return cut
		})
		time.Sleep(2 * keepAlive)
		mu.Lock()
		cut = true
		mu.Unlock()
		if len(overheard) == 0 {
			t.Fatal("nothing was overheard")
		}
		thief, err := lab.Host("thief", "192.0.2.66/24").ListenUDP(anyV4)
		if err != nil {
			t.Fatal(err)
		}
		defer thief.Close()
		for range int(idleAfter/time.Second) + 5 {
			for _, d := range overheard {
				if err := thief.Write(dgram.One(c.Addrs()[0], d)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
			for _, p := range c.present.all() {
				if p.conn.look().remote.Addr() != where {
					t.Fatalf("the agent is taken to be at %v", p.conn.look().remote)
				}
			}
		}
		if leanOpen(c) != 0 {
			t.Error("the agent is taken to be there still")
		}
	})
}

// A large message crosses a way that loses a tenth.
func TestLeanMessagesCrossABadWay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab, c := onVPS(t, func(*Config) {})
		home, laptop := newGuest(t, "home"), newGuest(t, "laptop")
		for i, g := range []*guest{home, laptop} {
			at := lab.Host(g.name, []string{"198.51.100.1/24", "192.0.2.1/24"}[i], natlab.Delay(20*time.Millisecond))
			if err := g.connect(t.Context(), at, anyV4, c.Addrs()[0], c.pin); err != nil {
				t.Fatal(err)
			}
			g.join(c.invite(t))
			n := 0
			at.DropWhen(func(_, _ netip.AddrPort, _ []byte) bool { n++; return n%10 == 0 })
		}
		for range 20 {
			in := laptop.must(&proto.ToCoordinator{Body: &proto.ToCoordinator_Introduce{Introduce: &proto.Introduce{
				To: "home", ToKey: home.id.Key(), Body: make([]byte, maxOpening),
			}}}).GetIntroduced()
			offer := home.event().GetOffer()
			if offer.GetIntroduction() != in.GetIntroduction() || len(offer.GetBody()) != maxOpening {
				t.Fatalf("introduced %v, offered %d bytes", in, len(offer.GetBody()))
			}
			home.must(reply(offer.GetIntroduction(), ""))
			if a := laptop.event().GetAnswer(); a.GetIntroduction() != in.GetIntroduction() {
				t.Fatalf("answered %v", a)
			}
		}
	})
}

func TestARestartedCoordinatorSaysSoAtTheNextBeat(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c, home, _ := virtualPair(t)
		key, _ := keyOf(home.id.Key())
		here, ok := c.present.find(key)
		if !ok {
			t.Fatal("home is not there")
		}
		a := here.conn.carrier.(*leanAgent)
		a.finish(errors.New("forgotten")) // as by a kill: the agent is not told
		c.lean.drop(a)
		time.Sleep(keepAlive + time.Second)
		if !errors.Is(home.Err(), ErrRestarted) {
			t.Errorf("the agent says %v", home.Err())
		}
	})
}
