package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/quic-go/quic-go"
	"github.com/rs/zerolog"

	"rendezvous/proto"
)

// The first byte of each stream of yamux says what it is.
const (
	streamControl = 'c' // messages, as on QUIC's stream
	streamLeg     = 'r' // datagrams of a relay leg, each behind its length
	streamSplice  = 's' // bytes for the other leg of an allocation
)

// Bounds of yamux in TLS.
const (
	maxStreams     = 64               // of one TLS connection
	maxPending     = 16               // streams that nobody has accepted yet
	streamMost     = 2 << 20          // bytes that may be on their way in one stream: 160 Mbit/s at 100 ms
	muxWithin      = 30 * time.Second // for a frame to be written, or a ping to be answered
	farewellWithin = time.Second      // for the last words of a control connection
)

// muxConfig is that of both ends. Pings are ours (see pulse), as they measure
// the round trip too.
func muxConfig(log zerolog.Logger) *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = maxPending
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = muxWithin
	c.MaxStreamWindowSize = streamMost
	c.StreamOpenTimeout = muxWithin
	c.StreamCloseTimeout = 0 // half-closed streams count among maxStreams, which bounds them
	c.LogOutput = nil
	c.Logger = muxLog{log}
	return c
}

// muxLog takes what yamux says. The connection's end is reported by its owner,
// so that it is only of interest to whoever debugs.
type muxLog struct{ log zerolog.Logger }

// Print is that of yamux.Logger.
func (l muxLog) Print(v ...any) { l.log.Debug().Msg(fmt.Sprint(v...)) }

// Printf is that of yamux.Logger.
func (l muxLog) Printf(format string, v ...any) { l.log.Debug().Msgf(format, v...) }

// Println is that of yamux.Logger.
func (l muxLog) Println(v ...any) { l.log.Debug().Msg(fmt.Sprint(v...)) }

// pulse keeps a session of yamux alive, ends it when the other end is silent,
// and measures the round trip: through proxies and all, which the kernel's own
// figure would leave out.
type pulse struct {
	session *yamux.Session
	ctx     context.Context
	ended   context.CancelCauseFunc

	mu      sync.Mutex
	samples []time.Duration // the last, oldest first
	answers uint64          // all of them
	asking  bool            // ask waits for one
}

// Of the last samples the shortest counts: the rest was queues.
const pulseSamples = 8

// The first pings come soon, since introductions are timed by what they find.
var pulseFirst = []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond, time.Second}

func newPulse(session *yamux.Session) *pulse {
	p := &pulse{session: session}
	p.ctx, p.ended = context.WithCancelCause(context.Background())
	return p
}

// run pings until the session is closed.
func (p *pulse) run() {
	for i := 0; ; i++ {
		wait := keepAlive
		if i < len(pulseFirst) {
			wait = pulseFirst[i]
		}
		timer := time.NewTimer(wait)
		select {
		case <-p.session.CloseChan():
			timer.Stop()
			p.ended(errCut)
			return
		case <-timer.C:
		}
		took, err := p.session.Ping()
		if err != nil {
			if !p.session.IsClosed() {
				p.ended(fmt.Errorf("it has been silent for %v", muxWithin))
			}
			_ = p.session.Close()
			continue // to where that is seen
		}
		p.note(took)
	}
}

var errCut = errors.New("the connection was cut")

func (p *pulse) note(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers++
	if len(p.samples) == pulseSamples {
		p.samples = slices.Delete(p.samples, 0, 1)
	}
	p.samples = append(p.samples, took)
}

// ask pings beside run, once at a time.
func (p *pulse) ask() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking {
		return
	}
	p.asking = true
	go func() { // it ends with the session, or when yamux has waited for long enough
		took, err := p.session.Ping()
		if err == nil {
			p.note(took)
		}
		p.mu.Lock()
		p.asking = false
		p.mu.Unlock()
	}()
}

func (p *pulse) heard() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers
}

// roundTrip is 0 before the first answer.
func (p *pulse) roundTrip() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.samples) == 0 {
		return 0
	}
	return slices.Min(p.samples)
}

// wordTLS names a connection over TLS, as "quic" does one over QUIC.
const wordTLS = "tls"

// overTLS is a control stream of yamux as a carrier, on either end.
type overTLS struct {
	*pulse
	stream *yamux.Stream
	at     look // without its round trip
	tasks  *sync.WaitGroup
	once   sync.Once
}

// ended is that of carrier.
func (o *overTLS) ended() context.Context { return o.ctx }

// look is that of carrier.
func (o *overTLS) look() look {
	at := o.at
	at.roundTrip, at.heard = o.roundTrip(), o.heard()
	return at
}

// end is that of carrier: the last message says why, and the stream's end
// follows. TCP would lose that message if we closed with something unread, so
// the other end may close first, for a while.
func (o *overTLS) end(code quic.ApplicationErrorCode, text string) error {
	o.once.Do(func() {
		o.tasks.Go(func() {
			limit := time.AfterFunc(farewellWithin, func() { _ = o.session.Close() })
			defer limit.Stop()
			if last := lastWords(code, text); last != nil {
				_ = proto.WriteMessage(o.stream, last) // it is gone already, if that fails
			}
			_ = o.stream.Close()
			if code == closeDone {
				_ = o.session.Close() // nobody needs to read anything
			}
			<-o.session.CloseChan()
		})
	})
	return nil
}

// lastWords is the message for a code that QUIC would carry itself: an Error
// with id 0, which nobody asked for. None where there is nothing to say, or
// Goodbye said it.
func lastWords(code quic.ApplicationErrorCode, text string) *proto.ToAgent {
	switch {
	case code == closeDone || code == closeStopping:
		return nil
	case code > closeCode:
		return &proto.ToAgent{Body: &proto.ToAgent_Error{Error: &proto.Error{Code: proto.Code(code - closeCode), Text: text}}}
	}
	return &proto.ToAgent{Body: &proto.ToAgent_Error{Error: &proto.Error{Text: text}}}
}

// lastReason is what lastWords mean.
func lastReason(e *proto.Error) error {
	if e.GetCode() == proto.Code_CODE_UNSPECIFIED {
		return fmt.Errorf("the coordinator closed the connection: %s", e.GetText())
	}
	return &CodeError{Code: e.GetCode(), Text: e.GetText()}
}

// readKind reads the byte that a stream begins with.
func readKind(s controlStream) (byte, error) {
	if err := s.SetReadDeadline(time.Now().Add(greetWithin)); err != nil {
		return 0, err
	}
	var kind [1]byte
	if _, err := io.ReadFull(s, kind[:]); err != nil {
		return 0, err
	}
	return kind[0], s.SetReadDeadline(time.Time{})
}
