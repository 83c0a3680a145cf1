package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ops"
	"rendezvous/internal/tun"
)

// run makes the device and carries until ctx ends.
func (f *tunFlags) run(ctx context.Context, t *terminal, s tun.Settings) error {
	log, err := ops.NewLog(os.Stderr, "")
	if err != nil {
		return err
	}
	if f.plain() {
		return f.runPlain(ctx, t, log, s)
	}
	return f.runSession(ctx, t, log, s)
}

// UDP's header is what a packet grows by: its own IP header goes.
const udpSize = 8

// runPlain carries without an agent.
func (f *tunFlags) runPlain(ctx context.Context, t *terminal, log zerolog.Logger, s tun.Settings) error {
	outer, err := tun.InterfaceMTU(f.bindTo)
	if err != nil {
		return err
	}
	if s.MTU == 0 {
		s.MTU = outer - udpSize
	}
	device, err := openTun(log, s)
	if err != nil {
		return err
	}
	conns, err := f.listen(log, device)
	if err != nil {
		return errors.Join(err, device.Close())
	}
	var peers tun.Peers
	if f.endpointPort != 0 {
		peers = tun.NewFixed(f.endpointPort, conns...)
		warnFilter(log, f.bindTo)
	} else {
		peers = tun.NewClients(familySpan(s.Spans, false), familySpan(s.Spans, true))
	}
	r := &tunRun{log: log, device: device, link: tun.NewLink(tun.Config{Device: device, Own: device.Own(), Conns: conns, Peers: peers, Now: time.Now}, s.MTU)}
	fmt.Fprintf(t.out, "%s is up: %s, UDP port %d by %s, nobody is authenticated\n", device.Name(), words(device.Own()), f.listenPort, f.bindTo)
	return r.run(ctx, func(ctx context.Context) error {
		if f.mtu == 0 {
			r.followInterface(ctx, f.bindTo, outer)
		}
		return nil
	})
}

// listen opens the port in each family that the device has.
func (f *tunFlags) listen(log zerolog.Logger, device *tun.Device) (conns []dgram.Conn, err error) {
	opts := dgram.DefaultOptions()
	opts.Device = f.bindTo
	network := dgram.System(opts)
	for _, own := range device.Own() {
		all := netip.IPv4Unspecified()
		if own.Is6() {
			all = netip.IPv6Unspecified()
		}
		conn, err := network.ListenUDP(netip.AddrPortFrom(all, f.listenPort))
		switch {
		case err == nil:
			conns = append(conns, conn)
		case own.Is6() && len(conns) > 0:
			log.Warn().Err(err).Msg("nothing crosses over IPv6")
		default:
			return nil, fmt.Errorf("%w; is the port free, and may this user bind to an interface?", err)
		}
	}
	return conns, nil
}

// warnFilter tells of a setting of the kernel's by which what comes from an
// address that is led to the device is dropped on the interface it comes by.
func warnFilter(log zerolog.Logger, name string) {
	strict := 0
	for _, of := range []string{"all", name} {
		if b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + of + "/rp_filter"); err == nil && strings.TrimSpace(string(b)) == "1" {
			strict++
		}
	}
	if strict > 0 {
		log.Warn().Str("mend", "sysctl -w net.ipv4.conf."+name+".rp_filter=2").
			Msg("the kernel drops by reverse path what comes from addresses that --route leads to the device")
	}
}

// openTun makes the device, and says what the host kept from it.
func openTun(log zerolog.Logger, s tun.Settings) (*tun.Device, error) {
	device, err := tun.Open(s)
	if err != nil {
		return nil, err
	}
	if why := device.NoIPv6(); why != nil {
		log.Info().Err(why).Msg("no IPv6 inside")
	}
	if len(device.Own()) == 0 {
		return nil, errors.Join(fmt.Errorf("%s has no address; name a range with --addresses", s.Name), device.Close())
	}
	return device, nil
}

func familySpan(spans []tun.Span, six bool) tun.Span {
	for _, s := range spans {
		if s.Own().Addr().Is6() == six {
			return s
		}
	}
	return tun.Span{}
}

func words(addrs []netip.Addr) string {
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = a.String()
	}
	return strings.Join(list, " and ")
}

// tunRun is a link that runs.
type tunRun struct {
	log    zerolog.Logger
	device *tun.Device
	link   *tun.Link
}

// tellEvery is how often what was dropped since the last time is told.
const tellEvery = time.Minute

// run carries until ctx ends or something fails; beside runs with it.
func (r *tunRun) run(ctx context.Context, beside func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.link.Run(ctx) })
	group.Go(func() error { return beside(ctx) })
	group.Go(func() error { return r.tell(ctx) })
	if err := ops.Ready(r.device.Name()); err != nil {
		r.log.Warn().Err(err).Msg("up")
	}
	err := group.Wait()
	r.log.Info().Interface("carried", r.link.Stats()).Msg("stopped")
	return err
}

// tell logs what was dropped.
func (r *tunRun) tell(ctx context.Context) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	told := map[string]uint64{}
	for {
		select {
		case <-ctx.Done():
			return ops.Stopping("leaving")
		case <-tick.C:
		}
		now := r.link.Stats().Dropped
		since := map[string]uint64{}
		for why, n := range now {
			if n > told[why] {
				since[why] = n - told[why]
			}
		}
		if told = now; len(since) > 0 {
			r.log.Info().Interface("dropped", since).Msg("dropped in the last minute")
		}
	}
}

// setMTU lets packets of this length cross.
func (r *tunRun) setMTU(mtu int) {
	if err := r.device.SetMTU(mtu); err != nil {
		r.log.Warn().Err(err).Msg("what is longer is answered by ICMP")
	}
	r.link.SetMTU(mtu)
}

// followInterface looks every few seconds whether the interface's MTU has
// changed.
func (r *tunRun) followInterface(ctx context.Context, name string, have int) {
	const every = 5 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// One that is away for a while comes back, by that name.
		if mtu, err := tun.InterfaceMTU(name); err == nil && mtu != have {
			have = mtu
			r.setMTU(mtu - udpSize)
			r.log.Info().Str("interface", name).Int("mtu", mtu-udpSize).Msg("the interface's MTU has changed")
		}
	}
}
