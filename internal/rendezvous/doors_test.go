package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// virtual runs f in virtual time. Yamux keeps timers in a sync.Pool, and those
// of one bubble can't be used in another, nor outside; two collections empty
// the pool.
func virtual(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	empty := func() {
		runtime.GC()
		runtime.GC()
	}
	empty()
	defer empty()
	bubble.Test(t, f)
}

// virtualDoors is a coordinator that is open over all transports, and a host
// that is 25 ms away from it.
func virtualDoors(t *testing.T, change func(*Config)) (c *coordinator, vps, host *natlab.Host) {
	t.Helper()
	lab := natlab.New(t, natlab.Options{Seed: 1})
	vps = lab.Host("vps", "203.0.113.10/24")
	host = lab.Host("host", "198.51.100.1/24", natlab.Delay(25*time.Millisecond))
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	c = startCoordinator(t, registry, vps, netip.MustParseAddrPort("203.0.113.10:443"), func(c *Config) {
		c.Alternate, c.Ports, c.Streams, c.FakeTCP = 3478, []uint16{80, 443}, vps, vps
		if change != nil {
			change(c)
		}
	})
	return c, vps, host
}

// in is a dialer on a host of the lab.
func in(host *natlab.Host) *TLSDialer {
	return &TLSDialer{
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return host.DialTCP(ctx, anyV4, netip.MustParseAddrPort(addr))
		},
		Proxy: func(string) (*url.URL, error) { return nil, nil },
	}
}

// connectFake makes a control connection of QUIC over fake TCP.
func (g *guest) connectFake(ctx context.Context, fake dgram.FakeTCP, local, to netip.AddrPort, pin [32]byte) (dgram.Opener, error) {
	g.t.Helper()
	conn, err := fake.ListenFakeTCP(local, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	pc := dgram.NewPacketConn(conn)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_ = path.Read(conn, func(b dgram.Burst) { pc.Deliver(b) })
	}()
	g.t.Cleanup(func() {
		if g.Client != nil {
			_ = g.Close()
		}
		_ = pc.Close()
		_ = conn.Close()
		<-read
	})
	if err := conn.Open(ctx, to); err != nil {
		return nil, err
	}
	g.Client, err = Dial(ctx, pc, to, pin, g.certificate())
	return conn, err
}

// TestDoors has an agent come in over each transport on each port. All are told
// of the same doors, and introductions know how far they are.
func TestDoors(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c, _, host := virtualDoors(t, nil)
		var before *guest
		for _, port := range []uint16{443, 3478, 80} {
			to := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.10"), port)
			for name, connect := range map[string]func(*guest) error{
				"quic":              func(g *guest) error { return g.connect(t.Context(), host, anyV4, to, c.pin) },
				"quic over faketcp": func(g *guest) error { _, err := g.connectFake(t.Context(), host, anyV4, to, c.pin); return err },
				"tls":               func(g *guest) error { return g.connectTLS(in(host), to.String(), c.pin) },
			} {
				g := newGuest(t, strings.ReplaceAll(name, " ", "-")+"-"+to.String()[13:])
				if err := connect(g); err != nil {
					t.Fatalf("%s at %v: %v", name, to, err)
				}
				r := g.join(c.invite(t))
				var doors []string
				for _, d := range r.GetDoors() {
					doors = append(doors, transportWord(d.GetTransport()))
				}
				if slices.Sort(doors); len(slices.Compact(doors)) != 4 || len(r.GetDoors()) != 12 {
					t.Errorf("%s: told of %v", name, r.GetDoors())
				}
				if first, _ := r.GetStun()[0].AddrPort(); first != to {
					t.Errorf("%s at %v: STUN first at %v", name, to, first)
				}
				time.Sleep(2 * time.Second)
				st, err := c.Status()
				if err != nil {
					t.Fatal(err)
				}
				i := slices.IndexFunc(st.Members, func(m MemberStatus) bool { return m.Name == g.name })
				if m := st.Members[i]; m.Transport != name || m.RTT < 45 || m.RTT > 60 {
					t.Errorf("%s: status says %s, %.1f ms", name, m.Transport, m.RTT)
				}
				if before != nil {
					g.must(g.introduce(before, false, true))
					if before.event().GetOffer() == nil {
						t.Errorf("%s: no offer", before.name)
					}
				}
				before = g
			}
		}
	})
}

