package stripe

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/natlab/bubble"
)

var (
	addr4 = netip.MustParseAddr("203.0.113.10")
	addr6 = netip.MustParseAddr("2001:db8::10")
)

// The text is what nft reads; that it makes the same table as Apply is shown in
// the lab of namespaces.
// S2-01, S2-03, S2-05
func TestScript(t *testing.T) {
	r, err := Plan(Config{Addrs: []netip.Addr{addr6, addr4, addr4}, UDP: 443, TCP: 8443, Exclude: Of(Range{30000, 65535})}, Held{UDP: Single(53), TCP: Single(2222, 80)})
	if err != nil {
		t.Fatal(err)
	}
	const want = `add table inet rendezvous
delete table inet rendezvous
table inet rendezvous {
	set addresses4 {
		type ipv4_addr
		elements = { 203.0.113.10 }
	}
	set addresses6 {
		type ipv6_addr
		elements = { 2001:db8::10 }
	}
	set udp_ports {
		type inet_service; flags interval;
		elements = { 1-21, 23-52, 54-442, 444-29999 }
	}
	set tcp_ports {
		type inet_service; flags interval;
		elements = { 1-21, 23-79, 81-2221, 2223-8442, 8444-29999 }
	}
	chain stripe {
		type nat hook prerouting priority -90; policy accept;
		ip daddr @addresses4 udp dport @udp_ports dnat to :443
		ip daddr @addresses4 tcp dport @tcp_ports tcp flags & (fin | syn | rst | ack) == syn dnat to :8443
		ip6 daddr @addresses6 udp dport @udp_ports dnat to :443
		ip6 daddr @addresses6 tcp dport @tcp_ports tcp flags & (fin | syn | rst | ack) == syn dnat to :8443
	}
}
`
	if got := r.Script(); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, c := range []Config{
		{UDP: 443},
		{Addrs: []netip.Addr{addr4}},
		{Addrs: []netip.Addr{netip.IPv4Unspecified()}, UDP: 443},
		{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, UDP: 443},
		{Addrs: []netip.Addr{{}}, UDP: 443},
	} {
		if r, err := Plan(c, Held{}); err == nil {
			t.Errorf("%+v makes %v", c, r)
		}
	}
	only, err := Plan(Config{Addrs: []netip.Addr{addr4}, TCP: 443}, Held{})
	if err != nil || len(only.UDP.Ports) != 0 || strings.Contains(only.Script(), "udp") {
		t.Errorf("TCP alone: %v, %v", only, err)
	}
}

const procTCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 0A7100CB:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   3: 0A7100CB:9C40 0B7100CB:01BB 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
`

const procUDP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
 2: B80D0120000000000000000010000000:1F90 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
 3: 00000000000000000000000001000000:2710 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
 4: 0000000000000000FFFF00000A7100CB:9C41 0000000000000000FFFF00000B7100CB:0035 01 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
`

// What listens on an address that agents come to is left alone, sshd on several
// ports for one; a resolver on loopback does not keep port 53.
// S2-02
func TestHeldBy(t *testing.T) {
	tcp, err := parseSockets(strings.NewReader(procTCP), true)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := parseSockets(strings.NewReader(procUDP6), false)
	if err != nil {
		t.Fatal(err)
	}
	held := HeldBy(append(tcp, udp...), []netip.Addr{addr4, addr6})
	if got, want := held.TCP.String(), "22, 2222"; got != want {
		t.Errorf("held over TCP: %s, want %s", got, want)
	}
	if got, want := held.UDP.String(), "53, 8080, 40001"; got != want {
		t.Errorf("held over UDP: %s, want %s", got, want)
	}
	for _, bad := range []string{"titles\nword\n", "titles\n0: 0100007F 0 0A\n", "titles\n0: 01:0016 x 0A\n"} {
		if _, err := parseSockets(strings.NewReader(bad), true); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// S2-02
func TestSSHPorts(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sshd_config.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sshd_config", "# Port 1\nPort 2222\nport=2223\nPort x\nListenAddress 0.0.0.0:2224\nListenAddress [::]:2225\nListenAddress ::1\nListenAddress 10.0.0.1\n")
	write("sshd_config.d/more.conf", "Port 2226\n")
	if got, want := SSHPorts(dir, "198.51.100.1 50000 203.0.113.10 2300").String(), "22, 2222-2226, 2300"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := SSHPorts(filepath.Join(dir, "none"), "").String(); got != "22" {
		t.Errorf("without anything: %s", got)
	}
}

// fakeSystem is a host whose table and listeners a test changes.
type fakeSystem struct {
	mu      sync.Mutex // the test has it but while it looks
	held    Held
	have    Rules
	sound   bool
	applied int
	fault   error
}

func (s *fakeSystem) system() System {
	return System{
		Listening: func([]netip.Addr) (Held, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.held, nil
		},
		Read: func() (Rules, bool, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.have, s.sound, s.fault
		},
		Apply: func(r Rules) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.applied++
			s.have, s.sound = r, true
			return nil
		},
		Remove: func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.have, s.sound = Rules{}, false
			return nil
		},
	}
}

