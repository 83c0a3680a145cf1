package simopen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/path"
)

// inside are the TCP connections of a host of the lab.
type inside struct{ host *netns.Host }

func (i inside) ListenTCP(addr netip.AddrPort) (l net.Listener, err error) {
	err = errors.Join(i.host.Do(func() error { l, err = dgram.SystemStreams().ListenTCP(addr); return err }))
	return l, err
}

func (i inside) DialTCP(ctx context.Context, local, remote netip.AddrPort) (c net.Conn, err error) {
	err = i.host.Do(func() error { c, err = dgram.SystemStreams().DialTCP(ctx, local, remote); return err })
	return c, err
}

// party is one side of a punch in the lab.
type party struct {
	host   *netns.Host
	public string
	skew   time.Duration
	// lands is the outside port of the punch; 0 is the local one.
	offers []netip.AddrPort
}

type result struct {
	err  error
	took time.Duration // from the later side's start; negative: before it
}

var nextPort = uint16(30000)

// meet punches once; both with one local port each, never used before.
func meet(t *testing.T, fire time.Time, rtt time.Duration, parties [2]*party) (results [2]result) {
	t.Helper()
	nextPort++
	later := fire.Add(max(parties[0].skew, parties[1].skew))
	var rungs [2]*Rung
	var members [2]*member
	for i, p := range parties {
		members[i] = newMember("secret")
		defer members[i].close()
		at := netip.AddrPortFrom(netip.IPv4Unspecified(), nextPort)
		l, err := inside{p.host}.ListenTCP(at)
		if err != nil {
			t.Fatal(err)
		}
		offers := parties[1-i].offers
		if offers == nil {
			offers = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(parties[1-i].public), nextPort)}
		}
		rungs[i] = &Rung{
			Net: inside{p.host}, Local: []netip.AddrPort{at}, Listeners: []net.Listener{l}, Candidates: offers,
			FireAt: fire.Add(p.skew), RTT: rtt, Leaves: true, Attach: members[i].attach, Release: members[i].release,
		}
	}
	var both sync.WaitGroup
	var proven [2]time.Time
	for i := range parties {
		both.Go(func() {
			err := rungs[i].Climb(t.Context(), func(ctx context.Context, p path.Path, k path.Kind) (time.Duration, error) {
				d, err := members[i].try(ctx, p, k)
				if err == nil && proven[i].IsZero() {
					proven[i] = time.Now()
				}
				return d, err
			})
			results[i] = result{err, proven[i].Sub(later)}
		})
	}
	both.Wait()
	if results[0].err == nil && results[1].err == nil && (len(members[0].proven()) == 0 || len(members[1].proven()) == 0) {
		t.Errorf("both sides have proven a connection, and one has been closed under the other's hands")
	}
	return results
}

func scene(t *testing.T, oneWay time.Duration) *netns.Scene {
	return netns.Standard(t, netns.Options{NoCarrier: true, VPSHome: oneWay, VPSLaptop: oneWay, HomeLaptop: oneWay})
}

// S4-08, S4-10, S4-03, S0-26: through two masquerading NATs of the kernel's
// that drop what is invalid, whether they answer a SYN of a stranger's by
// silence or by RST, and however far apart the two sides start.
func TestPunchThroughKernelNATs(t *testing.T) {
	const oneWay = 10 * time.Millisecond
	s := scene(t, oneWay)
	routers := []struct {
		name         string
		home, laptop netns.NAT
	}{
		{"drop and drop", netns.Masquerade(), netns.Masquerade()},
		{"RST and RST", netns.Masquerade().AcceptingInput(), netns.Masquerade().AcceptingInput()},
		{"drop and RST", netns.Masquerade(), netns.Masquerade().AcceptingInput()},
	}
	for _, r := range routers {
		t.Run(r.name, func(t *testing.T) {
			s.HomeRouter.SetNAT(r.home, netns.WAN, netns.LAN, netns.HomePublic)
			s.LaptopRouter.SetNAT(r.laptop, netns.WAN, netns.LAN, netns.LaptopPublic)
			for _, skew := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond} {
				var took []time.Duration
				tries, ok := 0, 0
				for _, skews := range [][2]time.Duration{{skew, 0}, {0, skew}} {
					for range 3 {
						tries++
						got := meet(t, time.Now().Add(50*time.Millisecond), 2*oneWay, [2]*party{
							{host: s.Home, public: netns.HomePublic, skew: skews[0]},
							{host: s.Laptop, public: netns.LaptopPublic, skew: skews[1]},
						})
						if err := errors.Join(got[0].err, got[1].err); err != nil {
							t.Errorf("skew %v: %v", skews, err)
							continue
						}
						ok++
						took = append(took, got[0].took, got[1].took)
					}
				}
				slices.Sort(took)
				if len(took) > 0 {
					t.Logf("skew %v: %d of %d; proven after the later start: median %v, most %v", skew, ok, tries,
						took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
				}
			}
		})
	}
}

