package main

import (
	"fmt"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
)

// addLifetimes adds what a running agent has found out in this network: it takes
// minutes, which nobody waits for here.
func addLifetimes(n *agent.Netcheck, state *agent.State) {
	addrs, err := dgram.System(dgram.DefaultOptions()).Addrs()
	if err != nil {
		return
	}
	l := state.Lifetimes(agent.Fingerprint(addrs, nil))
	n.MappingLifetime, n.AbsoluteLifetime = l.Idle, l.Absolute
	n.NoAbsolute = !l.AbsoluteAt.IsZero() && l.Absolute == 0
}

// notYet is said where no agent has run here for long enough.
const notYet = "unknown; `agent up` finds out within minutes"

func idleText(n agent.Netcheck) string {
	if n.MappingLifetime == 0 {
		return notYet
	}
	return fmt.Sprintf("%d s or more", n.MappingLifetime)
}

func absoluteText(n agent.Netcheck) string {
	switch {
	case n.NoAbsolute:
		return "no age that was seen, if something crosses them"
	case n.AbsoluteLifetime == 0:
		return notYet
	}
	text := fmt.Sprintf("about %d s of age, whatever crosses them", n.AbsoluteLifetime)
	if n.AbsoluteLifetime < agent.ShortestLifetime {
		text += ": too soon for direct UDP paths to get successors, so expect gaps; `paths:` without direct-udp avoids them"
	}
	return text
}
