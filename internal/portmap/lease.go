package portmap

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// lease is a mapping that we hold.
type lease struct {
	Mapping
	by    client
	ends  time.Time // when it is not believed in any more
	renew time.Time
}

// refusal is when a port is asked for again, and how often it was refused.
type refusal struct {
	at    time.Time
	times int
}

// granted takes in what a gateway granted.
func (k *keeper) granted(p Port, by client, g grant) {
	now := time.Now()
	renew, ends := leaseTimes(now, g, rand.Float64())
	l := &lease{by: by, renew: renew, ends: ends, Mapping: Mapping{Port: p, Protocol: by.protocol(), Gateway: k.road.gateway,
		Internal: netip.AddrPortFrom(k.road.source, p.Number), External: g.external}}
	if !g.permanent {
		l.Until = ends
	}
	if g.lost {
		k.m.fault(Fault{Gateway: k.road.gateway, Protocol: by.protocol(), Reason: restarted,
			Err: faultf(restarted, "%v: the gateway has lost its mappings, or its clock is wrong; ours were made again", by.protocol())})
	}
	if g.permanent {
		k.m.noteEndless(endlessOf(l.Mapping), true)
		k.m.fault(Fault{Gateway: k.road.gateway, Protocol: by.protocol(), Reason: noLeaseTerms,
			Err: faultf(noLeaseTerms, "%v: the gateway keeps mappings until they are deleted; one that is left by a crash is deleted at the next start", by.protocol())})
	}
	k.mu.Lock()
	before := k.leases[p]
	k.leases[p] = l
	delete(k.refused, p)
	k.mu.Unlock()
	if before == nil || before.External != l.External {
		k.m.changed()
	}
}

// leaseTimes are when a mapping is renewed, and how long it is believed in. It
// is renewed at half of its life (RFC 6886 section 3.3, RFC 6887 section
// 11.2.1), up to a tenth sooner, so that hosts spread. One that lives longer
// than was asked for, or for ever, is treated as what was asked for.
func leaseTimes(now time.Time, g grant, chance float64) (renew, ends time.Time) {
	life := g.lease
	if g.permanent {
		life = leaseWanted
	}
	life = min(max(life, leaseLeast), leaseWanted)
	half := life / 2
	return now.Add(min(half, renewMost) - time.Duration(chance*0.1*float64(half))), now.Add(life)
}

// isSilence says whether err is that nothing came back.
func isSilence(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.reason == noAnswer
}

// waitOf is how long a refusal asks us to wait; bounded by backOff's bounds.
func waitOf(err error) time.Duration {
	var f *fault
	if errors.As(err, &f) {
		return min(f.wait, retryMost)
	}
	return 0
}

// denied notes that nothing was granted: a mapping that we still have is asked
// for again at half of what it has left, and what the gateway speaks is found
// out anew.
func (k *keeper) denied(p Port, longest time.Duration, gone bool) {
	now := time.Now()
	k.mu.Lock()
	l := k.leases[p]
	if l != nil && now.Add(leaseLeast/2).Before(l.ends) {
		l.renew = now.Add(max(l.ends.Sub(now)/2, leaseLeast/2))
		k.mu.Unlock()
		return
	}
	delete(k.leases, p)
	r := k.refused[p]
	r.times++
	r.at = now.Add(max(longest, backOff(r.times)))
	k.refused[p] = r
	if l != nil || gone {
		k.clients, k.silent = nil, r.times-1
	}
	k.mu.Unlock()
	if l != nil {
		k.m.changed()
	}
}

// release takes one mapping back.
func (k *keeper) release(ctx context.Context, l *lease) {
	k.giveBack(ctx, l)
	k.mu.Lock()
	delete(k.leases, l.Port)
	k.mu.Unlock()
	k.m.changed()
}

// giveBack tells the gateway that a mapping is not wanted any more.
func (k *keeper) giveBack(ctx context.Context, l *lease) {
	if err := l.by.release(ctx, l.Port, l.External); err != nil {
		k.m.failed(k.road.gateway, l.Protocol, err)
		return
	}
	k.m.noteEndless(endlessOf(l.Mapping), false)
}

// releaseAll takes everything back when we end, side by side.
func (k *keeper) releaseAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	k.mu.Lock()
	held := make([]*lease, 0, len(k.leases))
	for _, l := range k.leases {
		held = append(held, l)
	}
	clear(k.leases)
	k.mu.Unlock()
	var clients = make(map[client][]*lease)
	for _, l := range held {
		clients[l.by] = append(clients[l.by], l)
	}
	var wait sync.WaitGroup
	for _, list := range clients {
		wait.Go(func() {
			for _, l := range list {
				k.giveBack(ctx, l)
			}
		})
	}
	wait.Wait()
}
