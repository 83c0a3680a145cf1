package session

import (
	"cmp"
	"time"
)

// Timers are all the waits of a session.
type Timers struct {
	// Keepalive is how often an idle path is probed. The shortest lifetimes of
	// UDP mappings seen in the field are 30 s (Hätönen 2010), some 10 s for a
	// mapping without answer; half of 30 s survives one loss.
	Keepalive time.Duration
	// Check is how often the best path is probed while data flows.
	Check time.Duration
	// Doubt is how long an answer may be late beyond three round trips before
	// data goes over the spare as well.
	Doubt time.Duration
	// Dead is how long the best path may leave probes unanswered while data
	// flows. Doubt begins earlier, so data is back before this.
	Dead time.Duration
	// Consent is how long an unanswered path is kept at all (RFC 7675: 30 s).
	Consent time.Duration
	// Active is how long after the last datagram a session counts as in use.
	Active time.Duration
	// Rekey is how long keys are used.
	Rekey time.Duration
}

// DefaultTimers are the timers of an agent without other configuration.
func DefaultTimers() Timers {
	return Timers{
		Keepalive: 15 * time.Second,
		Check:     400 * time.Millisecond,
		Doubt:     100 * time.Millisecond,
		Dead:      1500 * time.Millisecond,
		Consent:   30 * time.Second,
		Active:    3 * time.Second,
		Rekey:     2 * time.Minute,
	}
}

func (t Timers) withDefaults() Timers {
	d := DefaultTimers()
	return Timers{
		Keepalive: cmp.Or(t.Keepalive, d.Keepalive),
		Check:     cmp.Or(t.Check, d.Check),
		Doubt:     cmp.Or(t.Doubt, d.Doubt),
		Dead:      cmp.Or(t.Dead, d.Dead),
		Consent:   cmp.Or(t.Consent, d.Consent),
		Active:    cmp.Or(t.Active, d.Active),
		Rekey:     cmp.Or(t.Rekey, d.Rekey),
	}
}
