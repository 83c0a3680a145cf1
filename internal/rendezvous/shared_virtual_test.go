package rendezvous

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// Strangers of all sorts come at once to a port that is shared, and stay as long
// as they are let: silent, byte by byte, with half of something, with garbage,
// half open. All of them end, and agents are served meanwhile.
// S2-09
func TestHostileAtASharedPort(t *testing.T) {
	openings := []string{
		"", "\xff\xfe\xfd", "\x16\x03\x01\x40\x00\x01\x01\x86\xa0", "\x00\x36\x38\x01\x02\x03", "GE", "SS", "\x00\x01\x00", "\x16",
		recordedHello(t, "www.example.net")[:300], "\x16\x03\x01\x00\x01\x01\x16\x03\x01\x00\x01\x00",
	}
	bubble.Test(t, func(t *testing.T) {
		lab := natlab.New(t, natlab.Options{Seed: 1})
		vps := lab.Host("vps", "203.0.113.10/24")
		crowd := lab.Host("crowd", "198.51.100.1/24", natlab.Delay(10*time.Millisecond))
		at := netip.MustParseAddrPort("203.0.113.10:443")
		registry := testRegistry(t, t.TempDir())
		defer func() { _ = registry.Close() }()
		config := sharing(t, `
backends: {web: {tcp: "127.0.0.1:8443"}, vpn: {tcp: "127.0.0.1:1194"}}
tcp: [{is: tls, names: www.example.org, to: web}, {is: openvpn, to: vpn}, {is: ssh, to: vpn}]
`)
		c := startCoordinator(t, registry, vps, at, func(c *Config) {
			c.Alternate, c.Streams, c.Share = NoAlternate, vps, config
		})
		defer c.stop()
		dial := func() (net.Conn, error) { return crowd.DialTCP(t.Context(), netip.AddrPort{}, at) }
		ended := make(chan time.Duration, 200)
		for n := range cap(ended) {
			conn, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			came := time.Now()
			go linger(conn, openings[n%len(openings)], func() { ended <- time.Since(came) })
		}
		came := time.Now()
		if err := newGuest(t, "home").connect(t.Context(), crowd, anyV4, at, c.pin); err != nil {
			t.Errorf("an agent is not served: %v", err)
		}
		conn, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		wantPage(t, tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), "/", http.StatusOK)
		if took := time.Since(came); took > time.Second {
			t.Errorf("others were served after %v", took)
		}
		for range cap(ended) {
			if took := <-ended; took > greetWithin+time.Second {
				t.Errorf("one was let stay for %v", took)
			}
		}
		if st, err := c.Status(); err != nil || st.Drops["tcp-unknown"]+st.Drops["tcp-silent"]+st.Drops["tcp-handshake"] < 100 || st.Connections > 1 {
			t.Errorf("%d are open; drops %v, %v", st.Connections, st.Drops, err)
		}
	})
}

// linger sends a byte every 100 ms and then nothing, until the connection is
// closed.
func linger(conn net.Conn, opening string, ended func()) {
	defer ended()
	defer func() { _ = conn.Close() }()
	go func() {
		for _, b := range []byte(opening) {
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	b := make([]byte, 4096)
	for {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}
