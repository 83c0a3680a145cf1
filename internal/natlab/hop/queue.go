//go:build linux

package hop

import "time"

// item is a packet under way.
type item struct {
	at       time.Duration // monotonic
	number   uint64        // among equal times the older goes first
	from, to *port
	packet   []byte
}

// queue is a binary heap, earliest first. (container/heap would allocate for
// each packet.)
type queue []item

func (q queue) before(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].number < q[j].number
}

func (q *queue) push(it item) {
	*q = append(*q, it)
	h := *q
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h.before(i, parent) {
			return
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

func (q *queue) pop() item {
	h := *q
	first, last := h[0], len(h)-1
	h[0] = h[last]
	h[last] = item{}
	*q = h[:last]
	q.sink(0)
	return first
}

func (q *queue) sink(i int) {
	h := *q
	for {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < len(h) && h.before(child, least) {
				least = child
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}
