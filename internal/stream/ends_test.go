package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// alone runs a test in virtual time, with a pair that is closed at its end.
func alone(t *testing.T, adjust func(near, far *Config), run func(t *testing.T, p *pair)) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, adjust)
		defer p.close()
		run(t, p)
	})
}

func TestHalfClose(t *testing.T) {
	alone(t, nil, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		client, ended := p.dial(Request{Service: "web"})
		service := <-p.service("web")
		send(t, client, []byte("question"))
		want(t, service, []byte("question"), "service")
		time.Sleep(time.Hour) // the other direction stays as it is
		send(t, service, []byte("answer"))
		want(t, client, []byte("answer"), "client")
		if err := <-ended; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		p.empty(t)
	})
}

// A connection that breaks on one side is reset on the other, whichever it is,
// also when there is no carrier at that moment.
func TestReset(t *testing.T) {
	for _, gap := range []bool{false, true} {
		for _, who := range []string{"client", "service"} {
			alone(t, nil, func(t *testing.T, p *pair) {
				a, _ := p.use(4096, 0)
				client, ended := p.dial(Request{Service: "web"})
				service := <-p.service("web")
				_, _ = client.Write([]byte("x"))
				time.Sleep(time.Second)
				if gap {
					_ = a.Close()
					synctest.Wait()
				}
				breaks, other := client, service
				if who == "service" {
					breaks, other = service, client
				}
				_ = breaks.SetLinger(0)
				if gap {
					time.Sleep(20 * time.Second)
					p.use(4096, 0)
				}
				if _, err := io.ReadAll(other); !errors.Is(err, errReset) {
					t.Errorf("the %s broke, with a gap %v; the other side sees %v", who, gap, err)
				}
				var reset *ResetError
				if err := <-ended; gap && who == "service" {
					if err == nil || !strings.Contains(err.Error(), "service's connection: connection reset") {
						t.Errorf("ended by %v", err)
					}
				} else if !errors.As(err, &reset) || reset.Remote != (who == "service") || !strings.Contains(err.Error(), "connection reset") {
					t.Errorf("the %s broke; Carry says %v", who, err)
				}
				time.Sleep(5 * time.Minute)
				p.empty(t)
			})
		}
	}
}

// Who does not read holds the sender back, at the cost of a window of memory
// and no other connection.
func TestBackpressure(t *testing.T) {
	limits := Limits{Window: 256 << 10}
	alone(t, func(near, far *Config) { near.Limits, far.Limits = limits, limits }, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		stuck, ended := p.dial(Request{Service: "stuck"})
		service := <-p.service("stuck")
		data := noise(1, 20<<20)
		go send(t, stuck, data)
		time.Sleep(time.Minute)
		held := p.near.retained.Load()
		p.far.mu.Lock()
		for _, c := range p.far.conns {
			c.mu.Lock()
			held += int64(c.in.received - c.in.delivered)
			c.mu.Unlock()
		}
		p.far.mu.Unlock()
		if most := int64(2*limits.Window + 2*largeBlock); held > most {
			t.Errorf("%d bytes are held, more than %d", held, most)
		}

		other, otherEnded := p.dial(Request{Service: "other"})
		otherService := <-p.service("other")
		go send(t, other, data)
		want(t, otherService, data, "the other service")
		_ = otherService.CloseWrite()

		// The stuck one's other direction is not stuck.
		_, _ = service.Write([]byte("hello"))
		if _, err := io.ReadFull(stuck, make([]byte, 5)); err != nil {
			t.Error(err)
		}
		want(t, service, data, "the slow service")
		_ = service.CloseWrite()
		if err := errors.Join(<-ended, <-otherEnded); err != nil {
			t.Error(err)
		}
	})
}

