//go:build linux

package hop

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// run is the only thread: it waits in ppoll, whose timeout is exact to tens of
// microseconds where the runtime's timers are to a millisecond.
func (n *Internet) run() {
	defer close(n.stopped)
	var polled []unix.PollFd
	for {
		wait, open := n.deliver()
		if !open {
			return
		}
		polled = n.pollSet(polled[:0])
		if _, err := unix.Ppoll(polled, wait, nil); err != nil && !errors.Is(err, unix.EINTR) {
			panic("hop: ppoll: " + err.Error())
		}
		if polled[0].Revents != 0 {
			n.drainWake()
		}
		for i := range polled[1:] {
			if polled[1+i].Revents&unix.POLLIN != 0 {
				n.receive(i)
			}
		}
	}
}

func (n *Internet) pollSet(set []unix.PollFd) []unix.PollFd {
	n.mu.Lock()
	defer n.mu.Unlock()
	set = append(set, unix.PollFd{Fd: int32(n.wake), Events: unix.POLLIN})
	for _, p := range n.ports {
		set = append(set, unix.PollFd{Fd: int32(p.fd), Events: unix.POLLIN})
	}
	return set
}

func (n *Internet) drainWake() {
	var b [8]byte
	for {
		if _, err := unix.Read(n.wake, b[:]); err != nil {
			return
		}
	}
}

// deliver writes what is due and says how long to wait for the next, nil for
// ever; false when the internet was closed.
func (n *Internet) deliver() (*unix.Timespec, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, false
	}
	for len(n.due) > 0 {
		now := monotonic()
		if rest := n.due[0].at - now; rest > 0 {
			t := unix.NsecToTimespec(int64(rest))
			return &t, true
		}
		item := n.due.pop()
		// An error is the device's: it is down, or its owner's queue is full.
		// Either way the packet is lost, as it would be on a real wire.
		if _, err := unix.Write(item.to.fd, item.packet); err != nil {
			n.lane(item.from, item.to).count.Lost++
		} else {
			n.lane(item.from, item.to).count.Forwarded++
		}
		n.free = append(n.free, item.packet[:maxPacket])
	}
	return nil, true
}

// receive takes what waits at port i.
func (n *Internet) receive(i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := n.ports[i]
	for range readsPerWakeup {
		buf := n.buffer()
		size, err := unix.Read(from.fd, buf)
		if err != nil || size == 0 {
			n.free = append(n.free, buf)
			return
		}
		if !n.admit(from, buf[:size]) {
			n.free = append(n.free, buf)
		}
	}
}

func (n *Internet) buffer() []byte {
	if last := len(n.free) - 1; last >= 0 {
		b := n.free[last]
		n.free = n.free[:last]
		return b
	}
	return make([]byte, maxPacket)
}

// admit decides what becomes of a packet; false when it goes no further and
// its buffer is free.
func (n *Internet) admit(from *port, packet []byte) bool {
	dst, ok := destination(packet)
	if !ok {
		n.noRoute++
		return false
	}
	to := n.route(dst)
	if to == nil {
		n.noRoute++
		return false
	}
	if n.tap != nil {
		n.tap(Sighting{From: from.name, To: to.name, At: monotonic(), Packet: packet})
	}
	l := n.lane(from, to)
	if isFragment(packet) {
		l.count.Fragments++
	}
	if !n.pass(from, to, packet) {
		l.count.Refused++
		return false
	}
	if l.Loss > 0 && n.random.Float64() < l.Loss {
		l.count.Lost++
		return false
	}
	at, ok := l.arrival(len(packet))
	if !ok || len(n.due) >= maxWaiting {
		l.count.Overrun++
		return false
	}
	if router := decrementTTL(packet, l.Hops); router > 0 {
		l.count.Expired++
		return n.expire(from, packet, l, router)
	}
	n.push(item{at: at, from: from, to: to, packet: packet})
	return true
}

// expire sends the answer of the router where TTL ran out back to the port
// that the packet came from.
func (n *Internet) expire(from *port, packet []byte, l *lane, router int) bool {
	answer := timeExceeded(n.buffer()[:0], packet, router)
	if answer == nil {
		return false
	}
	back := 2 * l.Delay * time.Duration(router) / time.Duration(l.Hops+1)
	n.push(item{at: monotonic() + back, from: from, to: from, packet: answer})
	return false
}

func (n *Internet) push(it item) {
	n.pushed++
	it.number = n.pushed
	n.due.push(it)
}

// arrival is when a packet of that size comes out at the far end; false when
// it would have to wait for longer than the link's queue.
func (l *lane) arrival(size int) (time.Duration, bool) {
	now := monotonic()
	if l.Rate <= 0 {
		return now + l.Delay, true
	}
	start := max(now, l.busy)
	limit := l.Queue
	if limit == 0 {
		limit = defaultQueue
	}
	if start-now > limit {
		return 0, false
	}
	l.busy = start + time.Duration(int64(size)*8*int64(time.Second)/l.Rate)
	return l.busy + l.Delay, true
}

func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic("hop: read the monotonic clock: " + err.Error())
	}
	return time.Duration(t.Nano())
}
