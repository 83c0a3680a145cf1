package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// S4-04
func TestForgedStandingCandidatesAreNotProbed(t *testing.T) {
	t.Parallel()
	stranger := newIdentity(t)
	for name, forge := range map[string]func(b *betrayed) *proto.Standing{
		"no sealed bytes of ours": func(*betrayed) *proto.Standing { return &proto.Standing{Sealed: []byte("candidates")} },
		"sealed and signed by a stranger": func(b *betrayed) *proto.Standing {
			return standingOf(b.t, stranger, seal.NewSecret(), victim)
		},
		// A member, but not the one that is wanted.
		"signed by another member": func(b *betrayed) *proto.Standing {
			return standingOf(b.t, stranger, b.secret, victim)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				b := newBetrayed(t)
				b.toRoad.onAnswer(func(_ *proto.ToCoordinator, m *proto.ToAgent) {
					if in := m.GetIntroduced(); in != nil {
						in.Standing = forge(b)
					}
				})
				b.settle()
				// The peer's own answer brings its candidates as well.
				reach(t, b.laptop, "home", "direct-udp", 5*time.Second)
				b.unharmed()
				if !explainsForgery(t, b.laptop, "home") {
					t.Errorf("explain does not tell: %+v", explained(t, b.laptop, "home"))
				}
			})
		})
	}
}

// flip changes one byte in the middle.
func flip(b []byte) []byte {
	b = slices.Clone(b)
	if len(b) > 0 {
		b[len(b)/2] ^= 1
	}
	return b
}

func TestTamperedOpeningsAreRefusedOnBothSides(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		arrange func(b *betrayed, on func() bool)
		forger  func(b *betrayed) (*running, string)
	}{
		"offer": {
			func(b *betrayed, on func() bool) {
				b.toHome.onEvent(func(m *proto.ToAgent) []*proto.ToAgent {
					if o := m.GetOffer(); o != nil && on() {
						o.Body = flip(o.GetBody())
					}
					return []*proto.ToAgent{m}
				})
			},
			func(b *betrayed) (*running, string) { return b.home, "laptop" },
		},
		"answer": {
			func(b *betrayed, on func() bool) {
				b.toRoad.onEvent(func(m *proto.ToAgent) []*proto.ToAgent {
					if a := m.GetAnswer(); a != nil && on() {
						a.Body = flip(a.GetBody())
					}
					return []*proto.ToAgent{m}
				})
			},
			func(b *betrayed) (*running, string) { return b.laptop, "home" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				b := newBetrayed(t)
				began := time.Now()
				c.arrange(b, func() bool { return time.Since(began) < 6*time.Second })
				b.settle()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				line, err := b.laptop.Ping(ctx, "home")
				cancel()
				if err == nil {
					t.Errorf("a session through a coordinator that changes the %s: %+v", name, line)
				}
				who, peer := c.forger(b)
				if !explainsForgery(t, who, peer) {
					t.Errorf("explain does not tell: %+v; counters %v", explained(t, who, peer), who.Status().Counters)
				}
				// Once it behaves again, so does everything else.
				reach(t, b.laptop, "home", "direct-udp", 15*time.Second)
			})
		})
	}
}

// impostor makes a member of that name with keys of the coordinator's own.
func impostor(t *testing.T, name string, secret *seal.Secret) *proto.Member {
	t.Helper()
	id := newIdentity(t)
	body, err := proto.Marshal(&proto.Record{Name: name, Key: id.Key(), StaticKey: id.StaticKey(), MadeUnix: time.Now().Unix()})
	if err != nil {
		t.Fatal(err)
	}
	return &proto.Member{Name: name, Key: id.Key(), StaticKey: id.StaticKey(), Online: true,
		Record: seal.Sign(id, secret, seal.ContextMember, body)}
}

