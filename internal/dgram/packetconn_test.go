package dgram

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/natlab/bubble"
)

// paper is a Conn that keeps what was written.
type paper struct {
	Conn
	wrote []Burst
	err   error
}

func (p *paper) LocalAddr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:443") }

func (p *paper) Write(b Burst) error {
	p.wrote = append(p.wrote, b)
	return p.err
}

var peer = netip.MustParseAddrPort("198.51.100.2:4433")

func readString(t *testing.T, p *PacketConn) string {
	t.Helper()
	b := make([]byte, 2000)
	n, from, err := p.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	if from.String() != peer.String() {
		t.Fatalf("from %v, want %v", from, peer)
	}
	return string(b[:n])
}

func TestPacketConnReadsWhatIsDelivered(t *testing.T) {
	p := NewPacketConn(&paper{})
	buf := []byte("aaabbbc")
	p.Deliver(Burst{Addr: peer, Buf: buf, Size: 3})
	p.Deliver(One(peer, nil))
	p.Deliver(One(peer, []byte("last")))
	clear(buf) // the reader uses its memory again
	for _, want := range []string{"aaa", "bbb", "c", "", "last"} {
		if got := readString(t, p); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestPacketConnKeepsTheNewest(t *testing.T) {
	p := NewPacketConn(&paper{})
	for i := range inboxSize + 10 {
		p.Deliver(One(peer, numbered(i, 1000)))
	}
	if got := p.Dropped(); got != 10 {
		t.Errorf("dropped %d, want 10", got)
	}
	for i := range inboxSize {
		if got := readString(t, p); got != string(numbered(i+10, 1000)) {
			t.Fatalf("datagram %d is another one", i)
		}
	}
}

func TestPacketConnWaitsAndWakes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := NewPacketConn(&paper{})
		got := make(chan string)
		go func() { got <- readString(t, p) }()
		synctest.Wait()
		p.Deliver(One(peer, []byte("hello")))
		if s := <-got; s != "hello" {
			t.Fatalf("got %q", s)
		}

		start := time.Now()
		p.SetReadDeadline(start.Add(time.Second))
		if _, _, err := p.ReadFrom(nil); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Fatalf("%v after %v, want the deadline after 1s", err, time.Since(start))
		}
		// A later deadline, set while a read waits, counts from then on.
		p.SetReadDeadline(time.Time{})
		ended := make(chan error)
		go func() {
			_, _, err := p.ReadFrom(nil)
			ended <- err
		}()
		synctest.Wait()
		p.SetReadDeadline(time.Now().Add(-time.Second))
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		p.SetReadDeadline(time.Time{})
		go func() {
			_, _, err := p.ReadFrom(nil)
			ended <- err
		}()
		synctest.Wait()
		p.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		p.Deliver(One(peer, []byte("too late")))
		if err := p.SetReadDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	})
}

func TestPacketConnWrites(t *testing.T) {
	under := &paper{}
	p := NewPacketConn(under)
	mapped := &net.UDPAddr{IP: net.IP(peer.Addr().AsSlice()).To16(), Port: int(peer.Port())}
	if n, err := p.WriteTo([]byte("quic"), mapped); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	if b := under.wrote[0]; b.Addr != peer || string(b.Buf) != "quic" || b.Len() != 1 {
		t.Fatalf("wrote %+v", b)
	}
	if got := p.LocalAddr().(*net.UDPAddr).String(); got != "192.0.2.1:443" {
		t.Errorf("local address %s", got)
	}
	if _, err := p.WriteTo(nil, &net.IPAddr{}); err == nil || !strings.Contains(err.Error(), "invalid") {
		t.Errorf("an address that isn't UDP's: %v", err)
	}
}

// quic-go ends a connection at the first error of WriteTo that it doesn't know.
func TestPacketConnHidesErrorsThatPass(t *testing.T) {
	under := &paper{}
	p := NewPacketConn(under)
	to := net.UDPAddrFromAddrPort(peer)
	for i, err := range []error{syscall.ENETUNREACH, syscall.EAGAIN, ErrTooLarge} {
		under.err = &Error{Op: "write", Err: err}
		if n, err := p.WriteTo([]byte("x"), to); n != 1 || err != nil {
			t.Errorf("%v came through", err)
		}
		if p.Unsent() != uint64(i+1) {
			t.Errorf("%v was not counted", err)
		}
	}
	under.err = net.ErrClosed
	if _, err := p.WriteTo([]byte("x"), to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

func TestPacketConnAllocatesNothing(t *testing.T) {
	p := NewPacketConn(&blackhole{})
	b, d := make([]byte, 1500), One(peer, make([]byte, 1300))
	to := net.UDPAddrFromAddrPort(peer)
	p.Deliver(d)
	readString(t, p)
	if n := testing.AllocsPerRun(100, func() {
		p.Deliver(d)
		if _, _, err := p.ReadFrom(b); err != nil {
			t.Fatal(err)
		}
		if _, err := p.WriteTo(b, to); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a datagram each way, want 0", n)
	}
}

type blackhole struct{ paper }

func (*blackhole) Write(Burst) error { return nil }
