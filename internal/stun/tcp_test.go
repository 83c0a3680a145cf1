package stun

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/natlab/bubble"
)

// city is an internet where TCP is but connections: a NAT's mapping, and
// servers that answer or don't.
type city struct {
	delay   time.Duration // one way
	outside netip.Addr
	port    func(local uint16, server netip.AddrPort) uint16
	servers map[netip.AddrPort]*Responder
	dead    []netip.AddrPort // take no SYN, and answer none

	mu      sync.Mutex
	dialled []netip.AddrPort
}

// named is a pipe with addresses.
type named struct {
	net.Conn
	local, remote netip.AddrPort
}

func (c named) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c named) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *city) ListenTCP(netip.AddrPort) (net.Listener, error) { return nil, syscall.ENOSYS }

func (c *city) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	c.mu.Lock()
	c.dialled = append(c.dialled, remote)
	c.mu.Unlock()
	if slices.Contains(c.dead, remote) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	time.Sleep(2 * c.delay)
	responder := c.servers[remote]
	if responder == nil {
		return nil, syscall.ECONNREFUSED
	}
	if local.Port() == 0 {
		local = netip.AddrPortFrom(local.Addr(), 50123)
	}
	mine, theirs := net.Pipe()
	mapped := netip.AddrPortFrom(c.outside, c.port(local.Port(), remote))
	go func() {
		defer theirs.Close()
		for {
			b, err := ReadMessage(theirs)
			if err != nil {
				return
			}
			time.Sleep(2 * c.delay)
			a, ok := responder.Answer(time.Now(), Socket{}, mapped, b)
			if !ok {
				return
			}
			_, _ = theirs.Write(a.Message[:7]) // TCP cuts where it likes
			_, _ = theirs.Write(a.Message[7:])
		}
	}()
	return named{mine, netip.AddrPortFrom(netip.MustParseAddr("192.168.1.2"), local.Port()), remote}, nil
}

func newCity(port func(uint16, netip.AddrPort) uint16) *city {
	c := &city{delay: 20 * time.Millisecond, outside: netip.MustParseAddr("198.51.100.1"), port: port, servers: make(map[netip.AddrPort]*Responder)}
	sockets := fourSockets()
	for _, address := range sockets {
		for _, at := range address {
			c.servers[at] = NewResponder(sockets)
		}
	}
	return c
}

func keep(local uint16, _ netip.AddrPort) uint16 { return local }

func perAddress(local uint16, server netip.AddrPort) uint16 {
	b := server.Addr().As4()
	return local + 1 + uint16(b[3])
}

func perPort(local uint16, server netip.AddrPort) uint16 {
	return perAddress(local, server) + 300*(server.Port()%7)
}

// S4-12: the mapping of TCP is measured by itself, on one local port.
func TestDiscoverTCP(t *testing.T) {
	all := func(c *city) (list []netip.AddrPort) {
		for a := range c.servers {
			list = append(list, a)
		}
		slices.SortFunc(list, netip.AddrPort.Compare)
		return list
	}
	for _, c := range []struct {
		name    string
		port    func(uint16, netip.AddrPort) uint16
		servers func(*city) []netip.AddrPort
		mapping Behaviour
		not     int
		keeps   bool
		mapped  int
	}{
		{"port preserving", keep, all, EndpointIndependent, 2, true, 1},
		{"by address", perAddress, all, AddressDependent, 2, false, 2},
		{"by address and port", perPort, all, AddressAndPortDependent, 2, false, 3},
		{"one server that names its others", perAddress, func(c *city) []netip.AddrPort { return all(c)[:1] }, AddressDependent, 2, false, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				net := newCity(c.port)
				begun := time.Now()
				r, conns, err := DiscoverTCP(t.Context(), net, netip.MustParseAddrPort("0.0.0.0:41000"), c.servers(net))
				if err != nil {
					t.Fatal(err)
				}
				if r.Mapping != c.mapping || len(r.MappingNot) != c.not || r.PortPreserving != c.keeps || len(r.Mapped) != c.mapped || !r.TCP {
					t.Errorf("got %+v", r)
				}
				if len(conns) != 3 || len(net.dialled) != 3 {
					t.Errorf("%d connections are open of %d made, want 3", len(conns), len(net.dialled))
				}
				if took := time.Since(begun); took > 8*net.delay {
					t.Errorf("took %v", took)
				}
				for _, conn := range conns {
					if _, err := AskTCP(t.Context(), conn, netip.MustParseAddrPort("203.0.113.1:3478")); err != nil {
						t.Errorf("asked again: %v", err)
					}
					_ = conn.Close()
				}
			})
		})
	}
}

