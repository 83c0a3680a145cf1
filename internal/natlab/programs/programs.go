//go:build linux

// Package programs runs our own two programs on hosts of the lab: tests, the
// demo and the bench speak to them as users and scripts do, by the command
// line and its JSON.
package programs

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
)

// Packages are what netns.TestMain and netns.Build have to build for the
// programs here and the load.
func Packages() []string {
	return []string{"rendezvous/cmd/...", "rendezvous/internal/natlab/load",
		"rendezvous/internal/natlab/plainforward", "rendezvous/internal/natlab/splitproxy", "rendezvous/internal/natlab/throng", "rendezvous/internal/natlab/turnforward"}
}

// ready is how long a daemon may take until it answers.
const ready = 5 * time.Second

// connects is how long an agent may take until it is connected to the
// coordinator, where most of the ways are blocked.
const connects = 10 * time.Second

// Coordinator is a running `rendezvous serve`.
type Coordinator struct {
	*netns.Process
	t     netns.T
	host  *netns.Host
	state string
	args  []string
}

// Serve starts a coordinator on a host with public addresses, and waits until
// it answers.
func Serve(t netns.T, h *netns.Host, state string, addrs []string, args ...string) *Coordinator {
	t.Helper()
	c := &Coordinator{t: t, host: h, state: state}
	c.args = append([]string{"serve", "--state", state, "--listen", ":443", "--public-addr", strings.Join(addrs, ",")}, args...)
	c.Restart()
	return c
}

// Restart starts the coordinator again, after a Kill or a Stop.
func (c *Coordinator) Restart() {
	c.t.Helper()
	c.Begin()
	netns.Eventually(c.t, ready, "the coordinator", func() error {
		if !c.Running() {
			return fmt.Errorf("it has ended: %s", c.Log())
		}
		_, err := c.host.Try("rendezvous", "status", "--state", c.state)
		return err
	})
}

// Begin is Restart without the wait.
func (c *Coordinator) Begin() {
	c.t.Helper()
	c.Process = c.host.Start("rendezvous", c.args...)
}

// Invite makes a join link.
func (c *Coordinator) Invite(args ...string) string {
	c.t.Helper()
	return strings.TrimSpace(c.host.Run(append([]string{"rendezvous", "invite", "--state", c.state}, args...)...))
}

// Do runs a subcommand of the coordinator ("status") and gives its output.
func (c *Coordinator) Do(args ...string) string {
	c.t.Helper()
	return strings.TrimSpace(c.host.Run(append([]string{"rendezvous", args[0], "--state", c.state}, args[1:]...)...))
}

// Agent is an agent on a host; its daemon runs after Up.
type Agent struct {
	*netns.Process // nil before Up
	Name           string
	t              netns.T
	host           *netns.Host
	guise          netns.Guise
	state          string
}

// Join makes an agent on a host by a join link.
func Join(t netns.T, h *netns.Host, dir, name, link string) *Agent {
	t.Helper()
	return JoinAs(t, h, netns.Guise{}, dir, name, link)
}

// JoinAs is Join for an agent that runs in a guise.
func JoinAs(t netns.T, h *netns.Host, g netns.Guise, dir, name, link string) *Agent {
	t.Helper()
	a := &Agent{Name: name, t: t, host: h, guise: g, state: filepath.Join(dir, "agent-"+name)}
	a.Do("join", link, "--name", name)
	return a
}

// Do runs a subcommand of the agent ("invite", "dial", ...) and gives its
// output.
func (a *Agent) Do(args ...string) string {
	a.t.Helper()
	out, err := a.Try(args...)
	if err != nil {
		a.t.Fatalf("%v", err)
	}
	return strings.TrimSpace(out)
}

// Try is Do for what may fail.
func (a *Agent) Try(args ...string) (string, error) {
	full := append([]string{"agent", args[0], "--state", a.state}, args[1:]...)
	return a.host.TryAs(a.guise, full...)
}

// Up starts the agent's daemon and waits until it is connected to the
// coordinator.
func (a *Agent) Up(args ...string) {
	a.t.Helper()
	a.Start(args...)
	a.WaitConnected(connects)
}

