package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rendezvous/internal/agent"
	"rendezvous/internal/ops"
)

// pingEvery is ping(8)'s.
const pingEvery = time.Second

func newPing(t *terminal) *cobra.Command {
	var count int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "Probe the path to a peer: its kind, the remote address, the round trip",
		Long: `Probe the best path to a peer, once a second until Ctrl-C or -c answers, one line
each. Where there is no session with the peer yet, one is made.`,
		Example: "  agent ping home -c 3\n  agent ping home --json -c 1",
		Args:    ops.Takes("PEER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := agent.CheckName("peer", args[0]); err != nil {
				return usage(err)
			}
			if count < 0 {
				return ops.Usage("-c is %d; give 0 for no end, or more", count)
			}
			c, err := t.client()
			if err != nil {
				return err
			}
			p := pinger{client: c, peer: args[0], out: t.out, json: asJSON}
			if err := p.run(cmd.Context(), count); err != nil {
				return err
			}
			return p.end()
		},
	}
	cmd.Flags().IntVarP(&count, "count", "c", 0, "how many `times`; 0 is until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

// pinger sends pings one after the other and remembers what came of them.
type pinger struct {
	client interface {
		Ping(ctx context.Context, peer string) (agent.PingLine, error)
	}
	peer string
	out  io.Writer
	json bool
	sent int
	rtts []float64
}

func (p *pinger) run(ctx context.Context, count int) error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		line, err := p.client.Ping(ctx, p.peer)
		if ctx.Err() != nil {
			return nil // Ctrl-C is how a ping without count ends
		}
		if err != nil {
			return err
		}
		if err := p.show(line); err != nil {
			return err
		}
		if p.sent == count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (p *pinger) show(line agent.PingLine) error {
	p.sent++
	if line.Error == "" {
		p.rtts = append(p.rtts, line.RTT)
	}
	if p.json {
		return writeJSON(p.out, line)
	}
	if line.Error != "" {
		_, err := fmt.Fprintf(p.out, "%s: %s\n", line.Peer, line.Error)
		return err
	}
	_, err := fmt.Fprintf(p.out, "%s: %s %s %s\n", line.Peer, line.Path, line.Remote, millis(line.RTT))
	return err
}

// end prints what people want to know after several pings. None answered is a
// failure, so that scripts may wait for a peer.
func (p *pinger) end() error {
	if len(p.rtts) == 0 {
		return ops.Failed("ping %s: none of %d was answered", p.peer, p.sent)
	}
	if p.json || p.sent == 1 {
		return nil
	}
	slices.Sort(p.rtts)
	n := len(p.rtts)
	median := (p.rtts[(n-1)/2] + p.rtts[n/2]) / 2
	_, err := fmt.Fprintf(p.out, "%d of %d answered; round trip %s least, %s median, %s most\n", n, p.sent,
		millis(p.rtts[0]), millis(median), millis(p.rtts[n-1]))
	return err
}
