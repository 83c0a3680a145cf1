//go:build linux

package programs

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
)

// Throng is thousands of agents' control connections in one process.
type Throng struct {
	*netns.Process
	t     netns.T
	host  *netns.Host
	state string
}

// EnrolThrong makes members number 0 to n-1 in a registry that nobody has open,
// and gives the pin of its coordinator.
func EnrolThrong(t netns.T, h *netns.Host, state string, n int) (pin string) {
	t.Helper()
	return strings.TrimSpace(h.Run("throng", "enrol", "-state", state, "-n", fmt.Sprint(n)))
}

// StartThrong begins a process that has no agents yet. They come from addresses
// of a prefix that must all be the host's.
func StartThrong(t netns.T, h *netns.Host, dir, to, pin, sources string) *Throng {
	t.Helper()
	g := &Throng{t: t, host: h, state: filepath.Join(dir, "throng")}
	g.Process = h.Start("throng", "run", "-state", g.state, "-to", to, "-pin", pin, "-sources", sources)
	netns.Eventually(t, ready, "the throng", func() error {
		_, err := h.Try("throng", "ask", "-state", g.state, "/tally", "{}")
		return err
	})
	return g
}

// Ask gives an order of package orders and waits for its answer.
func (g *Throng) Ask(limit time.Duration, path string, order, answer any) {
	g.t.Helper()
	text, err := json.Marshal(order)
	if err != nil {
		g.t.Fatalf("%v", err)
	}
	asking := g.host.Start("throng", "ask", "-state", g.state, path, string(text))
	if code := asking.Wait(limit); code != 0 {
		g.t.Fatalf("ask the throng for %s: %s", path, asking.Log())
	}
	if err := json.Unmarshal([]byte(asking.Log()), answer); err != nil {
		g.t.Fatalf("read what the throng says of %s: %v: %.200s", path, err, asking.Log())
	}
}
