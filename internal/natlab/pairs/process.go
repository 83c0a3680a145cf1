package pairs

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"rendezvous/internal/natlab/bubble"
)

// The environment of a process that runs a plan.
const (
	planVariable = "NATLAB_PLAN" // the plan as JSON
	intoVariable = "NATLAB_INTO" // the file that its tallies go into
)

// Main is the first thing that a program calls which uses Spread: in the
// processes that Spread starts it runs their plan, and does not return.
func Main() {
	text := os.Getenv(planVariable)
	if text == "" {
		return
	}
	os.Args = os.Args[:1]
	var p Plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		fmt.Fprintln(os.Stderr, "read the plan:", err)
		os.Exit(1)
	}
	// Only a test gets a bubble of virtual time.
	testing.Main(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "plan", F: func(t *testing.T) {
		var tallies []*Tally
		bubble.Test(t, func(t *testing.T) { tallies = p.Run(t) })
		text, err := json.Marshal(tallies)
		if err == nil {
			err = os.WriteFile(os.Getenv(intoVariable), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}}}, nil, nil)
}

// Tallies are what came of a plan, by the names of both kinds in their order.
type Tallies map[[2]string]*Tally

// Of is the tally of two kinds, nil where they did not meet.
func (t Tallies) Of(a, b string) *Tally { return t[[2]string{min(a, b), max(a, b)}] }

func (t Tallies) add(list []*Tally) {
	for _, x := range list {
		at := [2]string{min(x.A, x.B), max(x.A, x.B)}
		if t[at] == nil {
			t[at] = x
		} else {
			t[at].Merge(x)
		}
	}
}

// Spread runs p cell by cell, a process for each, as many at a time as there
// are processors, since agents in one bubble of virtual time run one after the
// other. It gives what all of them found.
func Spread(p Plan) (Tallies, error) {
	cells := p.cells()
	parts, faults := make([][]*Tally, len(cells)), make([]error, len(cells))
	next := make(chan int)
	var wait sync.WaitGroup
	for range runtime.NumCPU() {
		wait.Go(func() {
			for i := range next {
				parts[i], faults[i] = cells[i].process()
			}
		})
	}
	for i := range cells {
		next <- i
	}
	close(next)
	wait.Wait()
	sum := make(Tallies)
	for i, part := range parts {
		if faults[i] != nil {
			return nil, faults[i]
		}
		sum.add(part)
	}
	return sum, nil
}

// process runs p in a process of its own.
func (p Plan) process() ([]*Tally, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program, to run it once for each processor: %w", err)
	}
	plan, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	into, err := os.CreateTemp("", "pairs-*.json")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(into.Name()) }()
	if err := into.Close(); err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	// To collect garbage less often, and to begin goroutines with the stack
	// that most come to need, saves a quarter of the time.
	cmd.Env = append(os.Environ(), planVariable+"="+string(plan), intoVariable+"="+into.Name(),
		"GOMAXPROCS=1", "GOGC=400", "GODEBUG=adaptivestackstart=1")
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("let agents meet by seed %d: %w: %s", p.Seed, err, said)
	}
	text, err := os.ReadFile(into.Name())
	if err != nil {
		return nil, fmt.Errorf("read what came of seed %d: %w", p.Seed, err)
	}
	var tallies []*Tally
	return tallies, json.Unmarshal(text, &tallies)
}
