package meet

import (
	"context"
	"net/netip"
	"sync"

	"rendezvous/internal/stun"
)

// outside is how STUN servers saw us the last time.
type outside struct {
	m    *meeting
	last Event
}

// ask asks all servers at once, and tells what is new.
func (o *outside) ask(ctx context.Context) {
	servers := o.m.cfg.STUN
	if len(servers) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, outsideFor)
	defer cancel()
	results := make([]stun.Result, len(servers))
	errs := make([]error, len(servers))
	var wait sync.WaitGroup
	for i, server := range servers {
		wait.Go(func() { results[i], errs[i] = o.m.stun.Bind(ctx, server) })
	}
	wait.Wait()
	e := Event{What: Outside}
	var first netip.AddrPort
	for i, r := range results {
		switch {
		case errs[i] != nil:
			if e.Reason == "" {
				e.Reason = errs[i].Error()
			}
		case !first.IsValid():
			first = r.Mapped
			e.Addr, e.Server = r.Mapped.String(), servers[i].String()
			o.m.mu.Lock()
			o.m.mine = r.Mapped
			o.m.mu.Unlock()
		case r.Mapped != first:
			e.Varies = true
		}
	}
	if first.IsValid() {
		e.Reason = "" // one that answers is enough
	}
	if e != o.last && o.m.ctx.Err() == nil {
		o.last = e
		o.m.tell(e)
	}
}
