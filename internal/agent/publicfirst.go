package agent

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
)

// publicFirsts are a client's datagrams that wait for its socket before the service.
type publicFirsts struct {
	waiting atomic.Bool // some do, or their way is being opened; changed under mu

	mu     sync.Mutex
	held   []dgram.Burst
	bytes  int
	failed time.Time // when no way was found last
}

// firstBytes is how much may wait, in bytes.
const firstBytes = 256 << 10

// hold keeps a burst until the client's socket is there, and has it opened. What
// it returns is not nil where that is there meanwhile.
func (l *publicLeg) hold(w *publicWire, b dgram.Burst) *publicFar {
	f := &l.first
	f.mu.Lock()
	defer f.mu.Unlock()
	if far := l.far.Load(); far != nil && !f.waiting.Load() {
		return far
	}
	late := !f.waiting.Load() && !f.failed.IsZero() && time.Since(f.failed) < connectAgain
	if late || f.bytes+len(b.Buf) > firstBytes {
		l.p.drops.noService.Add(uint64(b.Len()))
		return nil
	}
	b.Buf = bytes.Clone(b.Buf)
	f.held = append(f.held, b)
	f.bytes += len(b.Buf)
	if f.waiting.CompareAndSwap(false, true) {
		l.p.a.tasks.start(func(ctx context.Context) { l.open(ctx, w) })
	}
	return nil
}

// open opens the client's socket before the service and sends what has waited,
// in its order: what comes meanwhile waits behind that.
func (l *publicLeg) open(ctx context.Context, w *publicWire) {
	far := l.far.Load()
	if far == nil {
		far = l.connect(ctx, w)
	}
	for held := l.release(far == nil); len(held) > 0; held = l.release(far == nil) {
		for _, b := range held {
			if far == nil {
				l.p.drops.noService.Add(uint64(b.Len()))
				continue
			}
			l.toService(far, b)
		}
	}
}

// release gives what has waited; nothing waits any more when there is nothing,
// or this is the last of it.
func (l *publicLeg) release(last bool) []dgram.Burst {
	f := &l.first
	f.mu.Lock()
	defer f.mu.Unlock()
	held := f.held
	f.held, f.bytes = nil, 0
	if last && len(held) > 0 {
		f.failed = time.Now()
	}
	if last || len(held) == 0 {
		f.waiting.Store(false)
	}
	return held
}

const (
	// knownWithin is how long a client's datagrams wait in its leg's socket until
	// the coordinator has told its address, which left before them but on another
	// way.
	knownWithin = time.Second
	// connectAgain follows a socket that could not be opened.
	connectAgain = time.Second
)

// connect opens the client's socket before the service; nil where there is none.
func (l *publicLeg) connect(ctx context.Context, w *publicWire) *publicFar {
	at, err := l.port.where.find(ctx)
	if err == nil {
		var far *forward.Far
		if far, err = forward.Before(l.p.crowd, at, l.aliases(), forward.Client{Addr: l.owner().Addr()}); err == nil {
			return l.use(w, &publicFar{far, at})
		}
	}
	l.p.a.refusals.note(l.p.a, "public clients of "+l.port.service, err)
	return nil
}

// aliases is where the client's source before the service comes from, if it
// is to have one of its own.
func (l *publicLeg) aliases() *forward.Aliases {
	if !l.port.target.Alias {
		return nil
	}
	return l.p.a.aliases
}

// owner is the client's address, as the coordinator tells it where that was asked
// for.
func (l *publicLeg) owner() netip.AddrPort {
	if !l.port.target.Alias {
		return netip.AddrPort{}
	}
	timer := time.NewTimer(knownWithin)
	defer timer.Stop()
	select {
	case <-l.known:
	case <-timer.C:
	case <-l.done:
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if !l.client.IsValid() { // then it shares an alias with those like it
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return l.client
}

// use makes far the client's socket and reads it; nil where the leg has ended.
func (l *publicLeg) use(w *publicWire, far *publicFar) *publicFar {
	l.p.mu.Lock()
	ended := l.ended
	if !ended {
		l.far.Store(far)
	}
	l.p.mu.Unlock()
	if ended {
		far.Close()
		return nil
	}
	l.p.attend(far.Conn, func(b dgram.Burst) { l.fromService(w, far, b) }, nil)
	return far
}

// disconnect closes the client's socket before the service, unless another has
// taken its place.
func (l *publicLeg) disconnect(far *publicFar) {
	if far != nil && l.far.CompareAndSwap(far, nil) {
		far.Close()
	}
}
