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
	armed time.Time
	over  chan struct{}
}

type event struct {
	at  time.Time
	seq uint64
	do  func()
}

func (g *agenda) init(l *Lab) {
	g.lab = l
	g.over = make(chan struct{})
}

// plan runs do at the given time with the lab's lock held.
func (g *agenda) plan(at time.Time, do func()) {
	if g.lab.closed {
		return
	}
	g.count++
	g.queue.push(event{at, g.count, do})
	g.arm()
}

func (g *agenda) arm() {
	if len(g.queue) == 0 {
		return
	}
	next := g.queue[0].at
	if !g.armed.IsZero() && !next.Before(g.armed) {
		return
	}
	g.armed = next
	if g.timer == nil {
		g.timer = time.NewTimer(time.Until(next))
		go g.keep()
		return
	}
	g.timer.Reset(time.Until(next))
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
	now := time.Now()
	for len(g.queue) > 0 && !g.queue[0].at.After(now) {
		g.queue.pop().do()
	}
	g.armed = time.Time{}
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
	if e[i].at.Equal(e[j].at) {
		return e[i].seq < e[j].seq
	}
	return e[i].at.Before(e[j].at)
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
