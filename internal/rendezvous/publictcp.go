package rendezvous

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/sources"
	"rendezvous/internal/stream"
)

// publicListener is a public TCP port: each connection to it is carried to the
// agent's service over the carrier that the agent has opened to us.
type publicListener struct {
	rule   PublishRule
	source *sources.Buckets // of the rule
	conns  *stream.Conns
	count  publicCounts
	doors  []net.Listener
	ctx    context.Context // ends with the port
	cancel context.CancelCauseFunc
	tasks  *sync.WaitGroup
	doubt  func() // a client waits; it must not

	mu      sync.Mutex
	service string
	all     sources.Bucket
	open    int
	agent   bool // it is connected
	silent  bool // it does not answer
	alone   bool // somebody came while it was not there
}

var (
	errPublicClosed = errors.New("the public port was closed")
	errPublicSilent = errors.New("the agent of the public port does not answer")
)

// accept takes connections until the port is closed.
func (l *publicListener) accept(door net.Listener) {
	path.Accept(l.ctx, door, func(error) {}, func(conn net.Conn) { l.take(time.Now(), conn) })
}

// take carries a connection, or resets it.
func (l *publicListener) take(now time.Time, conn net.Conn) {
	from := dgram.AddrOf(conn.RemoteAddr())
	service, why, ok := l.admit(now, from.Addr())
	if !ok {
		l.count.drop(why, 1)
		dgram.Reset(conn)
		return
	}
	tunePublic(conn)
	l.count.started.Add(1)
	l.doubt()
	l.tasks.Go(func() {
		err := l.conns.Carry(l.ctx, conn, stream.Request{Service: service, Client: from, Listen: dgram.AddrOf(conn.LocalAddr())})
		refused := (*stream.RefusedError)(nil)
		switch {
		case err == nil:
		case errors.As(err, &refused):
			l.count.drop(publicRefused, 1)
		case errors.Is(err, errPublicSilent):
			l.count.drop(publicNoAgent, 1)
		default:
			l.count.drop(publicBroken, 1)
		}
		l.mu.Lock()
		l.open--
		l.mu.Unlock()
	})
}

// admit says whether one more connection may come, and counts it.
func (l *publicListener) admit(now time.Time, from netip.Addr) (service string, why publicReason, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.silent || !l.agent && !l.conns.Has(0):
		l.alone = true
		return "", publicNoAgent, false
	case !l.source.Take(now, from, perSecond(l.rule.NewClientsSource)):
		return "", publicSourceRate, false
	case !l.all.Take(now, perSecond(l.rule.NewClients)):
		return "", publicRate, false
	case l.open >= l.rule.MaxClients:
		return "", publicFull, false
	}
	l.open++
	return l.service, 0, true
}

// publicProbe finds out that a silent client is gone, in about 2 minutes.
var publicProbe = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// tunePublic makes a client that is gone be noticed. A connection that can't be
// told so does without.
func tunePublic(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetKeepAliveConfig(publicProbe)
		_ = c.SetNoDelay(true)
	}
}

// arrived is that of clientele.
func (l *publicListener) arrived(_ time.Time, service string, _ bool, _ publicGrant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.service, l.agent, l.silent, l.alone = service, true, false, false
}

// stands is that of clientele. What is open waits for the agent to come back;
// see vigil for what it has not taken.
func (l *publicListener) stands(is publicStanding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch is {
	case publicLeft:
		l.agent, l.alone = false, l.silent && l.alone
	case publicSilent:
		l.silent, l.alone = true, l.open > 0
	case publicSpeaks:
		l.silent, l.alone = false, false
	}
}

// shut is that of clientele.
func (l *publicListener) shut(time.Time) error {
	l.cancel(errPublicClosed)
	return closeListeners(l.doors)
}

func closeListeners(doors []net.Listener) (err error) {
	for _, each := range doors {
		err = errors.Join(err, each.Close())
	}
	return err
}

// figures are that of clientele.
func (l *publicListener) figures() publicFigures {
	l.mu.Lock()
	defer l.mu.Unlock()
	return publicFigures{clients: l.open, silent: l.silent, alone: l.alone, started: l.count.started.Load(), drops: l.count.all()}
}
