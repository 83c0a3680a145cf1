// Package orders is what a throng can be told to do, over its control socket.
package orders

// Paths on the control socket.
const (
	PathGrow      = "/grow"
	PathTally     = "/tally"
	PathIntroduce = "/introduce"
)

// Grow asks for so many agents in all, Rate new ones a second. It is answered
// when all of them have registered.
type Grow struct {
	Agents int     `json:"agents"`
	Rate   float64 `json:"rate"`
}

// Grown answers Grow.
type Grown struct {
	Seconds float64 `json:"seconds"`
}

// Tally asks who is there, and when those came who have since a time.
type Tally struct {
	SinceUnixNano int64 `json:"since"`
}

// Tallied answers Tally.
type Tallied struct {
	Online        int            `json:"online"`
	Registrations int64          `json:"registrations"`
	Came          []float64      `json:"came"`     // seconds after the time asked for, in order
	Failures      map[string]int `json:"failures"` // since the last Tally, by reason
}

// Introduce asks for introductions between random agents.
type Introduce struct {
	Rate    float64 `json:"rate"` // a second
	Seconds float64 `json:"seconds"`
	Relay   bool    `json:"relay"` // ask for an allocation of the relay with each
}

// Introductions answers Introduce.
type Introductions struct {
	Asked    int       `json:"asked"`
	Answered int       `json:"answered"`
	Seconds  float64   `json:"seconds"` // until the last answer
	Took     []float64 `json:"took"`    // milliseconds from the question to the peer's answer, in order
}
