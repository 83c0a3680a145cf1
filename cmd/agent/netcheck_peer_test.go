package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/agent"
)

// relayedFirst is an agent whose paths become direct after a while.
type relayedFirst struct {
	status agent.Status
	began  time.Time
	after  time.Duration
	err    error
}

func (r *relayedFirst) Status(context.Context) (agent.Status, error) { return r.status, r.err }

func (r *relayedFirst) Ping(ctx context.Context, _ string) (agent.PingLine, error) {
	if r.err != nil {
		return agent.PingLine{}, r.err
	}
	time.Sleep(20 * time.Millisecond)
	if time.Since(r.began) < r.after {
		return agent.PingLine{Path: "relay-udp", Remote: "203.0.113.10:443", RTT: 40}, nil
	}
	return agent.PingLine{Path: "direct-udp", Remote: "198.51.100.1:4000", RTT: 20}, nil
}

// S4-18: what servers say of the NAT is followed by a test with peers.
func TestNetcheckMeasuresWithPeers(t *testing.T) {
	for name, c := range map[string]struct {
		peer  string
		after time.Duration
		err   error
		want  []string // kinds of path, or errors
		took  time.Duration
	}{
		"those that there is a session with": {"", 0, nil, []string{"direct-udp", "direct-udp"}, time.Second},
		"a peer, direct after a punch":       {"home", 5 * time.Second, nil, []string{"direct-udp"}, 6 * time.Second},
		"a peer that is never direct":        {"home", time.Hour, nil, []string{"relay-udp"}, punchWithin + time.Second},
		"a peer that is not reached":         {"home", 0, errors.New("no such member"), []string{"no such member"}, time.Second},
		"no agent runs":                      {"", 0, errors.New("no agent runs"), nil, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &relayedFirst{began: time.Now(), after: c.after, err: c.err}
				r.status.Peers = []agent.PeerStatus{{Name: "home", Path: "relay-udp"}, {Name: "away"}, {Name: "attic", Path: "direct-udp"}}
				var got []string
				lines := measure(t.Context(), r, c.peer)
				for _, l := range lines {
					got = append(got, l.Path+l.Error)
				}
				if !slices.Equal(got, c.want) || time.Since(r.began) > c.took {
					t.Errorf("%q after %v", got, time.Since(r.began))
				}
				if (unreached(c.peer, lines) != nil) != (c.err != nil && c.peer != "") {
					t.Error(unreached(c.peer, lines))
				}
			})
		})
	}
	var out bytes.Buffer
	writeNetcheck(&out, agent.Netcheck{UDP: true, Measured: []agent.PingLine{
		{Peer: "home", Path: "direct-udp", Remote: "192.168.1.2:4000", RTT: 1.25}, {Peer: "attic", Path: "relay-udp", Remote: "203.0.113.10:443", RTT: 40},
	}})
	for _, want := range []string{"measured with home", "direct-udp to 192.168.1.2:4000, 1.2 ms", "agent explain attic"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing from\n%s", want, out.String())
		}
	}
}
