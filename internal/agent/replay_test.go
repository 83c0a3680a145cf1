package agent

import (
	"context"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// tape keeps copies of the events that pass a middle.
type tape struct {
	mu   sync.Mutex
	list []*proto.ToAgent
}

func (r *tape) record(t *testing.T) func(m *proto.ToAgent) []*proto.ToAgent {
	return func(m *proto.ToAgent) []*proto.ToAgent {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.list = append(r.list, cloned(t, m, &proto.ToAgent{}))
		return []*proto.ToAgent{m}
	}
}

func (r *tape) all() []*proto.ToAgent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*proto.ToAgent{}, r.list...)
}

func TestReplayedOffersChangeNothing(t *testing.T) {
	t.Parallel()
	for name, road := range map[string]natlab.Behaviour{
		"handshakes":           natlab.Home(),
		"punches in a session": natlab.Cellular(), // they go on for a while
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var seen tape
				toHome := &middle{event: seen.record(t)}
				home, _, _ := w.home()
				where, _ := w.road(road)
				far := w.agent(home, "home", toHome.use)
				laptop := w.agent(where, "laptop", nil)
				w.settle()
				reach(t, laptop, "home", map[bool]string{true: "direct-udp", false: "relay-udp"}[name == "handshakes"], 5*time.Second)
				time.Sleep(8 * time.Second)

				session := far.peer("laptop").association()
				before := len(explained(t, far, "laptop"))
				offers, sealed := 0, 0
				for _, m := range seen.all() {
					if o := m.GetOffer(); o != nil {
						var opening proto.Opening
						if err := proto.Unmarshal(o.GetBody(), &opening); err != nil {
							t.Fatal(err)
						}
						if opening.GetSealed() != nil {
							sealed++
						}
						offers++
						again := cloned(t, m, &proto.ToAgent{})
						again.GetOffer().Introduction += 1 << 20
						toHome.say(again)
					}
				}
				t.Logf("%d offers replayed, %d of them within the session", offers, sealed)
				if offers == 0 || name != "handshakes" && sealed == 0 {
					t.Fatal("nothing to replay")
				}
				time.Sleep(5 * time.Second)
				if s := far.peer("laptop").association(); s != session {
					t.Error("a replayed offer replaced the session")
				}
				if after := len(explained(t, far, "laptop")); after != before {
					t.Errorf("a replayed offer made %d attempts", after-before)
				}
				if _, err := laptop.Ping(t.Context(), "home"); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAnswerOfAnotherIntroductionIsRefused(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var mu sync.Mutex
		var old []byte
		swap := false
		toRoad := &middle{event: func(m *proto.ToAgent) []*proto.ToAgent {
			mu.Lock()
			defer mu.Unlock()
			if a := m.GetAnswer(); a != nil {
				if swap && old != nil {
					a.Body, swap = old, false
				} else if old == nil {
					old = a.GetBody()
				}
			}
			return []*proto.ToAgent{m}
		}}
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		state := w.enrol("home")
		first := w.run(home, state, nil)
		laptop := w.agent(road, "laptop", toRoad.use)
		w.settle()
		reach(t, laptop, "home", "direct-udp", 5*time.Second)
		first.stop()
		w.run(home, state, nil)
		w.settle()
		mu.Lock()
		swap = true
		mu.Unlock()
		reach(t, laptop, "home", "direct-udp", 10*time.Second) // by the second introduction
		if swap || !explainsForgery(t, laptop, "home") {
			t.Errorf("swapped %v, explain does not tell: %+v", !swap, explained(t, laptop, "home"))
		}
	})
}

func TestForgedRevocationsAreRefused(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		b.settle()
		reach(t, b.laptop, "home", "direct-udp", 5*time.Second)
		body, err := proto.Marshal(&proto.RevocationBody{Name: "home", Key: b.home.id.Key(), MadeUnix: time.Now().Unix()})
		if err != nil {
			t.Fatal(err)
		}
		foreign := seal.NewSecret()
		stranger := newIdentity(t)
		forgeries := []*proto.Signed{
			nil,
			seal.Sign(stranger, nil, seal.ContextRevocation, body),
			seal.Sign(stranger, &foreign, seal.ContextRevocation, body),
			seal.Sign(b.laptop.id, &b.secret, seal.ContextMember, body), // another context
		}
		for _, s := range forgeries {
			b.toRoad.say(&proto.ToAgent{Body: &proto.ToAgent_Revocation{Revocation: &proto.Revocation{Signed: s}}})
		}
		b.toRoad.onAnswer(func(_ *proto.ToCoordinator, m *proto.ToAgent) {
			if r := m.GetRegistered(); r != nil {
				for _, s := range forgeries {
					r.Revocations = append(r.Revocations, &proto.Revocation{Signed: s})
				}
			}
		})
		b.stop()
		time.Sleep(time.Second)
		b.start()
		b.settle()
		if !b.laptop.Status().Coordinator.Connected {
			t.Error("not registered again")
		}
		if got := b.laptop.cfg.State.Revocations(); len(got) > 0 {
			t.Errorf("kept %v", got)
		}
		reach(t, b.laptop, "home", "direct-udp", time.Second)
		// A genuine one counts.
		b.toHome.say(&proto.ToAgent{Body: &proto.ToAgent_Revocation{Revocation: &proto.Revocation{
			Signed: seal.Sign(b.laptop.id, &b.secret, seal.ContextRevocation, body)}}})
		b.toRoad.say(&proto.ToAgent{Body: &proto.ToAgent_Revocation{Revocation: &proto.Revocation{
			Signed: seal.Sign(b.laptop.id, &b.secret, seal.ContextRevocation, body)}}})
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if line, err := b.laptop.Ping(ctx, "home"); err == nil {
			t.Errorf("a revoked member answers: %+v", line)
		}
	})
}

