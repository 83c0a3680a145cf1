package session

import (
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// sink is a conn that keeps the last burst and sends nothing.
type sink struct{ last dgram.Burst }

func (*sink) Read(*dgram.Arena) ([]dgram.Burst, error) { select {} }
func (s *sink) Write(b dgram.Burst) error {
	s.last = dgram.Burst{Addr: b.Addr, Buf: append(s.last.Buf[:0], b.Buf...), Size: b.Size}
	return nil
}
func (*sink) LocalAddr() netip.AddrPort       { return netip.MustParseAddrPort("192.0.2.1:1") }
func (*sink) SetReadDeadline(time.Time) error { return nil }
func (*sink) Close() error                    { return nil }

type devNull struct{}

func (devNull) Deliver(uint16, dgram.Burst) {}
func (devNull) Frame(*proto.Frame)          {}
func (devNull) Event(Event)                 {}

// benched is a sender and a receiver with a proven path between.
func benched(b testing.TB) (tx, rx *Session, conn *sink, p path.Path) {
	conn = &sink{}
	p = path.Path{Conn: conn, Addr: netip.MustParseAddrPort("192.0.2.2:2")}
	secret := seal.NewSecret()
	for i := range 2 {
		s := New(Config{Probe: seal.DeriveProbeKeys(make([]byte, 32), secret, i == 0), Initiator: i == 0, Handler: devNull{}})
		keys := seal.Keys{Send: [32]byte{1}, Receive: [32]byte{1}, Cipher: seal.AES256GCM}
		s.Establish(keys)
		st := s.add(p, path.DirectUDP, time.Now())
		close(st.proven)
		st.size.mtu = 1472
		s.mu.Lock()
		s.choose(time.Now())
		s.mu.Unlock()
		if i == 0 {
			tx = s
		} else {
			rx = s
		}
	}
	return tx, rx, conn, p
}

func BenchmarkSend(b *testing.B) {
	for name, n := range map[string]uint32{"burst16": 16, "one": 1} {
		b.Run(name, func(b *testing.B) {
			tx, _, _, _ := benched(b)
			burst := burstOf(0, n, 1400)
			b.ReportAllocs()
			b.SetBytes(int64(len(burst.Buf)))
			for b.Loop() {
				tx.Send(1, burst)
			}
		})
	}
}

func BenchmarkSendAndReceive(b *testing.B) {
	for name, n := range map[string]uint32{"burst16": 16, "one": 1} {
		b.Run(name, func(b *testing.B) {
			tx, rx, conn, p := benched(b)
			burst := burstOf(0, n, 1400)
			mem := NewRx()
			b.ReportAllocs()
			b.SetBytes(int64(len(burst.Buf)))
			for b.Loop() {
				tx.Send(1, burst)
				rx.Receive(mem, p, path.DirectUDP, conn.last)
			}
			if d := rx.Counts().Dropped; len(d) > 0 {
				b.Fatal(d)
			}
		})
	}
}