// S4-13: a side that anybody can reach takes the other's connection.
func TestReversalToPublicHost(t *testing.T) {
	s := scene(t, 10*time.Millisecond)
	got := meet(t, time.Now(), 20*time.Millisecond, [2]*party{
		{host: s.VPS, public: netns.VPSAddr, skew: 10 * time.Second}, // has not begun to dial when it is found
		{host: s.Home, public: netns.HomePublic},
	})
	if err := errors.Join(got[0].err, got[1].err); err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprint(got[1].took + 10*time.Second); got[1].took > -9*time.Second {
		t.Errorf("took %s", s)
	}
}

// S4-11: a NAT that lets no SYN in at all is recognised as such.
func TestBlockedSYNs(t *testing.T) {
	s := scene(t, 10*time.Millisecond)
	s.HomeRouter.SetNAT(netns.Masquerade().DropSYN(), netns.WAN, netns.LAN, netns.HomePublic)
	s.LaptopRouter.SetNAT(netns.Masquerade().DropSYN(), netns.WAN, netns.LAN, netns.LaptopPublic)
	got := meet(t, time.Now(), 20*time.Millisecond, [2]*party{
		{host: s.Home, public: netns.HomePublic},
		{host: s.Laptop, public: netns.LaptopPublic},
	})
	for _, r := range got {
		var f *path.Failure
		if !errors.As(r.err, &f) || f.Reason != "syn-blocked" || f.Advice == "" {
			t.Errorf("got %v", r.err)
		}
		t.Log(r.err)
	}
}

// S4-09: what a punch sends holds no RST, so no NAT forgets a mapping because
// of it.
func TestPunchSendsNoRST(t *testing.T) {
	s := scene(t, 10*time.Millisecond)
	for _, h := range []*netns.Host{s.Home, s.Laptop} {
		h.CountLeaving("rst", "tcp flags & rst == rst")
		h.CountLeaving("syn", "tcp flags & (syn | ack) == syn")
	}
	for _, skew := range []time.Duration{0, 300 * time.Millisecond, 1200 * time.Millisecond} {
		got := meet(t, time.Now(), 20*time.Millisecond, [2]*party{
			{host: s.Home, public: netns.HomePublic, skew: skew},
			{host: s.Laptop, public: netns.LaptopPublic},
		})
		if err := errors.Join(got[0].err, got[1].err); err != nil {
			t.Errorf("skew %v: %v", skew, err)
		}
		for _, h := range []*netns.Host{s.Home, s.Laptop} {
			if n := h.Counter("rst").Packets; n > 0 {
				t.Errorf("skew %v: %s sent %d RSTs", skew, h.Name, n)
			}
			t.Logf("skew %v: %s sent %d SYNs so far", skew, h.Name, h.Counter("syn").Packets)
		}
	}
}

// A peer whose NAT gives each destination another port can still call a side
// that lets it in by its address: the port need not be the one it told.
func TestOtherPortIsAdmitted(t *testing.T) {
	s := scene(t, 10*time.Millisecond)
	s.HomeRouter.SetNAT(netns.Masquerade().RandomTCP(), netns.WAN, netns.LAN, netns.HomePublic)
	got := meet(t, time.Now(), 20*time.Millisecond, [2]*party{
		{host: s.VPS, public: netns.VPSAddr},
		{host: s.Home, public: netns.HomePublic},
	})
	if err := errors.Join(got[0].err, got[1].err); err != nil {
		t.Fatal(err)
	}
}

// Nobody listens or fires where the candidate points to.
func TestRefused(t *testing.T) {
	s := scene(t, 10*time.Millisecond)
	l, err := inside{s.Home}.ListenTCP(netip.MustParseAddrPort("0.0.0.0:29999"))
	if err != nil {
		t.Fatal(err)
	}
	m := newMember("x")
	r := &Rung{Net: inside{s.Home}, Local: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:29999")}, Listeners: []net.Listener{l},
		Candidates: []netip.AddrPort{netip.MustParseAddrPort(netns.VPSAddr + ":9")}, FireAt: time.Now(), RTT: 20 * time.Millisecond, Attach: m.attach, Release: m.release}
	err = r.Climb(t.Context(), m.try)
	var f *path.Failure
	if !errors.As(err, &f) || f.Reason != "refused" || !strings.Contains(f.Evidence, "answered by RST") {
		t.Errorf("got %v", err)
	}
	t.Log(err)
}
