package faketcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	boxes "rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/path"
)

// puncher is a host behind a NAT, and how the other one sees it.
type puncher struct {
	conn   *Conn
	seen   netip.AddrPort
	count  atomic.Int64
	router *netns.Host
}

func newPuncher(t *testing.T, h, router *netns.Host, public string, port int) *puncher {
	t.Helper()
	p := &puncher{router: router, seen: netip.AddrPortFrom(netip.MustParseAddr(public), uint16(port))}
	p.conn = listen(t, h, fmt.Sprintf("0.0.0.0:%d", port), nil, func(*Conn, netip.AddrPort, []byte) { p.count.Add(1) })
	return p
}

// punch lets both climb, b so much later, and returns how long that took from
// then on, and what came of it.
func punch(t *testing.T, a, b *puncher, skew time.Duration) (took [2]time.Duration, errs [2]error) {
	t.Helper()
	fire := time.Now().Add(50 * time.Millisecond)
	var wait sync.WaitGroup
	for i, side := range []struct {
		own, other *puncher
		at         time.Time
	}{{a, b, fire}, {b, a, fire.Add(skew)}} {
		wait.Go(func() {
			r := &Rung{Conns: []dgram.Opener{side.own.conn}, Candidates: []netip.AddrPort{side.other.seen}, FireAt: side.at, RTT: 40 * time.Millisecond}
			errs[i] = r.Climb(t.Context(), func(context.Context, path.Path, path.Kind) (time.Duration, error) { return 0, nil })
			took[i] = time.Since(fire.Add(skew))
		})
	}
	wait.Wait()
	return took, errs
}

// Shows S0-04, S0-08, S0-09, S0-11, S4-08, S4-09 and S4-10 on Linux' own NATs:
// both sides open at once or one later, through routers that drop or refuse
// with RST, and through a box that shifts the numbers and one that resets
// whatever no TCP would send. Nothing but SYNs that crossed is INVALID to either
// router, and all data crosses.
func TestRungThroughLinuxNATs(t *testing.T) {
	for _, test := range []struct {
		name   string
		nat    netns.NAT
		skew   time.Duration
		inline bool
	}{
		{"drop", netns.Masquerade(), 0, false},
		{"drop, 50 ms later", netns.Masquerade(), 50 * time.Millisecond, false},
		{"RST", netns.Masquerade().AcceptingInput(), 0, false},
		{"RST, 50 ms later", netns.Masquerade().AcceptingInput(), 50 * time.Millisecond, false},
		{"RST, 300 ms later", netns.Masquerade().AcceptingInput(), 300 * time.Millisecond, false},
		{"boxes", netns.Masquerade(), 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := netns.Standard(t, netns.Options{NoCarrier: true, HomeNAT: test.nat, LaptopNAT: test.nat, HomeLaptop: 20 * time.Millisecond})
			var strict boxes.Validate
			if test.inline {
				s.SetBoxes(s.HomeRouter.Name, &strict, &boxes.Renumber{})
			}
			var all []time.Duration
			for i := range 5 {
				a := newPuncher(t, s.Home, s.HomeRouter, netns.HomePublic, 41000+i)
				b := newPuncher(t, s.Laptop, s.LaptopRouter, netns.LaptopPublic, 42000+i)
				took, errs := punch(t, a, b, test.skew)
				if err := errors.Join(errs[:]...); err != nil {
					t.Fatal(err)
				}
				t.Logf("open and checked %v and %v after the later one began", took[0], took[1])
				all = append(all, max(took[0], took[1]))
				invalid := a.router.Counter("invalid").Packets + b.router.Counter("invalid").Packets
				for range 20 {
					burst := dgram.Burst{Addr: b.seen, Buf: make([]byte, 10*1200), Size: 1200}
					if err := a.conn.Write(burst); err != nil {
						t.Fatal(err)
					}
					burst.Addr = a.seen
					if err := b.conn.Write(burst); err != nil {
						t.Fatal(err)
					}
					time.Sleep(5 * time.Millisecond)
				}
				netns.Eventually(t, 3*time.Second, "all data", func() error {
					if x, y := a.count.Load(), b.count.Load(); x != 200 || y != 200 {
						return fmt.Errorf("%d and %d of 200", x, y)
					}
					return nil
				})
				if n := a.router.Counter("invalid").Packets + b.router.Counter("invalid").Packets - invalid; n != 0 {
					t.Errorf("%d INVALID segments of data", n)
				}
				t.Logf("%d INVALID while both opened", invalid)
			}
			if n := strict.Violations.Load(); n != 0 {
				t.Errorf("%d violations", n)
			}
			slices.Sort(all) // on a busy machine one or another takes longer
			if all[len(all)/2] > 400*time.Millisecond {
				t.Errorf("open and checked %v after the later one began", all)
			}
		})
	}
}

