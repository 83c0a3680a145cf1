package portmap

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"rendezvous/internal/dgram"
)

// road is the way from one address of ours to a gateway.
type road struct {
	gateway, source netip.Addr
}

// strangers bounds how many datagrams that answer nothing one question hears
// out.
const strangers = 64

// ask sends a question to the gateway's port for PCP and NAT-PMP, repeats it,
// and gives each answer of the gateway to take, until that is content. An error
// of take's is remembered, and more is heard: what a fault or a forger sends
// must not keep the right answer out.
func ask(ctx context.Context, n dgram.Network, r road, question []byte, take func([]byte) (bool, error)) error {
	conn, err := n.ListenUDP(netip.AddrPortFrom(r.source, 0))
	if err != nil {
		return faultf(unreachable, "ask the gateway %v from %v: %v", r.gateway, r.source, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	to := netip.AddrPortFrom(r.gateway, udpPort)
	q := &questions{conn: conn, ends: time.Now().Add(askWithin)}
	for pause := askFirst; ; pause *= 2 {
		if err := conn.Write(dgram.One(to, question)); err != nil && q.last == nil {
			q.last = faultf(unreachable, "ask the gateway %v: %v", to, err)
		}
		done, err := q.hear(ctx, time.Now().Add(pause), func(b dgram.Burst) (bool, error) {
			if b.Addr != to {
				return false, faultf(otherHost, "%v answered in place of the gateway %v", b.Addr, to)
			}
			return take(b.Buf)
		})
		if done || err != nil {
			return err
		}
	}
}

// questions is one socket that waits for answers.
type questions struct {
	conn  dgram.Conn
	ends  time.Time
	heard int
	last  error // the newest fault
}

// hear reads until take is content (true), or the time until has come (false).
// It gives an error when the time for all is over.
func (q *questions) hear(ctx context.Context, until time.Time, take func(dgram.Burst) (bool, error)) (bool, error) {
	if until.After(q.ends) {
		until = q.ends
	}
	_ = q.conn.SetReadDeadline(until)
	var arena dgram.Arena
	defer arena.Release()
	for ctx.Err() == nil && q.heard < strangers {
		bursts, err := q.conn.Read(&arena)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if time.Now().Before(q.ends) && ctx.Err() == nil {
				return false, nil
			}
			break
		}
		if err != nil {
			return false, err
		}
		for _, b := range bursts {
			if done, err := q.each(b, take); done {
				return true, err
			}
		}
	}
	return false, q.over(ctx)
}

// each gives single datagrams to take. Done with an error is a refusal.
func (q *questions) each(b dgram.Burst, take func(dgram.Burst) (bool, error)) (bool, error) {
	for d := range b.All() {
		q.heard++
		done, err := take(dgram.One(b.Addr, d))
		if done {
			return true, err
		}
		if err != nil {
			q.last = err
		}
	}
	return false, nil
}

// over is why nothing came of it.
func (q *questions) over(ctx context.Context) error {
	switch {
	case q.last != nil:
		return q.last
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return faultf(noAnswer, "no answer in %v", askWithin)
}
