package ladder

import (
	"context"
	"errors"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// rung is one that takes a while and ends in err.
type rung struct {
	kind path.Kind
	take time.Duration
	err  error
}

func (r rung) Kind() path.Kind { return r.kind }

func (r rung) Climb(ctx context.Context, _ path.Try) error {
	select {
	case <-time.After(r.take):
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestRungsAreClimbedSideBySide(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		began := time.Now()
		got := map[path.Kind]Attempt{}
		Climb(t.Context(), []Step{
			{Rung: rung{path.RelayUDP, time.Second, nil}},
			{Rung: rung{path.DirectUDP, time.Second, &path.Failure{Reason: "no-answer", Evidence: "e", Advice: "a"}}, After: 300 * time.Millisecond},
			{Rung: rung{path.DirectTCP, 0, &path.Failure{Reason: "not-allowed", Skipped: true}}},
			{Rung: rung{path.RelayTLS, 0, errors.New("socket broke")}},
		}, nil, func(a Attempt) { got[a.Kind] = a })
		if d := time.Since(began); d != 1300*time.Millisecond {
			t.Errorf("all took %v", d)
		}
		want := map[path.Kind]Attempt{
			path.RelayUDP:  {Kind: path.RelayUDP, Result: OK, Started: began, Took: time.Second},
			path.DirectUDP: {Kind: path.DirectUDP, Result: Failed, Reason: "no-answer", Evidence: "e", Advice: "a", Started: began.Add(300 * time.Millisecond), Took: time.Second},
			path.DirectTCP: {Kind: path.DirectTCP, Result: Skipped, Reason: "not-allowed", Started: began},
			path.RelayTLS:  {Kind: path.RelayTLS, Result: Failed, Reason: "error", Evidence: "socket broke", Started: began},
		}
		for k, w := range want {
			if got[k] != w {
				t.Errorf("%v: %+v, want %+v", k, got[k], w)
			}
		}
	})
}

func TestCancelledClimbIsNoFailure(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		var got []Attempt
		Climb(ctx, []Step{
			{Rung: rung{path.DirectUDP, time.Hour, nil}},
			{Rung: rung{path.DirectTCP, time.Hour, nil}, After: time.Minute},
		}, nil, func(a Attempt) { got = append(got, a) })
		if len(got) != 1 || got[0].Result != Skipped || got[0].Reason != "not-needed" {
			t.Errorf("recorded %+v", got)
		}
	})
}
