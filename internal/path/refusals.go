package path

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Figures of a TCP punch that RSTs answer. A SYN's mapping lives until its RST
// is back, so the peer's SYN passes only where ours are dense; but who answers
// every SYN so is not joined by more of them, and its network takes them for a
// flood.
const (
	// RefusalsAtOnce is how many RSTs of one address are answered by the next SYN
	// at once. Two sides that began 300 ms apart, through routers that answer so,
	// had met 374 ms after the first SYN at the latest (measured with Linux' NAT):
	// at one SYN a millisecond.
	RefusalsAtOnce = 400
	// Then the mean rest doubles after every refusalsStep more. At the longest
	// one, three SYNs still fall into the 400 ms of a peer that begins late.
	refusalsStep  = 25
	refusalsFirst = 8 * time.Millisecond // 125 a second
	refusalsMost  = 128 * time.Millisecond
)

// AfterRefusals is the rest before the next SYN to an address that has answered n
// by RST in one attempt, in which so many of its ports are called. It is
// irregular: two sides in one rhythm can miss each other each time.
func AfterRefusals(n, ports int) time.Duration {
	rest := meanRest(n) * time.Duration(max(1, ports))
	if rest > 0 {
		rest = rest/2 + rand.N(rest)
	}
	return rest
}

// meanRest is that where one port is called.
func meanRest(n int) time.Duration {
	if n < RefusalsAtOnce {
		return 0
	}
	step := (n - RefusalsAtOnce) / refusalsStep
	if step > 10 {
		return refusalsMost
	}
	return min(refusalsFirst<<step, refusalsMost)
}

// RefusalsFlood is the reason of a failure in which RSTs were so many that the
// pace was lowered.
const RefusalsFlood = "rst-flood"

// FloodOfRefusals is that failure; seen is what came of the attempt.
func FloodOfRefusals(seen string) *Failure {
	return &Failure{
		Reason:   RefusalsFlood,
		Evidence: fmt.Sprintf("the network there answers SYN after SYN by RST: after %d from one address the pace was lowered, step by step; %s", RefusalsAtOnce, seen),
		Advice:   "a router or firewall on the way refuses the peer's port at once; let TCP pass on the peer's side, or leave it to the relay",
	}
}
