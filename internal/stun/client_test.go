package stun

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
)

// script is a client whose requests land in a test's hands.
type script struct {
	*Client
	mu    sync.Mutex
	sent  []dgram.Burst
	times []time.Time
	err   error
}

func newScript() *script {
	s := &script{}
	s.Client = NewClient(func(b dgram.Burst) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent = append(s.sent, b)
		s.times = append(s.times, time.Now())
		return s.err
	})
	return s
}

// ask runs an Ask beside the test.
func (s *script) ask(ctx context.Context, server netip.AddrPort, changeIP, changePort bool) chan outcome {
	done := make(chan outcome, 1)
	go func() {
		r, err := s.Ask(ctx, server, changeIP, changePort)
		done <- outcome{r, err}
	}()
	synctest.Wait()
	return done
}

// answer is a good answer to the i-th request.
func (s *script) answer(t *testing.T, i int, mapped string) []byte {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := parse(s.sent[i].Buf)
	if err != nil {
		t.Fatal(err)
	}
	a := newMessage(pion.BindingSuccess, m.TransactionID)
	addAddress(a, pion.AttrXORMappedAddress, ap(mapped))
	return a.Raw
}

var asked = netip.MustParseAddrPort("203.0.113.10:443")

func TestBindRepeats(t *testing.T) {
	for _, c := range []struct {
		name   string
		expect time.Duration
		want   []time.Duration // when each request leaves
	}{
		{"unknown round trip", 0, []time.Duration{0, 100, 300, 700, 1500, 3100, 4700, 6300}},
		{"40 ms", 40 * time.Millisecond, []time.Duration{0, 80, 240, 560, 1200, 2480, 4080, 5680}},
		{"1 ms", time.Millisecond, []time.Duration{0, 20, 60, 140, 300, 620, 1260, 2540, 4140, 5740}},
		{"satellite", 600 * time.Millisecond, []time.Duration{0, 500, 1500, 3100, 4700, 6300}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := newScript()
				if c.expect > 0 {
					s.Expect(c.expect)
				}
				begun := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 6500*time.Millisecond)
				defer cancel()
				_, err := s.Bind(ctx, asked)
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "203.0.113.10:443") {
					t.Error(err)
				}
				var got []time.Duration
				for _, at := range s.times {
					got = append(got, at.Sub(begun)/time.Millisecond)
				}
				if len(got) != len(c.want) {
					t.Fatalf("requests left at %v, want %v ms", got, c.want)
				}
				for i := range got {
					if got[i] != c.want[i] {
						t.Fatalf("requests left at %v, want %v ms", got, c.want)
					}
				}
				if len(s.pending) != 0 {
					t.Error("transactions were left behind")
				}
			})
		})
	}
}

// The answer to the first request may come after the second left; its round
// trip is its own.
func TestRoundTripOfARepeatedRequest(t *testing.T) {
	for _, answered := range []int{0, 1} {
		bubble.Test(t, func(t *testing.T) {
			s := newScript()
			done := s.ask(t.Context(), asked, false, false)
			time.Sleep(150 * time.Millisecond)
			s.Receive(asked, s.answer(t, answered, "198.51.100.2:40000"))
			o := <-done
			want := []time.Duration{150 * time.Millisecond, 50 * time.Millisecond}[answered]
			if o.err != nil || o.result.RTT != want || o.result.Mapped != ap("198.51.100.2:40000") || o.result.From != asked {
				t.Errorf("%+v; want %v", o, want)
			}
			if s.sent[0].Len() != 1 || s.sent[0].Addr != asked {
				t.Errorf("sent %v", s.sent[0])
			}
		})
	}
}