// Shows S0-14 and S0-16 on Linux' own NAT: it looks at sequence numbers, so
// packed mode is not begun; told not to (tcp_be_liberal), it lets datagrams as
// large as UDP's pass.
func TestPackedThroughLinuxNAT(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	var whole atomic.Int64
	got := func(_ *Conn, _ netip.AddrPort, b []byte) {
		if len(b) == 1472 && strings.Count(string(b), "x") == len(b) {
			whole.Add(1)
		}
	}
	vps := listen(t, s.VPS, netns.VPSAddr+":443", nil, got)
	laptop := listen(t, s.Laptop, "0.0.0.0:0", nil, got)
	for _, c := range []*Conn{vps, laptop} {
		c.mu.Lock()
		c.table.opts.Packed = true
		c.mu.Unlock()
	}
	if err := laptop.Open(t.Context(), vps.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if v, err := laptop.Check(t.Context(), vps.LocalAddr()); err != nil || v.Packed || laptop.Extra(vps.LocalAddr()) != 12 {
		t.Fatalf("strict: %s %v", v.Text(), err)
	}
	s.LaptopRouter.Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal=1")
	if v, err := laptop.Check(t.Context(), vps.LocalAddr()); err != nil || !v.Packed || laptop.Extra(vps.LocalAddr()) != 0 {
		t.Fatalf("liberal: %s %v", v.Text(), err)
	}
	if err := laptop.Write(dgram.Burst{Addr: vps.LocalAddr(), Buf: []byte(strings.Repeat("x", 10*1472)), Size: 1472}); err != nil {
		t.Fatal(err)
	}
	netns.Eventually(t, 3*time.Second, "datagrams of 1,472 bytes", func() error {
		if n := whole.Load(); n != 10 {
			return fmt.Errorf("%d of 10", n)
		}
		return nil
	})
}

// Shows S0-21 with a proxy of the kernel's own TCP between: its handshake is
// answered at once, and the check tells.
func TestCheckFindsKernelsProxy(t *testing.T) {
	s := netns.Standard(t, netns.DefaultOptions())
	dir := t.TempDir()
	if err := netns.Build(dir, "rendezvous/internal/natlab/splitproxy"); err != nil {
		t.Fatal(err)
	}
	s.SetPrograms(dir)
	s.LaptopRouter.SplitTCP()
	vps := listen(t, s.VPS, netns.VPSAddr+":443", nil, func(*Conn, netip.AddrPort, []byte) {})
	laptop := listen(t, s.Laptop, "0.0.0.0:0", nil, func(*Conn, netip.AddrPort, []byte) {})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := laptop.Open(ctx, vps.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	v, err := laptop.Check(ctx, vps.LocalAddr())
	if err != nil || v.Usable() {
		t.Fatalf("%s %v %v; %+v", v.Text(), v.Evidence, err, vps.Counts())
	}
	t.Logf("%s: %s", v.Text(), strings.Join(v.Evidence, "; "))
}
