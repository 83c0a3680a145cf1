package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/tun"
)

// defaultRoom is the largest datagram that most direct paths take whole, in
// bytes: 1472 of UDP over IPv4, less the seal. Until the session has measured
// its own it is taken for that: what is larger is split, never lost.
const defaultRoom = 1452

// tunHeader is what a segment gets back on the device: IPv4's header.
const tunHeader = 20

// runSession carries over the running agent.
func (f *tunFlags) runSession(ctx context.Context, t *terminal, log zerolog.Logger, s tun.Settings) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if s.MTU == 0 {
		s.MTU = defaultRoom + tunHeader
	}
	device, err := openTun(log, s)
	if err != nil {
		return err
	}
	k := &upkeep{client: client, log: log, size: tunSize{mtu: s.MTU}, fixed: f.mtu != 0}
	var config tun.Config
	greet := func(context.Context) {}
	if f.peer != "" {
		var home *tun.Home
		if config, home, err = k.dial(f, device, s); err == nil {
			greet = home.Greet
			_, there := tunPeers(device, s)
			fmt.Fprintf(t.out, "%s is at %s, on %s\n", k.peer, words(there), device.Name())
		}
	} else if config, err = k.expose(f, device, s, status); err == nil {
		fmt.Fprintf(t.out, "peers reach this host's TCP by `agent tun --peer %s`; they come to %s, on %s\n",
			strings.TrimSuffix(status.Name+"/"+f.expose, "/"+tunService), words(device.Own()), device.Name())
	}
	if err == nil {
		err = k.ensure(ctx, status)
	}
	if err != nil {
		for _, c := range config.Conns {
			err = errors.Join(err, c.Close())
		}
		return errors.Join(err, device.Close())
	}
	r := &tunRun{log: log, device: device, link: tun.NewLink(config, s.MTU)}
	return r.run(ctx, func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { greet(ctx); return nil })
		group.Go(func() error { k.keep(ctx, r.setMTU); return nil })
		return group.Wait()
	})
}

// tunPeers are the device's own addresses of the spans, and those that stand
// for the one peer.
func tunPeers(device *tun.Device, s tun.Settings) (own, there []netip.Addr) {
	for _, o := range device.Own() {
		own = append(own, o)
		there = append(there, familySpan(s.Spans, o.Is6()).Peer(0))
	}
	return own, there
}

// upkeep keeps the agent at it: it dials or exposes for us, also when it was
// started again.
type upkeep struct {
	client *agent.Client
	log    zerolog.Logger
	size   tunSize
	fixed  bool // the MTU is the user's

	peer  string // that is dialed; "": we expose
	want  func(agent.Status) bool
	begin func(context.Context) error
	end   func(context.Context) error
	lost  bool // the agent did not answer the last time
}