// Memory is bounded over all connections: where the budget is used up no window
// grows.
func TestMemory(t *testing.T) {
	limits := Limits{Memory: 1 << 20}
	alone(t, func(near, far *Config) { near.Limits, far.Limits = limits, limits }, func(t *testing.T, p *pair) {
		p.use(1<<20, 0)
		for range 40 {
			client, _ := p.dial(Request{Service: "many"})
			go func() { _, _ = client.Write(make([]byte, 4<<20)) }()
			service := <-p.service("many")
			go func() { _, _ = io.ReadFull(service, make([]byte, 1<<20)) }() // and then nothing
		}
		time.Sleep(time.Minute)
		most := int64(limits.Memory) + 40*(firstWindow+largeBlock)
		if n := p.near.retained.Load(); n > most {
			t.Errorf("%d bytes wait to be acknowledged, more than %d", n, most)
		}
		if n := p.far.windows.Load(); n > most {
			t.Errorf("%d bytes were allowed, more than %d", n, most)
		}
	})
}

func TestNoCarrier(t *testing.T) {
	var asked atomic.Int32
	alone(t, func(near, _ *Config) { near.Need = func(path.Kinds) { asked.Add(1) } }, func(t *testing.T, p *pair) {
		client, ended := p.dial(Request{Service: "web"})
		start := time.Now()
		if err := <-ended; !errors.Is(err, ErrNoCarrier) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, errReset) {
			t.Errorf("the client sees %v", err)
		}
		if asked.Load() == 0 {
			t.Error("nobody was asked for a carrier")
		}

		// The same in the middle of it, on both sides.
		a, _ := p.use(4096, 0)
		client, ended = p.dial(Request{Service: "web"})
		service := <-p.service("web")
		time.Sleep(time.Second)
		_ = a.Close()
		start = time.Now()
		if err := <-ended; !errors.Is(err, ErrNoCarrier) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		for who, end := range map[string]*duplex{"client": client, "service": service} {
			if _, err := end.Read(make([]byte, 1)); !errors.Is(err, errReset) {
				t.Errorf("the %s sees %v", who, err)
			}
		}
		synctest.Wait() // the readers of both local connections have seen their ends
		p.empty(t)
	})
}

func TestIdle(t *testing.T) {
	alone(t, func(near, _ *Config) { near.Idle = time.Hour }, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		client, ended := p.dial(Request{Service: "web"})
		service := <-p.service("web")
		for range 10 {
			time.Sleep(50 * time.Minute)
			_, _ = client.Write([]byte("x"))
		}
		start := time.Now()
		if err := <-ended; !errors.Is(err, ErrIdle) || time.Since(start) > 2*time.Hour {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if _, err := io.ReadAll(service); !errors.Is(err, errReset) {
			t.Errorf("the service sees %v", err)
		}
	})
}

func TestRefusals(t *testing.T) {
	answers := map[string]error{
		"down": errors.New("dial 127.0.0.1:22: connection refused; is it running?"),
		"long": errors.New(strings.Repeat("ä", 500)),
	}
	alone(t, func(_, far *Config) {
		far.Accept = func(_ context.Context, r Request) (net.Conn, error) { return nil, answers[r.Service] }
	}, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		for service, answer := range answers {
			client, ended := p.dial(Request{Service: service})
			_, _ = client.Write([]byte("early"))
			var refused *RefusedError
			if err := <-ended; !errors.As(err, &refused) || !strings.HasPrefix(answer.Error(), refused.Reason) || len(refused.Reason) < 20 {
				t.Errorf("%q is told as %v", answer, err)
			}
			if _, err := io.ReadAll(client); !errors.Is(err, errReset) {
				t.Errorf("the client sees %v", err)
			}
		}
		if n := p.far.Status().Refused; n != 2 {
			t.Errorf("%d were counted", n)
		}
		time.Sleep(time.Second)
		p.empty(t)
	})
}

