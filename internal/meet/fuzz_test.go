package meet

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/seal"
	"rendezvous/internal/session"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// nowhere is a socket that leads nowhere.
type nowhere struct{}

func (nowhere) Read(*dgram.Arena) ([]dgram.Burst, error) { return nil, net.ErrClosed }
func (nowhere) Write(dgram.Burst) error                  { return nil }
func (nowhere) LocalAddr() netip.AddrPort                { return ap("0.0.0.0:40000") }
func (nowhere) SetReadDeadline(time.Time) error          { return nil }
func (nowhere) Close() error                             { return nil }

// Whatever comes while we knock, nobody is taken for the peer who does not know
// the secret.
func FuzzReceive(f *testing.F) {
	secret := seal.Secret{1}
	_, first, err := seal.Meet(seal.Secret{2}, proto.Greeting{ID: 1}.Append(nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(proto.AppendMeet(nil, false, first), 1200)
	f.Add(proto.AppendMeet(nil, true, first), 20)
	f.Add([]byte{0xa0, 1, 2, 3}, 2)
	f.Add(make([]byte, 100), 50)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		if size < 1 || len(b) == 0 || len(b)/size > dgram.MaxSegments {
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		m := &meeting{cfg: Config{Secret: secret, Services: forward.NewServices(), Peer: ap(twos)}, conn: nowhere{}, rx: session.NewRx(),
			signals: newSignals(), talks: newTalks(), ctx: ctx, stun: stun.NewClient(nowhere{}.Write)}
		m.knocks.offers = rate.NewLimiter(offersEach, offersBurst)
		if err := m.startKnocking(time.Now()); err != nil {
			t.Fatal(err)
		}
		m.receive(dgram.Burst{Addr: ap("203.0.113.66:1"), Buf: b, Size: size})
		if len(m.talks.byToken) > 0 || m.current != nil || m.knocks.heard {
			t.Errorf("%x counts as the peer's", b)
		}
		cancel()
		m.tasks.Wait()
	})
}
