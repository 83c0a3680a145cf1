package dgram

import (
	"net/netip"
	"testing"
	"time"
)

// What goes to a port that nobody has is counted as refused while that is asked
// for, and the socket goes on.
func TestRefusalsAreCounted(t *testing.T) {
	network := System(DefaultOptions())
	at := netip.MustParseAddr("127.0.0.1")
	in, conn, closed := listen(t, network, at), listen(t, network, at), listen(t, network, at)
	closed.Close()
	counter := conn.(RefusalCounter)
	shoot := func() {
		t.Helper()
		for range 10 {
			if err := conn.Write(One(closed.LocalAddr(), []byte("x"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	shoot()
	if n := counter.Refusals(); n != 0 {
		t.Errorf("%d without asking", n)
	}
	if err := counter.CountRefusals(true); err != nil {
		t.Fatal(err)
	}
	shoot()
	n := 0
	for until := time.Now().Add(5 * time.Second); n == 0 && time.Now().Before(until); {
		n += counter.Refusals()
	}
	// The kernel answers its own host without a limit, and at once.
	if n < 5 || n > 10 {
		t.Errorf("%d of 10 refused", n)
	}
	if err := conn.Write(One(in.LocalAddr(), numbered(1, 9))); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, in, conn.LocalAddr(), 1); string(got[0]) != string(numbered(1, 9)) {
		t.Error("another datagram")
	}
	shoot()
	if err := counter.CountRefusals(false); err != nil {
		t.Fatal(err)
	}
	if n := counter.Refusals(); n != 0 {
		t.Errorf("%d after it was turned off", n)
	}
	if err := listen(t, network, netip.IPv6Loopback()).(RefusalCounter).CountRefusals(true); err == nil {
		t.Error("IPv6 is not counted, and says nothing")
	}
}

func FuzzRefuses(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Fuzz(func(_ *testing.T, b []byte) { refuses(b) })
}
