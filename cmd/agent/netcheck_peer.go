package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
)

const (
	measureWithin = 3 * time.Second  // for a peer that there is a session with
	punchWithin   = 15 * time.Second // for one asked for: a spray takes 12 s
	punchLook     = 250 * time.Millisecond
	maxMeasured   = 8
)

// pinged is what measuring needs of a running agent.
type pinged interface {
	Status(ctx context.Context) (agent.Status, error)
	Ping(ctx context.Context, peer string) (agent.PingLine, error)
}

// measure tests the paths that there are with peers, and makes one with the
// peer asked for, if any: servers can only tell how a NAT treats them, and what
// counts is what passes between peers. Where no agent runs, nothing is measured.
func measure(ctx context.Context, c pinged, peer string) []agent.PingLine {
	if peer != "" {
		return []agent.PingLine{measurePeer(ctx, c, peer)}
	}
	status, err := c.Status(ctx)
	if err != nil {
		return nil
	}
	var with []string
	for _, p := range status.Peers {
		if p.Path != "" && len(with) < maxMeasured {
			with = append(with, p.Name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, measureWithin)
	defer cancel()
	lines := make([]agent.PingLine, len(with))
	var wait sync.WaitGroup
	for i, name := range with {
		wait.Go(func() { lines[i] = pingOnce(ctx, c, name) })
	}
	wait.Wait()
	return lines
}

// measurePeer pings until the path is direct, or the attempts had their time.
func measurePeer(ctx context.Context, c pinged, peer string) agent.PingLine {
	ctx, cancel := context.WithTimeout(ctx, punchWithin)
	defer cancel()
	for {
		line := pingOnce(ctx, c, peer)
		if strings.HasPrefix(line.Path, "direct") || line.Error != "" {
			return line
		}
		if !path.Wait(ctx, punchLook) {
			return line
		}
	}
}

func pingOnce(ctx context.Context, c pinged, peer string) agent.PingLine {
	line, err := c.Ping(ctx, peer)
	if line.Peer = peer; err != nil {
		line.Error = err.Error()
	}
	return line
}

// measuredText is what came of a test, in a line.
func measuredText(l agent.PingLine) string {
	if l.Error != "" {
		return ops.Plain(l.Error)
	}
	text := fmt.Sprintf("%s to %s, %.1f ms", l.Path, l.Remote, l.RTT)
	if !strings.HasPrefix(l.Path, "direct") {
		text += "; `agent explain " + l.Peer + "` says why it is not direct"
	}
	return text
}

// unreached says why the peer that a test was asked for is not reached, nil where
// it is or none was asked for.
func unreached(peer string, lines []agent.PingLine) error {
	i := slices.IndexFunc(lines, func(l agent.PingLine) bool { return l.Peer == peer && l.Error != "" })
	if i >= 0 {
		return ops.Failed("peer %q is not reached: %s", lines[i].Peer, lines[i].Error)
	}
	return nil
}
