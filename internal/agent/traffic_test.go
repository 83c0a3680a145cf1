package agent

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// Where tests put a service and the local end of its dial.
const (
	serviceAt = "127.0.0.1:51820"
	dialAt    = "127.0.0.1:51821"
)

// arrival is one datagram that a service or a client got.
type arrival struct {
	at   time.Time
	from netip.AddrPort
	data []byte
}

// station is a UDP socket of a test: a service when it echoes, else a client.
type station struct {
	t    *testing.T
	conn dgram.Conn

	mu   sync.Mutex
	got  []arrival
	echo bool
}

// listen opens a station on a host. An echoing one answers each datagram with
// itself.
func listen(t *testing.T, host dgram.Network, at string, echo bool) *station {
	t.Helper()
	conn, err := host.ListenUDP(netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	s := &station{t: t, conn: conn, echo: echo}
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = path.Read(conn, s.take)
	})
	t.Cleanup(func() { _ = conn.Close(); wait.Wait() })
	return s
}

func (s *station) take(b dgram.Burst) {
	for d := range b.All() {
		s.mu.Lock()
		s.got = append(s.got, arrival{time.Now(), b.Addr, append([]byte{}, d...)})
		s.mu.Unlock()
	}
	if s.echo {
		_ = s.conn.Write(b)
	}
}

// arrivals are all so far.
func (s *station) arrivals() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]arrival{}, s.got...)
}

// send sends one datagram.
func (s *station) send(to string, data []byte) {
	s.t.Helper()
	if err := s.conn.Write(dgram.One(netip.MustParseAddrPort(to), data)); err != nil {
		s.t.Errorf("send to %s: %v", to, err)
	}
}

// sources are the addresses that sent to s, each once, in order.
func (s *station) sources() []netip.AddrPort {
	var out []netip.AddrPort
	seen := map[netip.AddrPort]bool{}
	for _, a := range s.arrivals() {
		if !seen[a.from] {
			seen[a.from] = true
			out = append(out, a.from)
		}
	}
	return out
}

// stamped is a numbered datagram of that size, 8 bytes at least.
func stamped(n uint64, size int) []byte {
	b := make([]byte, max(size, 8))
	for i := range b {
		b[i] = byte(i) ^ byte(n)
	}
	binary.BigEndian.PutUint64(b, n)
	return b
}

// steady sends a numbered datagram each interval from a client through a dial
// and says what came back.
type steady struct {
	client *station
	stop   chan struct{}
	wait   sync.WaitGroup
	sent   atomic.Uint64
	began  time.Time
}

func startStream(client *station, to string, every time.Duration) *steady {
	s := &steady{client: client, stop: make(chan struct{}), began: time.Now()}
	s.wait.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			client.send(to, stamped(s.sent.Add(1)-1, 100))
			select {
			case <-tick.C:
			case <-s.stop:
				return
			}
		}
	})
	return s
}

func (s *steady) end() { close(s.stop); s.wait.Wait() }

// gap is the longest time without any arrival at st between two instants.
func gap(st *station, from, to time.Time) (longest time.Duration) {
	last := from
	for _, a := range st.arrivals() {
		if a.at.Before(from) || a.at.After(to) {
			continue
		}
		longest = max(longest, a.at.Sub(last))
		last = a.at
	}
	return max(longest, to.Sub(last))
}

// exposing and dialing are Config hooks.
func exposing(t *testing.T, name, url string) func(*Config) {
	return func(c *Config) {
		s, err := ParseService(name, url)
		if err != nil {
			t.Fatal(err)
		}
		c.Expose = append(c.Expose, s)
	}
}

func dialing(t *testing.T, peer, name, url string) func(*Config) {
	return func(c *Config) {
		d, err := ParseDial(peer, name, url)
		if err != nil {
			t.Fatal(err)
		}
		c.Dial = append(c.Dial, d)
	}
}

// waitFor waits until ok, d at most, looking each millisecond at first and each
// five later.
func waitFor(t *testing.T, what string, d time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > d {
			t.Fatalf("not within %v: %s", d, what)
		}
		step := time.Millisecond
		if time.Since(began) > 250*time.Millisecond {
			step *= 5
		}
		time.Sleep(step)
	}
	return time.Since(began)
}

// best is the path that an agent's data to a peer takes.
func best(a *running, peer string) string {
	for _, p := range a.peers.all() {
		if p.name == peer {
			s, _ := p.status()
			return s.Path
		}
	}
	return ""
}

func pathsText(a *running, peer string) string {
	for _, p := range a.Status().Peers {
		if p.Name == peer {
			return fmt.Sprintf("%+v", p.Paths)
		}
	}
	return "no session"
}