func TestReceiveRefuses(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScript()
		ctx, cancel := context.WithCancel(t.Context())
		done := s.ask(ctx, asked, false, false)
		good := s.answer(t, 0, "198.51.100.2:40000")
		m, _ := parse(good)

		s.Receive(asked, nil)
		s.Receive(asked, good[:24])
		s.Receive(asked, newMessage(pion.BindingSuccess, m.TransactionID).Raw) // no address
		s.Receive(asked, newMessage(pion.BindingError, m.TransactionID).Raw)   // no code
		zero := newMessage(pion.BindingSuccess, m.TransactionID)
		addAddress(zero, pion.AttrMappedAddress, ap("0.0.0.0:1"))
		s.Receive(asked, zero.Raw)
		s.Receive(asked, newMessage(pion.BindingSuccess, transaction{9}).Raw)
		s.Receive(asked, newMessage(pion.BindingRequest, m.TransactionID).Raw)
		s.Receive(ap("203.0.113.10:3478"), good)
		s.Receive(ap("203.0.113.66:443"), good)
		want := ClientStats{Sent: 1, Malformed: 5, Unexpected: 2, WrongSource: 2}
		if got := s.Stats(); got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
		synctest.Wait()
		select {
		case o := <-done:
			t.Errorf("an answer was accepted: %+v", o)
		default:
		}
		cancel()
		if o := <-done; !errors.Is(o.err, context.Canceled) {
			t.Error(o.err)
		}
		s.Receive(asked, good) // too late
		if got := s.Stats().Unexpected; got != 3 {
			t.Errorf("%d unexpected", got)
		}
	})
}

func TestAnswerTwice(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScript()
		done := s.ask(t.Context(), asked, false, false)
		time.Sleep(150 * time.Millisecond)
		first, second := s.answer(t, 0, "198.51.100.2:1"), s.answer(t, 1, "198.51.100.2:2")
		s.Receive(asked, first)
		s.Receive(asked, second)
		s.Receive(asked, first)
		if o := <-done; o.result.Mapped.Port() != 1 {
			t.Errorf("%+v", o)
		}
	})
}

func TestAskTakesAnswersFromElsewhere(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, from := range []string{"203.0.113.11:3478", "203.0.113.10:443"} {
			s := newScript()
			done := s.ask(t.Context(), asked, true, true)
			// A source as a socket of both families has it.
			mapped := netip.AddrPortFrom(netip.AddrFrom16(ap(from).Addr().As16()), ap(from).Port())
			s.Receive(mapped, s.answer(t, 0, "198.51.100.2:40000"))
			if o := <-done; o.err != nil || o.result.From != ap(from) {
				t.Errorf("%+v", o)
			}
		}
	})
}

func TestErrorAnswer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScript()
		done := s.ask(t.Context(), asked, true, false)
		m, _ := parse(s.sent[0].Buf)
		s.Receive(asked, refusal(m, pion.CodeUnknownAttribute, []pion.AttrType{pion.AttrChangeRequest}))
		o := <-done
		var refused *ErrorAnswer
		if !errors.As(o.err, &refused) || refused.Code != 420 || refused.Server != asked || !strings.Contains(refused.Error(), "420") {
			t.Error(o.err)
		}
		if got := s.Stats(); got.Refused != 1 || got.Answered != 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		writes int
	}{
		{net.ErrClosed, 1},
		{syscall.ENETUNREACH, maxWriteErrors},
	} {
		bubble.Test(t, func(t *testing.T) {
			s := newScript()
			s.err = c.err
			_, err := s.Bind(t.Context(), asked)
			if !errors.Is(err, c.err) || len(s.sent) != c.writes || s.Stats().WriteErrors != uint64(c.writes) {
				t.Errorf("%v after %d writes", err, len(s.sent))
			}
		})
	}
	// A queue that was full for a moment ends nothing.
	bubble.Test(t, func(t *testing.T) {
		s := newScript()
		s.err = syscall.ENOBUFS
		done := s.ask(t.Context(), asked, false, false)
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		time.Sleep(110 * time.Millisecond)
		s.Receive(asked, s.answer(t, 1, "198.51.100.2:40000"))
		if o := <-done; o.err != nil {
			t.Error(o.err)
		}
	})
}

func TestClientOnTheFakeInternet(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := newInet(20 * time.Millisecond)
		srv := serve(n, fourSockets())
		defer srv.Close()
		s, err := open(newHost(n, "198.51.100.9/24"), netip.IPv4Unspecified())
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		r, err := s.client.Bind(t.Context(), fourSockets()[0][0])
		if err != nil || r.RTT != 40*time.Millisecond || r.Mapped != s.conn.LocalAddr() || r.Other != fourSockets()[1][1] {
			t.Errorf("%+v, %v", r, err)
		}
		r, err = s.client.Ask(t.Context(), fourSockets()[0][0], true, false)
		if err != nil || r.From != fourSockets()[1][0] || r.Origin != r.From {
			t.Errorf("%+v, %v", r, err)
		}
		if got := srv.Stats(); got != (ResponderStats{Answered: 2}) {
			t.Errorf("%+v", got)
		}
	})
}