func TestDiscoverTCPPicksAPort(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		net := newCity(keep)
		r, conns, err := DiscoverTCP(t.Context(), net, netip.MustParseAddrPort("0.0.0.0:0"), slices.Collect(func(yield func(netip.AddrPort) bool) {
			for a := range net.servers {
				if !yield(a) {
					return
				}
			}
		}))
		if err != nil || r.Local.Port() != 50123 || len(conns) != 3 || r.Mapping != EndpointIndependent {
			t.Errorf("got %+v, %v", r, err)
		}
		for _, c := range conns {
			_ = c.Close()
		}
	})
}

// One that doesn't answer costs little time, and all of them an error that
// says what to look at. S0-26: not before 5 s.
func TestDiscoverTCPWithoutAnswer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		net := newCity(keep)
		servers := fourSockets()
		net.dead = []netip.AddrPort{servers[1][0]}
		begun := time.Now()
		r, conns, err := DiscoverTCP(t.Context(), net, netip.MustParseAddrPort("0.0.0.0:41000"),
			[]netip.AddrPort{servers[0][0], servers[1][0]})
		if err != nil || len(conns) == 0 || time.Since(begun) > time.Second {
			t.Errorf("one of two: %+v, %v in %v", r, err, time.Since(begun))
		}
		for _, c := range conns {
			_ = c.Close()
		}
		net.dead = append(net.dead, servers[0][0])
		begun = time.Now()
		_, _, err = DiscoverTCP(t.Context(), net, netip.MustParseAddrPort("0.0.0.0:41000"), net.dead)
		if err == nil || !strings.Contains(err.Error(), "does TCP to port") || time.Since(begun) < 5*time.Second {
			t.Errorf("none of two: %v in %v", err, time.Since(begun))
		}
		_, _, err = DiscoverTCP(t.Context(), net, netip.MustParseAddrPort("[::]:41000"), net.dead)
		if err == nil || !strings.Contains(err.Error(), "no STUN server of that address family") {
			t.Errorf("the other family: %v", err)
		}
	})
}

func TestBindTCPRefusesNonsense(t *testing.T) {
	for name, say := range map[string]string{
		"another protocol": "HTTP/1.1 400 Bad Request\r\n\r\n",
		"nothing":          "",
		"half a message":   "\x01\x01\x00\x0c\x21\x12\xa4\x42",
	} {
		t.Run(name, func(t *testing.T) {
			mine, theirs := net.Pipe()
			go func() {
				_, _ = io.ReadFull(theirs, make([]byte, requestSize))
				_, _ = theirs.Write([]byte(say))
				_ = theirs.Close()
			}()
			if r, err := AskTCP(t.Context(), mine, netip.MustParseAddrPort("203.0.113.1:443")); err == nil {
				t.Errorf("took %+v", r)
			}
		})
	}
}

func TestAskTCPEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		mine, theirs := net.Pipe()
		defer theirs.Close()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := AskTCP(ctx, mine, netip.MustParseAddrPort("203.0.113.1:443")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// FuzzReadMessage: what is read is a whole message by its own length, and not a
// byte behind it is taken.
func FuzzReadMessage(f *testing.F) {
	f.Add(bindingRequest(pion.NewTransactionID(), 0))
	f.Add(append(bindingRequest(pion.NewTransactionID(), flagChangeIP), "more"...))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		m, err := ReadMessage(r)
		if err != nil {
			return
		}
		if n := headerSize + int(binary.BigEndian.Uint16(b[2:])); len(m) != n || r.Len() != len(b)-n || !bytes.Equal(m, b[:n]) || n > maxMessage {
			t.Fatalf("read %d bytes, %d are left of %d", len(m), r.Len(), len(b))
		}
	})
}
