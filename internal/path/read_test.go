package path

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
)

// script is a conn whose reads are given.
type script struct {
	dgram.Conn
	reads []func(a *dgram.Arena) ([]dgram.Burst, error)
	at    []time.Time
}

func (s *script) Read(a *dgram.Arena) ([]dgram.Burst, error) {
	s.at = append(s.at, time.Now())
	if len(s.reads) == 0 {
		return nil, net.ErrClosed
	}
	next := s.reads[0]
	s.reads = s.reads[1:]
	return next(a)
}

func brings(payloads ...string) func(a *dgram.Arena) ([]dgram.Burst, error) {
	return func(a *dgram.Arena) ([]dgram.Burst, error) {
		a.Reset()
		for i, p := range payloads {
			n := copy(a.Slot(i), p)
			a.Add(dgram.One(netip.MustParseAddrPort("192.0.2.1:9"), a.Slot(i)[:n]))
		}
		return a.Bursts(), nil
	}
}

func breaks(err error) func(*dgram.Arena) ([]dgram.Burst, error) {
	return func(*dgram.Arena) ([]dgram.Burst, error) { return nil, err }
}

func TestReadHandsOnEveryBurstUntilClosed(t *testing.T) {
	conn := &script{reads: []func(*dgram.Arena) ([]dgram.Burst, error){brings("a", "b"), brings("c"), breaks(&net.OpError{Op: "read", Err: net.ErrClosed})}}
	var got string
	if err := Read(conn, func(b dgram.Burst) { got += string(b.Buf) }); err != nil || got != "abc" {
		t.Fatalf("got %q, %v; want abc, nil", got, err)
	}
}

func TestReadSurvivesErrorsWithoutSpinning(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		down := errors.New("network is down")
		conn := &script{}
		for range 10 {
			conn.reads = append(conn.reads, breaks(down))
		}
		conn.reads = append(conn.reads, brings("up"), breaks(down), brings("again"))
		var got []string
		if err := Read(conn, func(b dgram.Burst) { got = append(got, string(b.Buf)) }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got[0] != "up" || got[1] != "again" {
			t.Fatalf("got %q after the errors", got)
		}
		for i := 1; i <= 10; i++ {
			rest := conn.at[i].Sub(conn.at[i-1])
			if want := min(firstRest<<(i-1), mostRest); rest != want {
				t.Errorf("rest %d was %v, want %v", i, rest, want)
			}
		}
		if rest := conn.at[12].Sub(conn.at[11]); rest != firstRest {
			t.Errorf("the first rest after a success was %v, want %v", rest, firstRest)
		}
	})
}

func TestReadReturnsTheOwnersDeadline(t *testing.T) {
	conn := &script{reads: []func(*dgram.Arena) ([]dgram.Burst, error){breaks(os.ErrDeadlineExceeded)}}
	if err := Read(conn, func(dgram.Burst) {}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

// doors is a listener whose answers are given, before it is closed.
type doors struct {
	net.Listener
	errs []error
}

func (d *doors) Accept() (net.Conn, error) {
	if len(d.errs) == 0 {
		return nil, &net.OpError{Op: "accept", Err: net.ErrClosed}
	}
	err := d.errs[0]
	d.errs = d.errs[1:]
	return nil, err
}

func TestAcceptWaitsErrorsOut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		full := errors.New("too many open files")
		taken, failed := 0, 0
		began := time.Now()
		Accept(t.Context(), &doors{errs: []error{nil, full, full, nil}}, func(error) { failed++ }, func(net.Conn) { taken++ })
		if taken != 2 || failed != 2 || time.Since(began) != 2*mostRest {
			t.Errorf("%d were taken and %d failed, in %v", taken, failed, time.Since(began))
		}
	})
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	taken := 0
	Accept(ctx, &doors{errs: []error{nil, nil}}, func(error) {}, func(net.Conn) { taken++; cancel() })
	if taken != 1 {
		t.Errorf("%d were taken", taken)
	}
}