// TestIdleTLSStays keeps a control connection over TLS, without use, for an
// hour.
func TestIdleTLSStays(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c, _, host := virtualDoors(t, nil)
		g := newGuest(t, "home")
		if err := g.connectTLS(in(host), "203.0.113.10:443", c.pin); err != nil {
			t.Fatal(err)
		}
		g.join(c.invite(t))
		time.Sleep(time.Hour)
		g.must(&proto.ToCoordinator{})
		_ = g.Close()
	})
}

// TestSilentStrangers come over TCP and say nothing, or open TLS and no stream:
// they are sent away.
func TestSilentStrangers(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c, _, host := virtualDoors(t, nil)
		d := in(host)
		conn, err := d.Dial(t.Context(), "tcp", "203.0.113.10:443")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("something was said")
		}
		if took := time.Since(began); took > greetWithin+time.Second {
			t.Errorf("sent away after %v", took)
		}
		_ = conn.Close()
		m, err := d.dial(t.Context(), "203.0.113.10:443", c.pin, newGuest(t, "home").certificate())
		if err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		<-m.session.CloseChan()
		if took := time.Since(began); took > knockWithin+time.Second {
			t.Errorf("without streams it stayed for %v", took)
		}
		g := newGuest(t, "laptop")
		if err := g.connectTLS(d, "203.0.113.10:443", c.pin); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		m2, ok := <-g.Events()
		if took := time.Since(began); ok || took > knockWithin+2*time.Second {
			t.Errorf("without registering it stayed for %v: %v", took, m2)
		}
		_ = g.Close()
		synctest.Wait()
		if n := c.front.drops.silent.Load(); n != 2 {
			t.Errorf("%d were counted as silent", n)
		}
	})
}

// TestBlackoutOverTLS unplugs the coordinator: the agent notices by its
// heartbeat.
func TestBlackoutOverTLS(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c, vps, host := virtualDoors(t, nil)
		g := newGuest(t, "home")
		if err := g.connectTLS(in(host), "203.0.113.10:443", c.pin); err != nil {
			t.Fatal(err)
		}
		g.join(c.invite(t))
		vps.Unplug()
		began := time.Now()
		_, ok := <-g.Events()
		if took := time.Since(began); ok || took > keepAlive+answerTimeout+time.Second {
			t.Errorf("noticed after %v: %v", took, g.Err())
		}
		_ = g.Close()
		vps.Plug()
	})
}

// TestStrictSTUN asks over TCP for an answer from elsewhere: there is none, as
// no other socket could send it.
func TestStrictSTUN(t *testing.T) {
	virtual(t, func(t *testing.T) {
		_, _, host := virtualDoors(t, nil)
		got, conn, err := stun.BindTCP(t.Context(), host, netip.MustParseAddrPort("198.51.100.1:5000"), netip.MustParseAddrPort("203.0.113.10:80"))
		if err != nil || got.Mapped != netip.MustParseAddrPort("198.51.100.1:5000") {
			t.Fatalf("mapped to %v, %v", got.Mapped, err)
		}
		request := []byte("\x00\x01\x00\x08\x21\x12\xa4\x42twelve bytes\x00\x03\x00\x04\x00\x00\x00\x02")
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 200)
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(answer)
		if err == nil && answer[0] == 1 && answer[1] == 1 {
			t.Errorf("answered %x", answer[:n])
		}
		conn.SetReadDeadline(time.Time{})
		began := time.Now()
		for err == nil || !errors.Is(err, net.ErrClosed) && time.Since(began) < stunIdle-time.Second {
			if _, err = conn.Read(answer); err != nil && time.Since(began) > time.Second {
				break
			}
		}
		if took := time.Since(began); took < stunIdle-2*time.Second || took > stunIdle+time.Second {
			t.Errorf("the connection was kept for %v", took)
		}
		_ = conn.Close()
	})
}

// TestKernelDoors is open over UDP, TLS and fake TCP on one port of this host,
// and a browser is served beside them.
func TestKernelDoors(t *testing.T) {
	fake, err := faketcp.System(faketcp.Options{})
	if err != nil {
		lacks(t, err.Error())
	}
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	c := streamCoordinator(t, registry, loopback, func(c *Config) { c.FakeTCP = fake })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dressed := newGuest(t, "dressed")
	if _, err := dressed.connectFake(ctx, fake, loopback, c.Addrs()[0], c.pin); err != nil {
		t.Fatal(err)
	}
	dressed.join(c.invite(t))
	plain := tlsGuest(t, c, "plain")
	for range 10 {
		dressed.must(dressed.introduce(plain, false, false))
		plain.event()
	}
	conn, err := tls.Dial("tcp", c.tcp(t), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	wantPage(t, conn, "/", http.StatusOK)
	_ = dressed.Close()
}
