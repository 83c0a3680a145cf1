package dgram

import (
	"time"

	"golang.org/x/sys/unix"
)

// Standing keeps the receive queue of a socket short under overload. The kernel's
// buffer is large, for the times when its reader is away; but where more comes
// than the reader takes it is full for good, and only makes all that passes late:
// 20 ms for 8 MiB of what a path of 200,000 datagrams a second carries. So a queue
// that overflows while it has not been empty for standingFor is cut to what is
// taken in standingTarget, as RFC 8289 tells a good queue from a standing one. The
// zero Standing leaves the queue as it is. It is its reader's.
type Standing struct {
	full    int // SO_RCVBUF without an overload, bytes
	visits  int // since the queue was found empty
	began   time.Time
	taken   int // since began, bytes as the kernel counts them
	dropped uint32
	cut     bool
	checked time.Time // when dropped was last read, while it is cut
}

const (
	standingFor    = 100 * time.Millisecond
	standingTarget = 2 * time.Millisecond
	// standingOver is how long a cut queue must have dropped nothing to have its
	// room back.
	standingOver = 300 * time.Millisecond
	// standingLeast is room for one message that UDP_GRO filled.
	standingLeast = 2 * SlotSize
	// messageCost is what a message takes of the buffer beside its bytes: 768 in
	// all for a short one, 2304 for 1400 bytes (Linux 6.18).
	messageCost = 700
	// looksAt are the visits in a row after which it looks at the clock.
	looksAt = 8
)

// KeepShort is a Standing for a socket whose buffer is full bytes long.
func KeepShort(full int) Standing { return Standing{full: full} }

// Took notes that a visit to the kernel brought so many messages.
func (q *Standing) Took(fd uintptr, messages, bytes int) {
	q.visits++
	q.taken += bytes + messages*messageCost
	if q.visits%looksAt != 0 || q.full == 0 {
		return
	}
	now := time.Now()
	if q.began.IsZero() {
		q.began, q.taken, q.dropped = now, 0, memInfo(fd)[unix.SK_MEMINFO_DROPS]
		return
	}
	elapsed := now.Sub(q.began)
	if elapsed < standingFor {
		return
	}
	dropped := memInfo(fd)[unix.SK_MEMINFO_DROPS]
	if dropped != q.dropped {
		room := int(float64(q.taken) * standingTarget.Seconds() / elapsed.Seconds())
		q.resize(fd, min(max(room, standingLeast), 2*q.full))
		q.cut, q.checked = true, now
	}
	q.began, q.taken, q.dropped = now, 0, dropped
}

// Emptied notes that a visit found nothing.
func (q *Standing) Emptied(fd uintptr) {
	q.visits, q.began = 0, time.Time{}
	if !q.cut {
		return
	}
	now := time.Now()
	if now.Sub(q.checked) < standingOver {
		return
	}
	dropped := memInfo(fd)[unix.SK_MEMINFO_DROPS]
	if dropped == q.dropped {
		q.cut = false
		q.resize(fd, 2*q.full)
	}
	q.checked, q.dropped = now, dropped
}

// resize sets the buffer to so many bytes as the kernel counts them, which takes
// half of it for its own: it doubles what it is told (socket(7)).
func (q *Standing) resize(fd uintptr, room int) {
	resize(int(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, room/2)
}