// loopback is a socket before the agent.
func loopback(port uint16) (dgram.Conn, error) {
	return dgram.System(dgram.DefaultOptions()).ListenUDP(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
}

// dial prepares to reach a peer.
func (k *upkeep) dial(f *tunFlags, device *tun.Device, s tun.Settings) (tun.Config, *tun.Home, error) {
	peer, service, err := agent.ParseTarget(f.peer)
	if err != nil {
		return tun.Config{}, nil, err
	}
	free, err := loopback(0) // the agent takes its port after us
	if err != nil {
		return tun.Config{}, nil, err
	}
	at := free.LocalAddr()
	if err := free.Close(); err != nil {
		return tun.Config{}, nil, err
	}
	own, there := tunPeers(device, s)
	c := tun.Config{Device: device, Own: own, Now: time.Now}
	conns := map[netip.Addr]dgram.Conn{}
	for _, a := range there {
		conn, err := loopback(0)
		if err != nil {
			return c, nil, err
		}
		c.Conns = append(c.Conns, conn)
		conns[a] = conn
	}
	home := tun.NewHome(conns)
	home.Reach(at)
	c.Peers = home
	k.call(agent.Dial{Peer: peer, Service: service, Host: at.Addr().String(), Port: at.Port()})
	return c, home, nil
}

// expose prepares to be reached.
func (k *upkeep) expose(f *tunFlags, device *tun.Device, s tun.Settings, status agent.Status) (tun.Config, error) {
	if err := checkFree(f.expose, status); err != nil {
		return tun.Config{}, err
	}
	conn, err := loopback(0)
	if err != nil {
		return tun.Config{}, err
	}
	at := conn.LocalAddr()
	service := agent.Service{Name: f.expose, Target: forward.Target{Scheme: "udp", Host: at.Addr().String(), Port: at.Port(), Raw: f.raw, Alias: true}}
	guests := tun.NewGuests(familySpan(s.Spans, false), familySpan(s.Spans, true), func(inside netip.Addr, way netip.AddrPort) {
		k.log.Info().Stringer("address", inside).Stringer("flow", way).Msg("a peer's process has come")
	})
	k.offer(service)
	return tun.Config{Device: device, Own: device.Own(), Conns: []dgram.Conn{conn}, Peers: guests, Now: time.Now}, nil
}

// call has the agent dial.
func (k *upkeep) call(d agent.Dial) {
	k.peer = d.Peer
	k.want = func(s agent.Status) bool {
		return slices.ContainsFunc(s.Dials, func(have agent.DialStatus) bool {
			return have.Peer == d.Peer && have.Service == d.Service && have.Listen == d.URL()
		})
	}
	k.begin = func(ctx context.Context) error { return k.client.Dial(ctx, d) }
	k.end = func(ctx context.Context) error { return k.client.Hangup(ctx, d.Peer, d.Service, d.URL()) }
}

// offer has the agent expose a service.
func (k *upkeep) offer(service agent.Service) {
	k.want = func(s agent.Status) bool {
		return slices.ContainsFunc(s.Services, func(have agent.ServiceStatus) bool {
			return have.Name == service.Name && have.URL == service.URL()
		})
	}
	k.begin = func(ctx context.Context) error { return k.client.Expose(ctx, service) }
	k.end = func(ctx context.Context) error { return k.client.Unexpose(ctx, service.Name) }
}

// checkFree refuses to take a service's name from a program that lives. One
// that was killed has left its service and no socket behind it.
func checkFree(name string, status agent.Status) error {
	for _, have := range status.Services {
		if have.Name != name {
			continue
		}
		if u, err := url.Parse(have.URL); err == nil {
			if at, err := netip.ParseAddrPort(u.Host); err == nil && at.Addr().IsLoopback() {
				if conn, err := loopback(at.Port()); err == nil {
					return conn.Close()
				}
			}
		}
		return fmt.Errorf("the agent offers %s as %s already; end that, or choose another name: --expose=NAME", have.URL, name)
	}
	return nil
}

const (
	upkeepEvery = 2 * time.Second
	upkeepEnd   = 2 * time.Second // how long the agent may take to forget us
)

// ensure has the agent do our part.
func (k *upkeep) ensure(ctx context.Context, status agent.Status) error {
	if k.want(status) {
		return nil
	}
	return k.begin(ctx)
}

// keep looks after the agent until ctx ends, and then takes our part back.
func (k *upkeep) keep(ctx context.Context, setMTU func(int)) {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), upkeepEnd)
			defer cancel()
			if err := k.end(late); err != nil {
				k.log.Warn().Err(err).Msg("the agent goes on without us")
			}
			return
		case now := <-tick.C:
			k.look(ctx, now, setMTU)
		}
	}
}

// look asks the agent once.
func (k *upkeep) look(ctx context.Context, now time.Time, setMTU func(int)) {
	status, err := k.client.Status(ctx)
	if err == nil {
		err = k.ensure(ctx, status)
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil && !k.lost:
		k.log.Warn().Err(err).Msg("nothing crosses until the agent is back")
	case err == nil && k.lost:
		k.log.Info().Msg("the agent is back")
	}
	k.lost = err != nil
	if mtu, changed := k.size.see(now, k.room(status)); changed && !k.fixed {
		k.log.Info().Int("mtu", mtu).Msg("what crosses whole has changed")
		setMTU(mtu)
	}
}

// room is the largest datagram that crosses whole, in bytes: to the peer that is
// dialed, or to all who have a path here. 0: not known.
func (k *upkeep) room(status agent.Status) int {
	least := 0
	for _, p := range status.Peers {
		if p.ServiceMTU > 0 && p.Path != "" && (k.peer == "" || p.Name == k.peer) && (least == 0 || p.ServiceMTU < least) {
			least = p.ServiceMTU
		}
	}
	return least
}

// tunSize follows the size that crosses whole: up at once, down only after a
// while, since a new path takes little until it is measured, and a connection
// keeps for its life the size that it began with.
type tunSize struct {
	mtu   int // of the device, in bytes
	below time.Time
}

const lowerAfter = 10 * time.Second

// see takes what crosses now, 0 where that is not known, and gives the MTU.
func (s *tunSize) see(now time.Time, room int) (mtu int, changed bool) {
	want := max(room+tunHeader, leastMTU)
	switch {
	case room == 0 || want == s.mtu:
		s.below = time.Time{}
		return s.mtu, false
	case want < s.mtu && s.below.IsZero():
		s.below = now
		return s.mtu, false
	case want < s.mtu && now.Sub(s.below) < lowerAfter:
		return s.mtu, false
	}
	s.mtu, s.below = want, time.Time{}
	return s.mtu, true
}
