package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Dial makes a local address that leads to a peer's service (Control).
func (a *Agent) Dial(peerName, service, url string) error {
	d, err := ParseDial(peerName, service, url)
	if err != nil {
		return err
	}
	if err := a.cfg.State.PutDial(d); err != nil {
		return err
	}
	if err := a.dial(d); err != nil {
		return errors.Join(err, a.cfg.State.RemoveDial(d))
	}
	return nil
}

func (a *Agent) dial(d Dial) error {
	if d.Peer == a.cfg.State.Name() {
		return fmt.Errorf("dial %s: that is this agent itself; name another member", d)
	}
	listen, err := netip.ParseAddrPort(d.Addr())
	if err != nil {
		return fmt.Errorf("dial %s: %q is not IP:PORT: %w", d, d.Addr(), err)
	}
	p := a.peer(d.Peer)
	if d.TCP {
		err = p.tcp.listen(d.Service, listen, d.Only)
	} else {
		_, err = p.flows.Listen(d.Service, listen, d.Only)
	}
	if err != nil {
		return err
	}
	if a.link.current() != nil {
		p.meet()
	}
	return nil
}

// living is a dial, and where it listens; the zero AddrPort where it could not
// yet.
type living struct {
	asked Dial
	at    netip.AddrPort
}

// is says whether users mean it by that URL: what they asked for, or what status
// shows.
func (l living) is(d Dial) bool {
	return d.at() == l.asked.at() || d.at() == l.url()
}

// url is as status has it, without a rule.
func (l living) url() string {
	d := l.asked
	if l.at.IsValid() {
		d.Host, d.Port = l.at.Addr().String(), l.at.Port()
	}
	return d.at()
}

// Hangup closes the dial that listens at the URL; without one, the only dial of
// the service (Control).
func (a *Agent) Hangup(peerName, service, url string) error {
	all := a.dialsOf(peerName, service)
	target := peerName + "/" + service
	if len(all) == 0 {
		return fmt.Errorf("nothing dials %s; `agent status` lists what does", target)
	}
	if url != "" {
		d, err := ParseDial(peerName, service, url)
		if err != nil {
			return err
		}
		is := slices.DeleteFunc(slices.Clone(all), func(l living) bool { return !l.is(d) })
		if len(is) == 0 {
			return fmt.Errorf("%s is not dialed at %s, but at %s", target, d.at(), strings.Join(shown(all), ", "))
		}
		all = is[:1]
	}
	if len(all) > 1 {
		return fmt.Errorf("%s is dialed at %s; say which is to end, as in `agent hangup %s=%s`", target, strings.Join(shown(all), ", "), target, shown(all)[0])
	}
	one := all[0]
	switch {
	case !one.at.IsValid():
		a.late.forget(one.asked)
	case one.asked.TCP:
		a.peer(peerName).tcp.hangup(service, one.at)
	default:
		if err := a.peer(peerName).flows.Hangup(service, one.at); err != nil {
			return err
		}
	}
	return a.cfg.State.RemoveDial(one.asked)
}

// dialsOf are those of a peer's service.
func (a *Agent) dialsOf(peerName, service string) (all []living) {
	for d := range a.late.all() {
		if d.Peer == peerName && d.Service == service {
			all = append(all, living{asked: d})
		}
	}
	a.peers.mu.Lock()
	p := a.peers.byName[peerName]
	a.peers.mu.Unlock()
	if p == nil {
		return all
	}
	for _, d := range p.flows.Dials() {
		if d.Service == service {
			all = append(all, living{asked: Dial{Peer: peerName, Service: service, Host: d.Asked.Addr().String(), Port: d.Asked.Port()}, at: d.Listen})
		}
	}
	return append(all, p.tcp.of(service)...)
}

// shown are their URLs as status has them, in order.
func shown(all []living) (urls []string) {
	for _, l := range all {
		urls = append(urls, l.url())
	}
	slices.Sort(urls)
	return urls
}
