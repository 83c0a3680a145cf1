package stream

import (
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
)

// slowly writes b in portions of random size at random times, and ends the
// direction.
func slowly(t testing.TB, r *rand.Rand, to *duplex, b []byte) {
	for len(b) > 0 {
		n := min(1+r.IntN(1<<r.IntN(18)), len(b))
		if _, err := to.Write(b[:n]); err != nil {
			t.Errorf("write: %v", err)
			return
		}
		b = b[n:]
		if r.IntN(4) == 0 {
			time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
		}
	}
	_ = to.CloseWrite()
}

// reader reads at random speed.
type reader struct {
	r    *rand.Rand
	from io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if r.r.IntN(8) == 0 {
		time.Sleep(time.Duration(r.r.IntN(20)) * time.Millisecond)
	}
	return r.from.Read(b[:min(len(b), 1+r.r.IntN(40000))])
}

// Carriers that die at any byte: in the greeting, in a header, in the last
// acknowledgement. Connections of any size and speed lose nothing and get
// nothing twice.
func TestCarriersThatDie(t *testing.T) {
	for seed := range uint64(150) {
		bubble.Test(t, func(t *testing.T) { oneThatDies(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func oneThatDies(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	p := newPair(t, func(near, far *Config) { near.NoCarrier, far.NoCarrier = time.Hour, time.Hour })
	defer p.close()
	size := 1 << (4 + r.IntN(15))
	life := func(r *rand.Rand) int { return 1 + r.IntN(1<<r.IntN(20)) }
	stop := make(chan struct{})
	carriers := rand.New(rand.NewPCG(seed, 2))
	lives := make(chan struct{})
	go func() {
		defer close(lives)
		for deaths := 0; ; deaths++ {
			n := life(carriers)
			if deaths > 40 {
				n = 0
			}
			a, _ := p.use(size, n)
			var better <-chan time.Time
			if carriers.IntN(3) == 0 {
				better = time.After(time.Duration(carriers.IntN(200)) * time.Millisecond)
			}
			select {
			case <-a.Done():
			case <-better:
			case <-stop:
				return
			}
			if carriers.IntN(3) == 0 {
				time.Sleep(time.Duration(carriers.IntN(3000)) * time.Millisecond)
			}
		}
	}()
	done := make(chan error, 10)
	n := 1 + r.IntN(4)
	for i := range n {
		up, down := noise(seed*10+uint64(i), r.IntN(1<<r.IntN(21))), noise(seed*10+uint64(i)+5, r.IntN(1<<r.IntN(21)))
		speeds := [4]*rand.Rand{}
		for i := range speeds {
			speeds[i] = rand.New(rand.NewPCG(r.Uint64(), 1))
		}
		go func() {
			who := string(rune('a' + i))
			client, ended := p.dial(Request{Service: who})
			service := <-p.service(who)
			go slowly(t, speeds[0], client, up)
			go slowly(t, speeds[1], service, down)
			both := make(chan struct{})
			go func() {
				want(t, reader{speeds[2], service}, up, "service "+who)
				close(both)
			}()
			want(t, reader{speeds[3], client}, down, "client "+who)
			<-both
			done <- <-ended
		}()
	}
	for range n {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(24 * time.Hour):
			p.dump(t)
			t.Fatal("it hangs")
		}
	}
	close(stop)
	<-lives
	time.Sleep(time.Hour + 2*lingerFor) // one side may wait for the other in vain
	p.empty(t)
}
