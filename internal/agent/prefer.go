package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// maxPreferred bounds the ports that the settings prefer: each is a socket and
// an attempt at every dial.
const maxPreferred = 8

// How the ports that the settings prefer are compared: by a few seconds of STUN
// requests, all ports by turns, so that each meets the same network. The answers
// of our coordinator are no larger than the requests, so it never limits them.
const (
	trialTrain  = 40
	trialPace   = 25 * time.Millisecond
	trialAnswer = time.Second // besides some round trips
	trialEvery  = time.Hour
)

// A port is better than one that the settings name before it when it loses less
// by this much, or is quicker by both of these without losing more: what is less
// is chance.
const (
	lessLoss    = 0.05
	quickerPart = 0.8
	quickerTime = 5 * time.Millisecond
)

// trial is what was measured of a port.
type trial struct {
	port      uint16
	sent, got int
	median    time.Duration // of the round trips
}

func (t trial) loss() float64 { return 1 - float64(t.got)/float64(max(t.sent, 1)) }

func (t trial) String() string {
	return fmt.Sprintf("%d: %d of %d answered, %.1f ms", t.port, t.got, t.sent, t.median.Seconds()*1e3)
}

// better says whether t is better than an earlier one for certain.
func (t trial) better(o trial) bool {
	less := o.loss() - t.loss()
	quicker := t.median <= time.Duration(quickerPart*float64(o.median)) && t.median+quickerTime <= o.median
	return t.got > 0 && (o.got == 0 || less >= lessLoss || quicker && less > -lessLoss)
}

// bestPort is the first in order, unless another is better; the zero trial where
// none was answered.
func bestPort(trials []trial) (out trial) {
	for _, t := range trials {
		if t.better(out) {
			out = t
		}
	}
	return out
}

// prefer finds out which port relay legs had better go to, now and from time to
// time, until ctx ends: some providers favour those of telephony, others hold
// back those that they don't know.
func (l *link) prefer(ctx context.Context, d *reached) {
	for len(l.a.cfg.Ports) > 0 && d.how.over == proto.Transport_TRANSPORT_UDP {
		ports := slices.Clone(l.a.cfg.Ports)
		if own := d.Addr.Port(); !slices.Contains(ports, own) {
			ports = append(ports, own)
		}
		trials := l.a.tryPorts(ctx, d.Addr.Addr(), ports, trialAnswer+3*d.RTT())
		if ctx.Err() != nil {
			return
		}
		l.took(trials)
		if !path.Wait(ctx, trialEvery) {
			return
		}
	}
}

// took notes what trials found.
func (l *link) took(trials []trial) {
	chosen := bestPort(trials)
	l.mu.Lock()
	news := l.reach.preferred != chosen.port
	l.reach.preferred, l.reach.trials = chosen.port, trials
	l.mu.Unlock()
	if !news || chosen.port == 0 {
		return
	}
	words := make([]string, 0, len(trials))
	for _, t := range trials {
		words = append(words, t.String())
	}
	l.a.cfg.Log.Info().Uint16("port", chosen.port).Str("measured", strings.Join(words, "; ")).Msg("relay legs over UDP go to the port that was measured to be best")
}

// tryPorts measures ports of the coordinator side by side, each from a socket of
// its own.
func (a *Agent) tryPorts(ctx context.Context, to netip.Addr, ports []uint16, within time.Duration) []trial {
	trials := make([]trial, len(ports))
	var wait sync.WaitGroup
	for i, port := range ports {
		wait.Go(func() { trials[i] = a.tryPort(ctx, netip.AddrPortFrom(to.Unmap(), port), within) })
	}
	wait.Wait()
	return trials
}

func (a *Agent) tryPort(ctx context.Context, server netip.AddrPort, within time.Duration) trial {
	t := trial{port: server.Port()}
	conn, err := a.cfg.Host.Net.ListenUDP(netip.AddrPortFrom(dgram.Any(server.Addr()), 0))
	if err != nil {
		return t
	}
	e := newEndpoint(conn, path.DirectUDP, a.board)
	a.tasks.start(func(context.Context) { e.read() })
	defer e.close()
	var mu sync.Mutex
	var trips []time.Duration
	var wait sync.WaitGroup
	for range trialTrain {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			if r, err := e.stun.Bind(ctx, server); err == nil {
				mu.Lock()
				trips = append(trips, r.RTT)
				mu.Unlock()
			}
		})
		if !path.Wait(ctx, trialPace) {
			break
		}
	}
	wait.Wait()
	stats := e.stun.Stats() // a lost request was sent again, and both count
	t.sent, t.got = int(stats.Sent), int(stats.Answered)
	if slices.Sort(trips); len(trips) > 0 {
		t.median = trips[len(trips)/2]
	}
	return t
}
