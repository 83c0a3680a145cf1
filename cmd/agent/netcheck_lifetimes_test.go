package main

import (
	"strings"
	"testing"
	"time"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
)

func TestNetcheckTellsLifetimes(t *testing.T) {
	addrs, err := dgram.System(dgram.DefaultOptions()).Addrs()
	if err != nil {
		t.Fatal(err)
	}
	network := agent.Fingerprint(addrs, nil)
	if network == "" {
		t.Skip("this host is in no network")
	}
	for name, c := range map[string]struct {
		found agent.Lifetimes
		want  []string
	}{
		"nothing known":     {agent.Lifetimes{}, []string{notYet, notYet}},
		"another network":   {agent.Lifetimes{Network: "elsewhere", Idle: 60, IdleAt: time.Now()}, []string{notYet, notYet}},
		"idle alone":        {agent.Lifetimes{Network: network, Idle: 60, IdleAt: time.Now()}, []string{"60 s or more", notYet}},
		"both":              {agent.Lifetimes{Network: network, Idle: 30, IdleAt: time.Now(), Absolute: 55, AbsoluteAt: time.Now()}, []string{"30 s or more", "about 55 s of age"}},
		"too soon":          {agent.Lifetimes{Network: network, Absolute: 5, AbsoluteAt: time.Now()}, []string{notYet, "about 5 s of age, whatever crosses them: too soon"}},
		"no absolute found": {agent.Lifetimes{Network: network, AbsoluteAt: time.Now()}, []string{notYet, "no age that was seen"}},
	} {
		t.Run(name, func(t *testing.T) {
			state, err := agent.NewState(t.TempDir(), "home", agent.Coordinator{})
			if err != nil {
				t.Fatal(err)
			}
			if err := state.SawLifetimes(c.found); err != nil {
				t.Fatal(err)
			}
			n := agent.Netcheck{UDP: true}
			addLifetimes(&n, state)
			var out strings.Builder
			writeNetcheck(&out, n)
			for _, want := range append(c.want, "idle mappings last", "mappings end at") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("nothing says %q in\n%s", want, out.String())
				}
			}
		})
	}
}
