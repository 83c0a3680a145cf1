package relay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// Pulse is what Keep does, without a goroutine: its owner calls Beat when the
// time has come. Ten thousand legs cost ten thousand timers. Its methods may not
// be called at once.
type Pulse struct {
	leg     *Leg
	every   time.Duration
	try     int       // binds sent since the last answer
	asked   time.Time // when the first of them left
	before  uint64    // what was answered before the first of them
	refused error     // the last write: a refused one is a lost one
}

// NewPulse keeps a leg that was claimed, with a bind every so often; 0 is every
// 15 s.
func NewPulse(leg *Leg, every time.Duration) *Pulse {
	if every <= 0 {
		every = refreshEach
	}
	return &Pulse{leg: leg, every: every}
}

// First is how long the first Beat may wait: up to the whole time between two,
// at random, so that legs that were bound together are not refreshed together.
func (p *Pulse) First() time.Duration { return p.every/4 + rand.N(p.every*3/4+1) }

// Beat sends the bind that is due, if one is, and says when to call it again. It
// returns an error for the reasons for which Keep does.
func (p *Pulse) Beat() (again time.Duration, err error) {
	st := p.leg.state()
	switch {
	case st.gone:
		return 0, fmt.Errorf("refresh at relay %v: %w", p.leg.relay, ErrGone)
	case p.try > 0 && st.answered > p.before:
		p.try = 0
		// A little less than is promised, for binds that wander do not meet.
		return max(refreshTry, p.every-time.Since(p.asked)-rand.N(p.every/8+1)), nil
	case p.try == refreshMost:
		return 0, fmt.Errorf("refresh at relay %v: %w in %d tries; ask for a new introduction", p.leg.relay, silent(p.refused), p.try)
	case p.try == 0:
		p.before, p.asked = st.answered, time.Now()
	}
	if p.refused = p.leg.Refresh(); errors.Is(p.refused, net.ErrClosed) {
		return 0, fmt.Errorf("refresh at relay %v: %w", p.leg.relay, p.refused)
	}
	p.try++
	return refreshTry << (p.try - 1), nil
}

// Soon asks at once whether the leg lives, instead of at the next Beat's time:
// the caller is to call Beat now.
func (p *Pulse) Soon() { p.try = 0 }