// A service with a rule of its own is asked again under that; where the rules
// of both ends have nothing in common, it is refused.
func TestNarrow(t *testing.T) {
	rule := path.KindsOf(path.DirectUDP)
	var narrowed atomic.Int32
	alone(t, func(near, far *Config) {
		near.Narrowed = func(Request) { narrowed.Add(1) }
		accept := far.Accept
		far.Accept = func(ctx context.Context, r Request) (net.Conn, error) {
			if r.Only == rule {
				return accept(ctx, r)
			}
			return nil, &RefusedError{Reason: "this service goes over other paths only", Only: rule}
		}
	}, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		a, b := newCarriers(4096, 0)
		p.near.UseFor(rule, a)
		p.far.UseFor(rule, b)
		client, ended := p.dial(Request{Service: "web"})
		go send(t, client, []byte("early"))
		service := <-p.service("web")
		want(t, service, []byte("early"), "service")
		_ = service.CloseWrite()
		if err := <-ended; err != nil || narrowed.Load() != 1 {
			t.Errorf("%v, narrowed %d times", err, narrowed.Load())
		}

		other := path.KindsOf(path.RelayUDP)
		a, b = newCarriers(4096, 0)
		p.near.UseFor(other, a)
		p.far.UseFor(other, b)
		_, ended = p.dial(Request{Service: "web", Only: other})
		var refused *RefusedError
		if err := <-ended; !errors.As(err, &refused) || refused.Only != rule {
			t.Error(err)
		}
	})
}

func TestLimits(t *testing.T) {
	alone(t, func(_, far *Config) { far.Limits.Connections = 2 }, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		for range 2 {
			p.dial(Request{Service: "web"})
			<-p.service("web")
		}
		_, ended := p.dial(Request{Service: "web"})
		var refused *RefusedError
		if err := <-ended; !errors.As(err, &refused) || !strings.Contains(err.Error(), "too many") {
			t.Error(err)
		}
		if s := p.far.Status(); s.Connections != 2 || s.Accepted != 2 || s.Refused != 1 || s.Carriers != 1 {
			t.Errorf("%+v", s)
		}
	})
	alone(t, func(_, far *Config) {
		far.Limits.Dialing = 1
		far.Accept = func(ctx context.Context, _ Request) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		_, first := p.dial(Request{})
		synctest.Wait()
		_, second := p.dial(Request{})
		if err := <-second; err == nil || !strings.Contains(err.Error(), "too many") {
			t.Error(err)
		}
		start := time.Now()
		if err := <-first; err == nil || time.Since(start) > acceptWithin {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// A better carrier takes living connections over, and the earlier one is
// closed.
func TestMove(t *testing.T) {
	alone(t, nil, func(t *testing.T, p *pair) {
		first, _ := p.use(4096, 0)
		client, ended := p.dial(Request{Service: "web"})
		service := <-p.service("web")
		go func() { _, _ = io.Copy(service, service); _ = service.CloseWrite() }()
		say := func() {
			_, _ = client.Write([]byte("hello"))
			if _, err := io.ReadFull(client, make([]byte, 5)); err != nil {
				t.Error(err)
			}
		}
		say()
		second, _ := p.use(4096, 0)
		start := time.Now()
		say()
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v", took)
		}
		<-first.Done()
		if took := time.Since(start); took > drainWithin {
			t.Errorf("the earlier carrier was closed after %v", took)
		}
		select {
		case <-second.Done():
			t.Error("the later one was closed too")
		default:
		}
		say()
		_ = client.CloseWrite()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A connection with a rule goes over the carrier for that rule alone.
func TestRules(t *testing.T) {
	rule := path.KindsOf(path.DirectUDP)
	alone(t, func(near, _ *Config) { near.NoCarrier = time.Hour }, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		client, ended := p.dial(Request{Service: "web", Only: rule})
		time.Sleep(time.Minute)
		if s := p.near.Status(); s.Waiting != 1 || !p.near.Has(0) || p.near.Has(rule) {
			t.Errorf("%+v", s)
		}
		a, b := newCarriers(4096, 0)
		p.near.UseFor(rule, a)
		p.far.UseFor(rule, b)
		service := <-p.service("web")
		send(t, service, nil)
		send(t, client, nil)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Who gives up breaks the connection on both sides.
func TestCancel(t *testing.T) {
	alone(t, nil, func(t *testing.T, p *pair) {
		p.use(4096, 0)
		_, local := newDuplex(4096)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.near.Carry(ctx, local, Request{Service: "web"}) }()
		service := <-p.service("web")
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, err := io.ReadAll(service); !errors.Is(err, errReset) {
			t.Errorf("the service sees %v", err)
		}
	})
}
