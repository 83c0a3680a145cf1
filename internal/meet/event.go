package meet

import "time"

// The events.
const (
	Listening = "listening" // the socket is open
	Outside   = "outside"   // STUN servers see us so; told again when it changes
	Waiting   = "waiting"   // for the time
	Knocking  = "punching"
	Heard     = "heard" // the peer, from an address that was not expected
	Open      = "open"  // services are carried
	Moved     = "moved" // to another path
	Lost      = "lost"  // no path; it is tried again
	Ended     = "ended" // by the peer
)

// Event is what became of a meeting. Its JSON is what `agent punch --json`
// prints, a line each.
type Event struct {
	Time   time.Time `json:"time"`
	What   string    `json:"event"`
	Local  string    `json:"local,omitempty"`
	Addr   string    `json:"addr,omitempty"` // ours as a server sees it, or the peer's
	Server string    `json:"server,omitempty"`
	// Varies says that two servers see us at different ports: the peer can't
	// know at which it will.
	Varies bool      `json:"varies,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	RTT    float64   `json:"rtt_ms,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

func (m *meeting) tell(e Event) {
	m.told.Lock()
	defer m.told.Unlock()
	e.Time = time.Now()
	if m.cfg.Tell != nil {
		m.cfg.Tell(e)
	}
}
