package pairs

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

// Meeting is what came of one attempt.
type Meeting struct {
	Path    string        // that the dialing side's data took in the end; "" for none
	Direct  bool          // both sides' data went directly
	Took    time.Duration // from the dialing side's first datagram until its data went directly
	Sent    [2]int        // datagrams and segments to others than the coordinator, dialing side first
	First   bool          // the two agents had not met before
	Explain string        // of a failure: what the dialing side gives as the reason
}

// patience is how long a direct path may take.
const patience = 15 * time.Second

// meet has a dial b.
func (w *world) meet(a, b *member) Meeting {
	for _, m := range []*member{a, b} {
		m.sent.Store(0)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = a.agent.Ping(ctx, b.name)
	}()
	both := func() bool {
		return direct(a.paths.last(b.name).path) && direct(b.paths.last(a.name).path)
	}
	for !both() && ctx.Err() == nil {
		select {
		case <-a.paths.news:
		case <-b.paths.news:
		case <-ctx.Done():
		}
	}
	cancel()
	<-done
	last := a.paths.last(b.name)
	out := Meeting{Path: last.path, Direct: both(), Took: last.at.Sub(began)}
	if !out.Direct {
		out.Took = 0
		out.Explain = reason(a, b.name)
	}
	for i, m := range []*member{a, b} {
		out.Sent[i] = int(m.sent.Load())
	}
	w.part(a, b)
	return out
}

func direct(p string) bool { return strings.HasPrefix(p, "direct") }

// part ends the session and lets NATs forget all but the coordinator, so that
// the next meeting finds them as this one did.
func (w *world) part(a, b *member) {
	a.agent.Part(b.name, "they have met")
	b.agent.Part(a.name, "they have met")
	time.Sleep(time.Second) // what is on its way arrives
	for _, m := range []*member{a, b} {
		for _, n := range m.nats {
			n.Forget(keepsCoordinator)
		}
	}
	a.paths.forget(b.name)
	b.paths.forget(a.name)
}

func keepsCoordinator(remote netip.AddrPort) bool { return coordinators[remote.Addr()] }

// reason is why the dialing side has no direct path, by its own account.
func reason(a *member, peer string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	e, err := a.agent.Explain(ctx, peer)
	if err != nil {
		return err.Error()
	}
	for i := len(e.Attempts) - 1; i >= 0; i-- {
		if t := e.Attempts[i]; t.Side == "local" && t.Path == "direct-udp" && t.Result == "failed" {
			return t.Reason
		}
	}
	return ""
}
