package stream

import (
	"time"

	"rendezvous/internal/path"
)

// link is a carrier in use. The mutex of its Conns guards it.
type link struct {
	carrier  Carrier
	only     path.Kinds // the rule that it serves
	streams  int        // of connections
	draining bool       // another one has taken its place
}

// A carrier that another one has replaced is closed when no connection is on it
// any more, and a little later, as the other side may be about to open a
// stream; and at the latest after drainWithin, which only moves what is still
// there.
const (
	drainPause  = time.Second
	drainWithin = 10 * time.Second
)

// Use makes c the carrier of connections that have no rule. New ones go over
// it, living ones move to it, and the earlier carrier is drained and closed.
// Conns owns c from now on; both ends must have been given their end of it.
func (o *Conns) Use(c Carrier) { o.UseFor(0, c) }

// UseFor is Use for the connections under one rule. A carrier belongs to one
// rule alone.
func (o *Conns) UseFor(only path.Kinds, c Carrier) {
	l := &link{carrier: c, only: only}
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		_ = c.Close()
		return
	}
	old := o.current[only]
	if old != nil && old.carrier == c {
		o.mu.Unlock()
		return
	}
	o.links[l] = struct{}{}
	o.current[only] = l
	o.announce()
	if old != nil {
		o.drain(old)
	}
	o.tasks.Go(func() { o.acceptFrom(l) })
	o.mu.Unlock()
}

// announce tells openers that the carriers have changed. Caller holds o.mu.
func (o *Conns) announce() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// link is the carrier for a rule, nil for none, and what is closed when that
// changes.
func (o *Conns) link(only path.Kinds) (*link, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.current[only], o.changed
}

// Has says whether there is a carrier for connections under a rule.
func (o *Conns) Has(only path.Kinds) bool {
	l, _ := o.link(only)
	return l != nil
}

// hold notes a stream of a connection on l.
func (o *Conns) hold(l *link) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.streams++
}

func (o *Conns) release(l *link) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.streams--
	if l.draining && l.streams == 0 {
		time.AfterFunc(drainPause, func() { o.closeDrained(l) })
	}
}

// drain lets go of a carrier. Caller holds o.mu.
func (o *Conns) drain(l *link) {
	l.draining = true
	if l.streams == 0 {
		time.AfterFunc(drainPause, func() { o.closeDrained(l) })
	}
	time.AfterFunc(drainWithin, func() { _ = l.carrier.Close() })
}

func (o *Conns) closeDrained(l *link) {
	o.mu.Lock()
	idle := l.streams == 0
	o.mu.Unlock()
	if idle {
		_ = l.carrier.Close()
	}
}

// acceptFrom serves the streams that the other side opens, until the carrier
// ends.
func (o *Conns) acceptFrom(l *link) {
	for {
		s, err := l.carrier.Accept(o.ctx)
		if err != nil {
			break
		}
		o.tasks.Go(func() { o.serve(l, s) })
	}
	_ = l.carrier.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.links, l)
	if o.current[l.only] == l {
		delete(o.current, l.only)
		o.announce()
	}
}

func (o *Conns) closeLinks() {
	o.mu.Lock()
	all := make([]*link, 0, len(o.links))
	for l := range o.links {
		all = append(all, l)
	}
	o.mu.Unlock()
	for _, l := range all {
		_ = l.carrier.Close()
	}
}
