package rendezvous

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/veil"
	"rendezvous/proto"
)

// wire notes all that crosses a net.PacketConn.
type wire struct {
	net.PacketConn
	mu  sync.Mutex
	all [][]byte
}

func (w *wire) note(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, bytes.Clone(b))
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := w.PacketConn.ReadFrom(b)
	if err == nil {
		w.note(b[:n])
	}
	return n, from, err
}

func (w *wire) WriteTo(b []byte, to net.Addr) (int, error) {
	w.note(b)
	return w.PacketConn.WriteTo(b, to)
}

// An agent under the veil and one without are served on one port. Of the first
// nothing is to be seen that QUIC or this protocol has: no fixed bit, no
// version, no length twice as often as by chance.
// S2-12
func TestVeiledControl(t *testing.T) {
	c := sharedCoordinator(t, nil)
	for name, veiled := range map[string]bool{"home": true, "laptop": false} {
		conn, err := localNetwork().ListenUDP(loopback)
		if err != nil {
			t.Fatal(err)
		}
		pc := dgram.NewPacketConn(conn)
		var read sync.WaitGroup
		read.Go(func() { _ = path.Read(conn, pc.Deliver) })
		seen := &wire{PacketConn: pc}
		g := newGuest(t, name)
		var over net.PacketConn = seen
		if veiled {
			v, err := veil.New(c.pin, false)
			if err != nil {
				t.Fatal(err)
			}
			over = veil.Packets(seen, v)
		}
		if g.Client, err = Dial(t.Context(), over, c.Addrs()[0], c.pin, g.certificate()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		g.join(c.invite(t))
		for range 30 {
			g.must(&proto.ToCoordinator{Body: &proto.ToCoordinator_Lookup{Lookup: &proto.Lookup{Name: name}}})
		}
		_ = g.Close()
		_ = conn.Close()
		_ = pc.Close()
		read.Wait()
		fixed, versions := seen.looksQUIC()
		t.Logf("%s: %d datagrams; %d have QUIC's fixed bit, %d its version", name, len(seen.all), fixed, versions)
		n := len(seen.all)
		if veiled && (versions > 0 || fixed < n/5 || fixed > n*4/5) {
			t.Error("QUIC is to be seen")
		}
		if !veiled && fixed != n {
			t.Error("the test does not see QUIC where it is")
		}
	}
}

func (w *wire) looksQUIC() (fixed, versions int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.all {
		if d[0]&0x40 != 0 {
			fixed++
		}
		if bytes.HasPrefix(d[1:], []byte{0, 0, 0, 1}) {
			versions++
		}
	}
	return fixed, versions
}