// Start is Up without the wait.
func (a *Agent) Start(args ...string) {
	a.t.Helper()
	a.Process = a.host.StartAs(a.guise, "agent", append([]string{"up", "--state", a.state}, args...)...)
}

// WaitConnected waits until the agent is connected to the coordinator.
func (a *Agent) WaitConnected(limit time.Duration) {
	a.t.Helper()
	netns.Eventually(a.t, limit, a.Name+" to be connected to the coordinator", func() error {
		if !a.Running() {
			return fmt.Errorf("it has ended: %s", a.Log())
		}
		s, err := a.status()
		if err == nil && !s.Coordinator.Connected {
			err = fmt.Errorf("not connected: %s", s.Coordinator.Error)
		}
		return err
	})
}

// Status is the part of `agent status --json` that the lab looks at.
type Status struct {
	Coordinator struct {
		Connected bool    `json:"connected"`
		Transport string  `json:"transport"`
		RTT       float64 `json:"rtt_ms"`
		Error     string  `json:"error"`
	} `json:"coordinator"`
	Peers []Peer `json:"peers"`
	Punch struct {
		PerAttempt int    `json:"per_attempt"`
		Sent       uint64 `json:"sent"`
		Spraying   bool   `json:"spraying"`
	} `json:"punch"`
	Counters map[string]uint64 `json:"counters"`
	FastPath struct {
		Flows int    `json:"flows"`
		Error string `json:"error"`
	} `json:"fastpath"`
}

// Peer is a peer in a Status.
type Peer struct {
	Name       string    `json:"name"`
	Path       string    `json:"path"`
	Remote     string    `json:"remote"`
	RTT        float64   `json:"rtt_ms"`
	Loss       float64   `json:"loss"`
	ServiceMTU int       `json:"service_mtu"`
	Since      time.Time `json:"since"` // of the path
}

// Status asks the daemon for its status.
func (a *Agent) Status() Status {
	a.t.Helper()
	s, err := a.status()
	if err != nil {
		a.t.Fatalf("%v", err)
	}
	return s
}

func (a *Agent) status() (Status, error) {
	var s Status
	out, err := a.Try("status", "--json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("read the status of %s: %w: %s", a.Name, err, out)
	}
	return s, nil
}

// Peer is what the agent says of a peer.
func (a *Agent) Peer(name string) (Peer, error) {
	s, err := a.status()
	if err != nil {
		return Peer{}, err
	}
	for _, p := range s.Peers {
		if p.Name == name {
			return p, nil
		}
	}
	return Peer{}, errors.New(a.Name + " has no peer " + name)
}

// WaitPath waits until the best path to a peer is of a kind.
func (a *Agent) WaitPath(peer, kind string, limit time.Duration) {
	a.t.Helper()
	netns.Eventually(a.t, limit, fmt.Sprintf("%s's path to %s to be %s", a.Name, peer, kind), func() error {
		p, err := a.Peer(peer)
		if err == nil && p.Path != kind {
			err = fmt.Errorf("it is %q", p.Path)
		}
		return err
	})
}

// WaitFastPath waits until the kernel forwards so many raw flows for the agent.
func (a *Agent) WaitFastPath(flows int, limit time.Duration) {
	a.t.Helper()
	netns.Eventually(a.t, limit, fmt.Sprintf("%s's kernel to forward %d flows", a.Name, flows), func() error {
		s, err := a.status()
		if err == nil && s.FastPath.Flows != flows {
			err = fmt.Errorf("it forwards %d (%s)", s.FastPath.Flows, s.FastPath.Error)
		}
		return err
	})
}

// Attempt is a line of `agent explain --json`.
type Attempt struct {
	Path     string `json:"path"`
	Result   string `json:"result"`
	Reason   string `json:"reason"`
	Evidence string `json:"evidence"`
	Side     string `json:"side"`
}

// Explain is what the agent says was tried to reach a peer.
func (a *Agent) Explain(peer string) []Attempt {
	a.t.Helper()
	var e struct {
		Attempts []Attempt `json:"attempts"`
	}
	if err := json.Unmarshal([]byte(a.Do("explain", peer, "--json")), &e); err != nil {
		a.t.Fatalf("read what %s explains of %s: %v", a.Name, peer, err)
	}
	return e.Attempts
}