func TestMembersThatTheCoordinatorMadeUpAreRefused(t *testing.T) {
	t.Parallel()
	foreign := seal.NewSecret()
	forgeries := map[string]func(t *testing.T, m *proto.Member){
		"keys of its own, no proof of the secret": func(t *testing.T, m *proto.Member) {
			made := impostor(t, m.GetName(), nil)
			m.Key, m.StaticKey, m.Record = made.Key, made.StaticKey, made.Record
		},
		"keys of its own, under a secret of its own": func(t *testing.T, m *proto.Member) {
			made := impostor(t, m.GetName(), &foreign)
			m.Key, m.StaticKey, m.Record = made.Key, made.StaticKey, made.Record
		},
		"the peer's record, another static key": func(t *testing.T, m *proto.Member) {
			m.StaticKey = newIdentity(t).StaticKey()
		},
		"the peer's record, another signing key": func(t *testing.T, m *proto.Member) {
			m.Key = newIdentity(t).Key()
		},
		"no record": func(_ *testing.T, m *proto.Member) { m.Record = nil },
	}
	for name, forge := range forgeries {
		t.Run("looked up: "+name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				b := newBetrayed(t)
				b.toRoad.onAnswer(func(_ *proto.ToCoordinator, m *proto.ToAgent) {
					if member := m.GetMember(); member != nil {
						forge(t, member)
					}
				})
				b.settle()
				if line, err := b.laptop.Ping(t.Context(), "home"); err == nil {
					t.Errorf("reached %+v", line)
				} else {
					t.Log(err)
				}
				if n := len(b.laptop.cfg.State.Peers()); n > 0 {
					t.Errorf("%d peers are kept", n)
				}
			})
		})
		t.Run("offered: "+name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				b := newBetrayed(t)
				b.toHome.onEvent(func(m *proto.ToAgent) []*proto.ToAgent {
					if o := m.GetOffer(); o != nil {
						forge(t, o.GetFrom())
					}
					return []*proto.ToAgent{m}
				})
				b.settle()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if line, err := b.laptop.Ping(ctx, "home"); err == nil {
					t.Errorf("reached %+v", line)
				}
				if s := b.home.peer("laptop").association(); s != nil {
					t.Error("home has a session with whom it does not know")
				}
			})
		})
	}
}

func TestOneMemberCannotBePassedOffAsAnother(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		spy := b.agent(b.lab.Host("spy", "203.0.113.66"), "spy", nil)
		b.settle()
		spyMember, err := spy.lookUp(t.Context(), "home")
		if err != nil || spyMember.Name != "home" {
			t.Fatal(err)
		}
		var other *proto.Member
		b.toRoad.onAnswer(func(ask *proto.ToCoordinator, m *proto.ToAgent) {
			if ask.GetLookup().GetName() == "spy" {
				other = cloned(t, m.GetMember(), &proto.Member{})
			}
			if ask.GetLookup().GetName() == "home" && other != nil {
				m.Body = &proto.ToAgent_Member{Member: other}
			}
		})
		if _, err := b.laptop.lookUp(t.Context(), "spy"); err != nil {
			t.Fatal(err)
		}
		toSpy := sentBy(b.lab, "laptop", netip.MustParseAddr("203.0.113.66"))
		if line, err := b.laptop.Ping(t.Context(), "home"); err == nil {
			t.Errorf("reached %+v", line)
		} else if !strings.Contains(err.Error(), "did not make") {
			t.Errorf("the error does not say why: %v", err)
		}
		if n := toSpy(); n > 0 {
			t.Errorf("%d datagrams to the spy", n)
		}
		other.Name = "home" // the same, more boldly
		if _, err := b.laptop.Ping(t.Context(), "home"); err == nil {
			t.Error("reached a spy that has home's name")
		}
	})
}

// S4-04
func TestRelayIsNowhereButAtTheCoordinator(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		aim := func(a *proto.Allocation) {
			if a != nil {
				a.Relay = []*proto.Endpoint{proto.NewEndpoint(victim), proto.NewEndpoint(netip.MustParseAddrPort("127.0.0.1:53"))}
			}
		}
		b.toRoad.onAnswer(func(_ *proto.ToCoordinator, m *proto.ToAgent) { aim(m.GetIntroduced().GetAllocation()) })
		b.toHome.onEvent(func(m *proto.ToAgent) []*proto.ToAgent {
			aim(m.GetOffer().GetAllocation())
			return []*proto.ToAgent{m}
		})
		b.settle()
		reach(t, b.laptop, "home", "direct-udp", 5*time.Second)
		time.Sleep(20 * time.Second)
		b.unharmed()
		for _, r := range b.laptop.Status().Peers[0].Paths {
			if r.Path == "relay-udp" && r.Remote != vpsAddr+":443" {
				t.Errorf("a relay at %s", r.Remote)
			}
		}
	})
}

