//go:build linux

package main

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/rendezvous"
	"rendezvous/proto"
)

// What agents do of themselves: as those in internal/agent.
const (
	dialWithin  = 5 * time.Second
	callWithin  = 5 * time.Second
	redialFirst = 200 * time.Millisecond
	redialMost  = 3 * time.Second
	standing    = 500 // bytes of an agent's sealed candidates
	opening     = 700 // bytes of an introduction's sealed handshake
)

// agent is one of the throng.
type agent struct {
	member
	throng *throng
	dialer *rendezvous.Dialer
	online atomic.Int64 // when it registered last, in Unix nanoseconds; 0: it is not

	mu     sync.Mutex
	client *rendezvous.Client
}

// live keeps the agent connected until ctx ends.
func (a *agent) live(ctx context.Context) {
	wait := redialFirst
	for ctx.Err() == nil {
		began := time.Now()
		a.once(ctx)
		a.online.Store(0)
		if time.Since(began) > 2*redialMost {
			wait = redialFirst
		}
		pause := time.NewTimer(wait/2 + mathrand.N(wait/2+1))
		wait = min(2*wait, redialMost)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// once dials, registers, and stays until the connection is lost.
func (a *agent) once(ctx context.Context) {
	c := a.connect(ctx)
	if c == nil {
		return
	}
	defer func() { _ = c.Close() }()
	a.setClient(c)
	defer a.setClient(nil)
	a.online.Store(time.Now().UnixNano())
	a.throng.registrations.Add(1)
	for {
		select {
		case m, ok := <-c.Events():
			if !ok {
				a.throng.fail("lost", c.Err())
				return
			}
			a.event(c, m)
		case <-ctx.Done():
			return
		}
	}
}

// dialsAtOnce is how many of the throng dial and register at once. Each real agent
// has a processor of its own for that; with more, those here would wait for the
// few that there are until their time is over. Who waits for its turn is late.
const dialsAtOnce = 256

// connect dials and registers; nil where that fails.
func (a *agent) connect(ctx context.Context) *rendezvous.Client {
	select {
	case a.throng.dialing <- struct{}{}:
		defer func() { <-a.throng.dialing }()
	case <-ctx.Done():
		return nil
	}
	dctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	c, err := a.dialer.Dial(dctx, a.throng.to, a.throng.pin, a.cert)
	if err != nil {
		a.throng.fail("dial", err)
		return nil
	}
	if err := a.register(ctx, c); err != nil {
		a.throng.fail("register", err)
		_ = c.Close()
		return nil
	}
	return c
}

func (a *agent) setClient(c *rendezvous.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.client = c
}

func (a *agent) register(ctx context.Context, c *rendezvous.Client) error {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	record, err := a.record()
	if err != nil {
		return err
	}
	_, err = c.Call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Register{Register: &proto.Register{
		Instance: uint64(a.number) + 1, Version: "throng", Record: record,
	}}})
	if err != nil {
		return err
	}
	return c.Send(&proto.ToCoordinator{Body: &proto.ToCoordinator_Standing{Standing: &proto.Standing{Sealed: noise(standing)}}})
}

// event answers what the coordinator tells.
func (a *agent) event(c *rendezvous.Client, m *proto.ToAgent) {
	if o := m.GetOffer(); o != nil {
		_ = c.Send(&proto.ToCoordinator{Body: &proto.ToCoordinator_Reply{Reply: &proto.Reply{
			Introduction: o.GetIntroduction(), Body: noise(opening),
		}}})
	}
	if answer := m.GetAnswer(); answer != nil {
		a.throng.answered(answer)
	}
}

// introduce asks for an introduction to another agent, and gives its number.
func (a *agent) introduce(ctx context.Context, to *agent, relay bool) (uint64, error) {
	a.mu.Lock()
	c := a.client
	a.mu.Unlock()
	if c == nil {
		return 0, errOffline
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	m, err := c.Call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Introduce{Introduce: &proto.Introduce{
		To: to.name, ToKey: to.id.Key(), Body: noise(opening), WantRelay: relay,
	}}})
	return m.GetIntroduced().GetIntroduction(), err
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