// run keeps the rules on s while f runs.
func (s *fakeSystem) run(t *testing.T, f func(k *Keeper)) {
	bubble.Test(t, func(t *testing.T) {
		k := &Keeper{
			Config: func() (Config, error) { return Config{Addrs: []netip.Addr{addr4}, UDP: 443, TCP: 443}, nil },
			System: s.system(), Log: zerolog.Nop(),
		}
		done := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		s.mu.Lock()
		f(k)
		s.mu.Unlock()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s.sound {
			t.Error("the table is still there")
		}
	})
}

// looks lets the keeper look so often.
func (s *fakeSystem) looks(n int) {
	s.mu.Unlock()
	time.Sleep(time.Duration(n) * Look)
	synctest.Wait()
	s.mu.Lock()
}

// What was flushed or changed comes back; what is as it should be is left alone.
// S2-03
func TestKeeperPutsBack(t *testing.T) {
	var s fakeSystem
	s.run(t, func(k *Keeper) {
		s.looks(10)
		if s.applied != 1 {
			t.Errorf("applied %d times, want once", s.applied)
		}
		s.have, s.sound = Rules{}, false // nft flush ruleset
		s.looks(1)
		if !s.sound || k.Status().Restored != 1 {
			t.Errorf("after a flush: there %v, %+v", s.sound, k.Status())
		}
		s.have.UDP.Ports = s.have.UDP.Ports[1:]
		s.looks(1)
		if !s.have.UDP.Ports.Has(7) || k.Status().Restored != 2 {
			t.Errorf("after a change: %+v", k.Status())
		}
		s.fault = errors.New("no")
		s.looks(1)
		if st := k.Status(); st.Applied || st.Problem != "no" {
			t.Errorf("with a fault: %+v", st)
		}
		s.fault = nil
		s.looks(1)
		if st := k.Status(); !st.Applied || st.Problem != "" {
			t.Errorf("without: %+v", st)
		}
	})
}

// Who begins to listen gets its port, and keeps it a while when it goes. A UDP
// socket that is there and gone does not change the table.
// S2-02
func TestKeeperFollowsListeners(t *testing.T) {
	s := fakeSystem{held: Held{UDP: Single(40000)}}
	s.run(t, func(k *Keeper) {
		if s.have.UDP.Ports.Has(40000) {
			t.Error("a socket of before is not left alone")
		}
		s.held.TCP = Single(8080)
		s.looks(1)
		if s.have.TCP.Ports.Has(8080) {
			t.Error("a new listener is not left alone")
		}
		before := s.applied
		s.held.UDP = Single(40000, 50000)
		s.looks(1)
		s.held.UDP = Single(40000)
		s.looks(1)
		if s.applied != before {
			t.Error("a socket that was seen once changed the table")
		}
		s.held.UDP = Single(40000, 51820)
		s.looks(2)
		if s.have.UDP.Ports.Has(51820) {
			t.Error("a socket that stays is not left alone")
		}
		s.held = Held{}
		s.looks(1)
		if s.have.TCP.Ports.Has(8080) || s.have.UDP.Ports.Has(51820) {
			t.Error("a program that is being started anew lost its port")
		}
		s.looks(int(linger/Look) + 2)
		if !s.have.TCP.Ports.Has(8080) || !s.have.UDP.Ports.Has(51820) {
			t.Error("ports that nobody holds are still left out")
		}
		if k.Status().Restored != 0 {
			t.Error("our own changes are taken for another's")
		}
	})
}
