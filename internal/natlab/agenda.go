package natlab

import "time"

// agenda runs what is due in the order in which it was planned. One timer
// serves all: a timer for each datagram would run those of one instant in any
// order. So does one goroutine, from the first plan to the lab's end: to each of
// time.AfterFunc's the deep calls of a datagram's arrival cost a larger stack,
// and the race detector much more.
type agenda struct {
	lab   *Lab
	queue events
	count uint64
	timer *time.Timer
	armed time.Duration // 0: not at all
	began time.Time
	over  chan struct{}
}

type event struct {
	at  time.Duration // since the lab's beginning: compared faster than a Time
	seq uint64
	do  func()
	p   *parcel // instead of do: one that comes to its link's end
}

func (g *agenda) init(l *Lab) {
	g.lab = l
	g.over = make(chan struct{})
	g.began = time.Now().Add(-1) // so that nothing is due at 0
}

// plan runs do at the given time with the lab's lock held.
func (g *agenda) plan(at time.Time, do func()) { g.enter(at, event{do: do}) }

// land has p arrive at the given time: as plan does, without a closure for each
// datagram.
func (g *agenda) land(at time.Time, p *parcel) { g.enter(at, event{p: p}) }

func (g *agenda) enter(at time.Time, e event) {
	if g.lab.closed {
		return
	}
	g.count++
	e.at, e.seq = at.Sub(g.began), g.count
	g.queue.push(e)
	g.arm()
}

func (g *agenda) arm() {
	if len(g.queue) == 0 {
		return
	}
	next := g.queue[0].at
	if g.armed != 0 && next >= g.armed {
		return
	}
	g.armed = next
	in := next - time.Since(g.began)
	if g.timer == nil {
		g.timer = time.NewTimer(in)
		go g.keep()
		return
	}
	g.timer.Reset(in)
}

func (g *agenda) keep() {
	for {
		select {
		case <-g.timer.C:
			g.run()
		case <-g.over:
			return
		}
	}
}

func (g *agenda) run() {
	g.lab.mu.Lock()
	defer g.lab.mu.Unlock()
	now := time.Since(g.began)
	for len(g.queue) > 0 && g.queue[0].at <= now {
		if e := g.queue.pop(); e.p != nil {
			e.p.on.arrive(e.p)
		} else {
			e.do()
		}
	}
	g.armed = 0
	g.arm()
}

func (g *agenda) clear() {
	g.queue = nil
	if g.timer != nil {
		g.timer.Stop()
	}
	select {
	case <-g.over:
	default:
		close(g.over)
	}
}

// events are a heap, the next one first.
type events []event

func (e events) less(i, j int) bool {
	if e[i].at == e[j].at {
		return e[i].seq < e[j].seq
	}
	return e[i].at < e[j].at
}

func (e *events) push(x event) {
	*e = append(*e, x)
	q := *e
	for i := len(q) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.less(i, up) {
			return
		}
		q[i], q[up] = q[up], q[i]
		i = up
	}
}

func (e *events) pop() event {
	q := *e
	first, last := q[0], len(q)-1
	q[0], q[last] = q[last], event{}
	q = q[:last]
	*e = q
	for i := 0; ; {
		next := 2*i + 1
		if next >= len(q) {
			return first
		}
		if next+1 < len(q) && q.less(next+1, next) {
			next++
		}
		if !q.less(next, i) {
			return first
		}
		q[i], q[next] = q[next], q[i]
		i = next
	}
}
