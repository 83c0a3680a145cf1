package natlab

import (
	"container/heap"
	"time"
)

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
	heap.Push(&g.queue, event{at, g.count, do})
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
		heap.Pop(&g.queue).(event).do()
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

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].seq < e[j].seq
	}
	return e[i].at.Before(e[j].at)
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push is heap.Interface's.
func (e *events) Push(x any) { *e = append(*e, x.(event)) }

// Pop is heap.Interface's.
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return last
}
