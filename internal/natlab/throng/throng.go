//go:build linux

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/natlab/throng/orders"
	"rendezvous/internal/ops"
	"rendezvous/proto"
)

var errOffline = errors.New("the agent is offline")

// throng is all agents of this process.
type throng struct {
	to      netip.AddrPort
	pin     [32]byte
	first   int
	ctx     context.Context
	tasks   sync.WaitGroup
	sockets *sockets

	registrations atomic.Int64
	dialing       chan struct{} // holds who dials

	mu       sync.Mutex
	agents   []*agent
	failures map[string]int
	asked    map[uint64]chan<- time.Time // by the introduction's number
	early    map[uint64]time.Time        // answers that overtook what tells the number
}

func serve(ctx context.Context, o options) error {
	t := &throng{to: o.to, first: o.first, ctx: ctx, sockets: newSockets(o.sources, o.each), dialing: make(chan struct{}, dialsAtOnce), failures: map[string]int{},
		asked: map[uint64]chan<- time.Time{}, early: map[uint64]time.Time{}}
	pin, err := hex.DecodeString(o.pin)
	if err != nil || copy(t.pin[:], pin) != len(t.pin) {
		return fmt.Errorf("-pin %q is not 32 bytes in hexadecimal", o.pin)
	}
	mux := http.NewServeMux()
	ops.Handle(mux, orders.PathGrow, t.grow)
	ops.Handle(mux, orders.PathTally, t.tally)
	ops.Handle(mux, orders.PathIntroduce, t.introduce)
	if err := ops.MakeState(o.state); err != nil {
		return err
	}
	err = ops.Serve(ctx, o.state, mux)
	t.tasks.Wait()
	return errors.Join(err, t.sockets.close())
}

// grow adds agents at a steady pace and waits until all have registered.
func (t *throng) grow(ctx context.Context, order orders.Grow) (orders.Grown, error) {
	began := time.Now()
	pace := time.NewTicker(time.Duration(float64(time.Second) / order.Rate))
	defer pace.Stop()
	for {
		t.mu.Lock()
		have := len(t.agents)
		t.mu.Unlock()
		if have >= order.Agents {
			break
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return orders.Grown{}, ctx.Err()
		}
		if err := t.add(t.first + have); err != nil {
			return orders.Grown{}, err
		}
	}
	for t.online() < order.Agents {
		if err := ctx.Err(); err != nil {
			return orders.Grown{}, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return orders.Grown{Seconds: time.Since(began).Seconds()}, nil
}

func (t *throng) add(number int) error {
	m, err := newMember(number)
	if err != nil {
		return err
	}
	d, err := t.sockets.dialer()
	if err != nil {
		return err
	}
	a := &agent{member: m, throng: t, dialer: d}
	t.mu.Lock()
	t.agents = append(t.agents, a)
	t.mu.Unlock()
	t.tasks.Go(func() { a.live(t.ctx) })
	return nil
}

func (t *throng) all() []*agent {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.agents)
}

func (t *throng) online() (n int) {
	for _, a := range t.all() {
		if a.online.Load() != 0 {
			n++
		}
	}
	return n
}

// fail counts what went wrong, by what and why.
func (t *throng) fail(what string, err error) {
	if t.ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	const kinds = 64 // texts may hold addresses
	why := fmt.Sprintf("%s: %v", what, err)
	if _, ok := t.failures[why]; !ok && len(t.failures) >= kinds {
		why = what + ": other reasons"
	}
	t.failures[why]++
}

// tally says who is online, and when those came who have since a time.
func (t *throng) tally(_ context.Context, order orders.Tally) (orders.Tallied, error) {
	out := orders.Tallied{Registrations: t.registrations.Load(), Failures: map[string]int{}}
	for _, a := range t.all() {
		at := a.online.Load()
		if at == 0 {
			continue
		}
		out.Online++
		if at > order.SinceUnixNano {
			out.Came = append(out.Came, time.Duration(at-order.SinceUnixNano).Seconds())
		}
	}
	slices.Sort(out.Came)
	t.mu.Lock()
	defer t.mu.Unlock()
	for why, n := range t.failures {
		out.Failures[why] = n
	}
	clear(t.failures)
	return out, nil
}

// answered notes when an introduction was answered.
func (t *throng) answered(answer *proto.Answer) {
	now := time.Now()
	if why := answer.GetDeclined(); why != "" {
		t.fail("introduce", errors.New(why))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	number := answer.GetIntroduction()
	if to, ok := t.asked[number]; ok {
		delete(t.asked, number)
		to <- now // it has room
		return
	}
	t.early[number] = now
}