// S4-04
func TestSTUNRequestsToStrangersAreFew(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		// Registering again and again is the worst that it can do.
		b.toRoad.onAnswer(func(_ *proto.ToCoordinator, m *proto.ToAgent) {
			r := m.GetRegistered()
			if r == nil {
				return
			}
			r.Stun = nil
			for port := range uint16(20) {
				r.Stun = append(r.Stun, proto.NewEndpoint(netip.AddrPortFrom(victim.Addr(), 50+port)))
			}
			for host := range byte(20) {
				r.Stun = append(r.Stun, proto.NewEndpoint(netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 100 + host}), 53)))
			}
			for _, a := range []string{"127.0.0.1:53", "192.168.2.1:53", "10.0.0.1:53", "224.0.0.251:5353", "255.255.255.255:53", "100.64.0.1:53"} {
				r.Stun = append(r.Stun, proto.NewEndpoint(netip.MustParseAddrPort(a)))
			}
		})
		const minutes = 20
		time.Sleep(minutes * time.Minute)
		hosts, total := 0, 0
		for to, n := range b.lab.Targets() {
			if to.Addr() == netip.MustParseAddr(vpsAddr) || to.Addr() == netip.MustParseAddr("203.0.113.11") || to.Addr().Is6() {
				continue
			}
			if r := to.Addr(); !r.IsGlobalUnicast() || r.IsPrivate() || strings.HasPrefix(to.String(), "100.64.") {
				continue // translated ones inside are counted where they were sent
			}
			if strings.HasPrefix(to.String(), "203.0.113.") {
				hosts++
				total += n
			}
		}
		t.Logf("%d datagrams to %d addresses in %d minutes", total, hosts, minutes)
		if hosts > 2*maxSTUNHosts || total > 200 {
			t.Errorf("%d datagrams to %d strange addresses", total, hosts)
		}
		for to := range b.lab.Targets() {
			if to.Port() == 53 && (to.Addr().IsLoopback() || to.Addr().IsPrivate() || to.Addr().IsMulticast() || to.Addr() == netip.MustParseAddr("100.64.0.1")) {
				t.Errorf("something was sent to %v", to)
			}
		}
	})
}

func TestTimesThatTheCoordinatorMakesUpCostAMoment(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		const long = 1<<32 - 1 // 71 minutes
		b.toRoad.onAnswer(func(_ *proto.ToCoordinator, m *proto.ToAgent) {
			if in := m.GetIntroduced(); in != nil {
				in.FireAfterUs, in.PeerRttUs = long, long
			}
		})
		b.toHome.onEvent(func(m *proto.ToAgent) []*proto.ToAgent {
			if o := m.GetOffer(); o != nil {
				o.FireAfterUs, o.PeerRttUs = long, long
			}
			return []*proto.ToAgent{m}
		})
		b.settle()
		reach(t, b.laptop, "home", "direct-udp", 3*time.Second)
	})
}

func TestNamesThatTheCoordinatorMakesUpFillNoMemory(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		b.settle()
		reach(t, b.laptop, "home", "direct-udp", 5*time.Second)
		foreign := seal.NewSecret()
		const made = 300
		for i := range made {
			name := "made-up-" + strings.Repeat("x", i%20) + string(rune('a'+i%26))
			b.toHome.say(&proto.ToAgent{Body: &proto.ToAgent_Offer{Offer: &proto.Offer{
				Introduction: uint64(i), From: impostor(t, name, &foreign), Body: []byte{0x0a, 0x03, 1, 2, 3},
			}}})
			b.toHome.say(&proto.ToAgent{Body: &proto.ToAgent_Answer{Answer: &proto.Answer{Introduction: uint64(i)}}})
			b.toHome.say(&proto.ToAgent{Body: &proto.ToAgent_Go{Go: &proto.Go{Introduction: uint64(i)}}})
		}
		time.Sleep(time.Second)
		if n := len(b.home.peers.all()); n != 1 {
			t.Errorf("%d peers", n)
		}
		if n := sizes(b.home)["answers"]; n > maxEarly {
			t.Errorf("%d answers wait", n)
		}
		if n := b.home.Status().Counters["forged"]; n != made {
			t.Errorf("%d forgeries counted, want %d", n, made)
		}
		reach(t, b.laptop, "home", "direct-udp", time.Second)
	})
}

// The peer did sign these, but long ago, when it was elsewhere.
func TestStandingCandidatesOfLastWeekAreNotProbed(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		old := standingMade(t, time.Now().Add(-standingFor-time.Hour), b.home.id, b.secret, victim)
		b.toRoad.onAnswer(func(_ *proto.ToCoordinator, m *proto.ToAgent) {
			if in := m.GetIntroduced(); in != nil {
				in.Standing = old
			}
		})
		b.settle()
		reach(t, b.laptop, "home", "direct-udp", 5*time.Second)
		b.unharmed()
		if n := b.laptop.Status().Counters["forged"]; n != 0 {
			t.Errorf("%d forgeries are counted, but it was only old", n)
		}
	})
}