func TestAdmissionGivesNoSecretButThatOfAMember(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		toNew := &middle{}
		state := b.enrolPending("new")
		fresh := b.run(b.lab.Host("new", "203.0.113.77"), state, toNew.use)
		b.settle()
		admit := func(by *proto.Member, from seal.Identity, to []byte, plain []byte) *proto.ToAgent {
			sealed, err := seal.SealTo(from, to, plain)
			if err != nil {
				t.Fatal(err)
			}
			return &proto.ToAgent{Body: &proto.ToAgent_Admitted{Admitted: &proto.Admitted{By: by, Sealed: sealed}}}
		}
		member, err := b.laptop.lookUp(t.Context(), "home")
		if err != nil {
			t.Fatal(err)
		}
		var record proto.Signed
		if err := proto.Unmarshal(member.Record, &record); err != nil {
			t.Fatal(err)
		}
		home := &proto.Member{Name: "home", Key: member.Key, StaticKey: member.Static, Record: &record}
		bad := newIdentity(t)
		foreign := seal.NewSecret()
		own := impostor(t, "home", nil)
		own.StaticKey = bad.StaticKey()
		mine := fresh.id.StaticKey()
		for name, m := range map[string]*proto.ToAgent{
			"garbage":                               {Body: &proto.ToAgent_Admitted{Admitted: &proto.Admitted{By: home, Sealed: make([]byte, 128)}}},
			"nobody":                                {Body: &proto.ToAgent_Admitted{Admitted: &proto.Admitted{}}},
			"another's keys under a member's name":  admit(home, bad, mine, foreign[:]),
			"no record that goes with the secret":   admit(own, bad, mine, foreign[:]),
			"a member's record, another static key": admit(&proto.Member{Name: "home", Key: member.Key, StaticKey: bad.StaticKey(), Record: &record}, bad, mine, foreign[:]),
			"no secret":                             admit(home, b.home.id, mine, []byte("secret")),
			"sealed for another":                    admit(home, b.home.id, b.laptop.id.StaticKey(), b.secret[:]),
		} {
			toNew.say(m)
			time.Sleep(time.Second)
			if _, ok := fresh.cfg.State.Secret(); ok {
				t.Fatalf("%s: it took a secret", name)
			}
		}
		toNew.say(admit(home, b.home.id, mine, b.secret[:]))
		time.Sleep(time.Second)
		if got, ok := fresh.cfg.State.Secret(); !ok || got != b.secret {
			t.Error("a genuine admission was not taken")
		}
		// And once there is a secret, none takes its place.
		own = impostor(t, "home", &foreign)
		b.toRoad.say(admit(own, bad, b.laptop.id.StaticKey(), foreign[:]))
		time.Sleep(time.Second)
		if got, _ := b.laptop.cfg.State.Secret(); got != b.secret {
			t.Error("an admission replaced the secret of a member")
		}
	})
}

func TestAnswersThatNeverArriveLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		b := newBetrayed(t)
		began := time.Now()
		b.toRoad.onEvent(func(m *proto.ToAgent) []*proto.ToAgent {
			if m.GetAnswer() != nil && time.Since(began) < time.Minute {
				return nil
			}
			return []*proto.ToAgent{m}
		})
		b.settle()
		for time.Since(began) < time.Minute {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if line, err := b.laptop.Ping(ctx, "home"); err == nil {
				t.Errorf("a session without an answer: %+v", line)
			}
			cancel()
		}
		time.Sleep(15 * time.Second)
		for _, a := range []*running{b.laptop, b.home} {
			if n := sizes(a); n["sessions"] > 1 || n["answers"] > 1 {
				t.Errorf("%s keeps %v", a.cfg.State.Name(), n)
			}
		}
		reach(t, b.laptop, "home", "direct-udp", 5*time.Second)
	})
}
