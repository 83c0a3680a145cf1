package dgram

import (
	"sync"
	"time"
)

// Deadline is that of calls that wait on a condition, whose lock guards it. The
// zero Deadline never comes.
type Deadline struct {
	at    time.Time
	alarm *time.Timer
}

// Passed says whether it has come.
func (d *Deadline) Passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// Set wakes all who wait on c, now and when the deadline comes; the zero time is
// never.
func (d *Deadline) Set(c *sync.Cond, at time.Time) {
	d.at = at
	if d.alarm != nil {
		d.alarm.Stop()
		d.alarm = nil
	}
	if !at.IsZero() {
		d.alarm = time.AfterFunc(time.Until(at), func() {
			c.L.Lock()
			defer c.L.Unlock()
			c.Broadcast()
		})
	}
	c.Broadcast()
}
