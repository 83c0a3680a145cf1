package portmap

import (
	"context"
	"crypto/rand"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// grant is what a gateway said to a request. lost says that its clock shows
// that it has forgotten all others.
type grant struct {
	external  netip.AddrPort
	lease     time.Duration
	permanent bool
	lost      bool
}

// client is one protocol, spoken with one gateway. One goroutine uses it.
type client interface {
	protocol() Protocol
	// hold makes a mapping, or renews it. external is the one wanted.
	hold(ctx context.Context, p Port, external netip.AddrPort) (grant, error)
	// release takes it back.
	release(ctx context.Context, p Port, external netip.AddrPort) error
	// address is the gateway's own, if it has told.
	address() netip.Addr
}

// pcpClient speaks PCP.
type pcpClient struct {
	net    dgram.Network
	road   road
	epoch  epoch
	nonces map[Port]pcpNonce
	at     netip.Addr
}

// findPCP asks whether the gateway speaks it (RFC 6887 section 14.1: ANNOUNCE).
// A refusal is an answer, unless it says that it speaks another version.
func findPCP(ctx context.Context, n dgram.Network, r road) (client, error) {
	c := &pcpClient{net: n, road: r, nonces: make(map[Port]pcpNonce)}
	err := ask(ctx, n, r, pcpRequest{client: r.source, announce: true}.encode(), func(b []byte) (bool, error) {
		if len(b) > 0 && b[0] == pmpVersion { // NAT-PMP's way to say no (RFC 6886 section 3.5)
			return true, faultf(noAnswer, "it speaks NAT-PMP only")
		}
		a, err := decodePCP(b)
		if err != nil {
			return false, err
		}
		if a.result == pcpUnsupportedVersion {
			return true, a.refusal()
		}
		c.epoch.lost(time.Now(), a.epoch)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *pcpClient) protocol() Protocol { return PCP }

func (c *pcpClient) address() netip.Addr { return c.at }

func (c *pcpClient) hold(ctx context.Context, p Port, external netip.AddrPort) (grant, error) {
	nonce, ok := c.nonces[p]
	if !ok {
		if _, err := rand.Read(nonce[:]); err != nil {
			return grant{}, err
		}
		c.nonces[p] = nonce
	}
	a, err := c.ask(ctx, pcpRequest{client: c.road.source, lifetime: leaseWanted, nonce: nonce, port: p, external: external})
	if err != nil {
		return grant{}, err
	}
	g := grant{external: a.external, lease: a.lifetime, lost: c.epoch.lost(time.Now(), a.epoch)}
	if err := g.check(PCP, p.Six); err != nil {
		return grant{}, err
	}
	c.at = a.external.Addr()
	return g, nil
}

func (c *pcpClient) release(ctx context.Context, p Port, external netip.AddrPort) error {
	nonce, ok := c.nonces[p]
	if !ok {
		return nil
	}
	delete(c.nonces, p)
	// RFC 6887 section 15: the suggested address and port are zero.
	_, err := c.ask(ctx, pcpRequest{client: c.road.source, nonce: nonce, port: p})
	return err
}

// ask has a MAP request answered: by the nonce, the transport and the port that
// it was about. Another answer is none of ours.
func (c *pcpClient) ask(ctx context.Context, r pcpRequest) (a pcpAnswer, err error) {
	err = ask(ctx, c.net, c.road, r.encode(), func(b []byte) (bool, error) {
		a, err = decodePCP(b)
		if err != nil {
			return false, err
		}
		if a.opcode != pcpMap || a.nonce != r.nonce || a.proto != r.port.Transport || a.internal != r.port.Number {
			return false, faultf(badAnswer, "PCP: an answer about %s/%d, where %v was asked for", a.proto, a.internal, r.port)
		}
		return true, a.refusal()
	})
	return a, err
}

// pmpClient speaks NAT-PMP.
type pmpClient struct {
	net   dgram.Network
	road  road
	epoch epoch
	at    netip.Addr
}

// findPMP asks for the external address (RFC 6886 section 3.2).
func findPMP(ctx context.Context, n dgram.Network, r road) (client, error) {
	c := &pmpClient{net: n, road: r}
	a, err := c.ask(ctx, pmpRequest{opcode: pmpAddress})
	if err != nil {
		return nil, err
	}
	if err := checkAddress(NATPMP, a.address); err != nil {
		return nil, err
	}
	c.at = a.address
	c.epoch.lost(time.Now(), a.epoch)
	return c, nil
}

func (c *pmpClient) protocol() Protocol { return NATPMP }

func (c *pmpClient) address() netip.Addr { return c.at }

// hold asks for the address anew as well: it may have changed since, and the
// mapping's answer does not have it.
func (c *pmpClient) hold(ctx context.Context, p Port, external netip.AddrPort) (grant, error) {
	at, err := c.ask(ctx, pmpRequest{opcode: pmpAddress})
	if err != nil {
		return grant{}, err
	}
	a, err := c.ask(ctx, pmpRequest{opcode: pmpMap(p.Transport), internal: p.Number, external: external.Port(), lifetime: leaseWanted})
	if err != nil {
		return grant{}, err
	}
	g := grant{external: netip.AddrPortFrom(at.address, a.external), lease: a.lifetime, lost: c.epoch.lost(time.Now(), a.epoch)}
	if err := g.check(NATPMP, false); err != nil {
		return grant{}, err
	}
	c.at = at.address
	return g, nil
}

func (c *pmpClient) release(ctx context.Context, p Port, _ netip.AddrPort) error {
	_, err := c.ask(ctx, pmpRequest{opcode: pmpMap(p.Transport), internal: p.Number})
	return err
}

func (c *pmpClient) ask(ctx context.Context, r pmpRequest) (a pmpAnswer, err error) {
	err = ask(ctx, c.net, c.road, r.encode(), func(b []byte) (bool, error) {
		if len(b) >= pcpHeader && b[0] == pcpVersion && b[3] == pcpUnsupportedVersion { // RFC 6887 appendix A
			return true, faultf(noAnswer, "it speaks PCP only")
		}
		a, err = decodePMP(b)
		if err != nil {
			return false, err
		}
		mine := a.opcode == r.opcode && (r.opcode == pmpAddress || a.internal == r.internal)
		if !mine && a.result == 0 {
			return false, faultf(badAnswer, "NAT-PMP: an answer to opcode %d about port %d, where opcode %d about port %d was asked for",
				a.opcode, a.internal, r.opcode, r.internal)
		}
		return true, a.refusal()
	})
	return a, err
}

// check refuses a grant that is none.
func (g *grant) check(by Protocol, six bool) error {
	if err := checkAddress(by, g.external.Addr()); err != nil {
		return err
	}
	switch {
	case g.external.Addr().Is6() != six:
		return faultf(badAddress, "%v: the external address %v is of the other family", by, g.external.Addr())
	case g.external.Port() == 0:
		return faultf(badPort, "%v: the external port is 0", by)
	case !g.permanent && g.lease < leaseLeast:
		return faultf(badLease, "%v: a lease of %v, which is too short to be kept", by, g.lease)
	}
	return nil
}

// checkAddress refuses what can be no gateway's external address. A private one
// can: then another NAT lies beyond.
func checkAddress(by Protocol, a netip.Addr) error {
	if !a.IsValid() || !a.IsGlobalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return faultf(badAddress, "%v: the external address %v is none", by, a)
	}
	return nil
}
