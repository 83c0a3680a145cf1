package faketcp

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// checkThrough opens from the left to the right through boxes and checks.
func checkThrough(t *testing.T, o Options, boxes ...box) (Verdict, *host, error) {
	t.Helper()
	w := newWire(leftAddr, rightAddr, boxes...)
	left, _ := w.hosts(t, o)
	if err := left.Open(t.Context(), rightAddr); err != nil {
		t.Fatal(err)
	}
	v, err := left.Check(t.Context(), rightAddr)
	return v, left, err
}

// Shows S0-21: each box is told by what it does, and an accelerator that splits
// the connection is recognised, however it goes about it.
func TestCheckTellsBoxes(t *testing.T) {
	strip := edit(func(_ course, p *parcel) { p.options = nil })
	clampWindow := edit(func(_ course, p *parcel) { p.window = min(p.window, 0x4000) })
	clampMSS := edit(func(d course, p *parcel) {
		if d == rightwards && len(p.options) > 3 {
			p.options = append([]byte{2, 4, 5, 0}, p.options[4:]...)
		}
	})
	for _, test := range []struct {
		name  string
		boxes []box
		want  string
	}{
		{"nothing", nil, "nothing is rewritten"},
		{"numbers", []box{&shifter{rng: rand.New(rand.NewPCG(1, 1)), strict: true}}, "sequence numbers shifted"},
		{"numbers of both", []box{&shifter{rng: rand.New(rand.NewPCG(1, 1)), both: true}}, "sequence numbers shifted"},
		{"window", []box{clampWindow}, "window rewritten"},
		{"options", []box{strip}, "options of the SYN rewritten"},
		{"split", []box{&splitter{}}, "split TCP"},
		{"split, nothing kept", []box{&splitter{drops: true}}, "split TCP"},
		{"split and cut anew", []box{&splitter{recut: true}}, "segments cut anew"},
		{"MSS", []box{clampMSS}, "nothing is rewritten"}, // the listener keeps nothing of a SYN
	} {
		t.Run(test.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				began := time.Now()
				v, left, err := checkThrough(t, Options{}, append(test.boxes, &line{delay: 20 * time.Millisecond})...)
				if err != nil || !strings.HasPrefix(v.Text(), test.want) && !strings.Contains(v.Text(), ", "+test.want) {
					t.Errorf("%v; %v; %v", v.Text(), v.Evidence, err)
				}
				split := strings.HasPrefix(test.name, "split")
				useless := split || v.OptionsStripped
				if v.Usable() == useless || (v.failure(rightAddr) != nil) != useless {
					t.Errorf("usable: %v", v.Usable())
				}
				if took := time.Since(began); !split && took != 80*time.Millisecond {
					t.Errorf("open and check took %v: two round trips are 80 ms", took)
				}
				if len(left.arrivals()) != 0 {
					t.Error("a check's datagram was delivered")
				}
				if v.RTT != 40*time.Millisecond && !split {
					t.Errorf("round trip %v", v.RTT)
				}
			})
		})
	}
}

// Loss is not taken for a box: of many checks on a path that loses a fifth
// each way none is wrong.
func TestCheckUnderLoss(t *testing.T) {
	for seed := range uint64(60) {
		virtual(t, func(t *testing.T) {
			v, _, err := checkThrough(t, Options{}, &line{delay: 50 * time.Millisecond, loss: 0.2, rng: rand.New(rand.NewPCG(seed, 4))})
			if err != nil || !v.Usable() || v.SeqRewritten || v.WindowClamped || v.OptionsStripped {
				t.Errorf("seed %d: %v %v %v", seed, v.Text(), v.Evidence, err)
			}
		})
	}
}

// A box that answers SYNs by itself and has nobody behind it.
func TestCheckWithoutPeer(t *testing.T) {
	virtual(t, func(t *testing.T) {
		silent := sieve(func(_ course, p *parcel) bool { return len(p.payload) > 0 })
		_, _, err := checkThrough(t, Options{}, silent, &line{delay: 20 * time.Millisecond})
		if !errors.Is(err, errSilent) {
			t.Errorf("%v", err)
		}
	})
}

// Shows S0-16: packed mode is used only when it is proven, adds nothing to the
// size, leaves what fits the path plain, and ends for good with the first RST
// or when its proof stays out.
func TestPackedMode(t *testing.T) {
	virtual(t, func(t *testing.T) {
		spoil := false
		shift := edit(func(_ course, p *parcel) {
			if spoil && !p.has(flagSYN) {
				p.seq += 1000
			}
		})
		w := newWire(leftAddr, rightAddr, shift, &line{delay: 5 * time.Millisecond})
		longest := 0
		packed := 0
		w.trace = func(_ course, p *parcel) { longest = max(longest, len(p.payload)) }
		count := func(b byte) dgram.Burst {
			return dgram.One(rightAddr, []byte(strings.Repeat(string(rune(b)), 1472)))
		}
		left, right := w.hosts(t, Options{Packed: true})
		if err := left.Open(t.Context(), rightAddr); err != nil {
			t.Fatal(err)
		}
		if err := left.Write(count('a')); !dgram.IsTooLarge(err) {
			t.Errorf("1472 bytes before the proof: %v", err)
		}
		v, err := left.Check(t.Context(), rightAddr)
		if err != nil || !v.Packed || left.Extra(rightAddr) != 0 {
			t.Fatalf("%v %v", v.Text(), err)
		}
		time.Sleep(time.Second)
		before := left.Counts().Packed
		var b dgram.Burst
		b.Addr, b.Size = rightAddr, 1472
		b.Buf = append(b.Buf, strings.Repeat("x", 1472)+strings.Repeat("y", 1472)+strings.Repeat("z", 100)...)
		if err := errors.Join(left.Write(b), left.Write(dgram.One(rightAddr, []byte("short")))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		var got []int
		for _, a := range right.arrivals() {
			got = append(got, len(a.body))
		}
		packed = int(left.Counts().Packed - before)
		if len(got) != 4 || got[0] != 1472 || got[1] != 1472 || got[2] != 100 || packed != 2 {
			t.Errorf("%v arrived, %d packed", got, packed)
		}
		w.mu.Lock()
		if longest != 1460 {
			t.Errorf("longest segment %d", longest)
		}
		w.mu.Unlock()
		keepBusy := func() {
			for range 60 {
				left.write(t, rightAddr, "x")
				right.write(t, leftAddr, "y")
				time.Sleep(500 * time.Millisecond)
			}
		}
		keepBusy()
		if left.Extra(rightAddr) != 0 {
			t.Error("packed mode was given up for no reason")
		}
		w.mu.Lock()
		spoil = true
		w.mu.Unlock()
		keepBusy()
		if left.Extra(rightAddr) != 12 || left.Counts().PackedFailed != 1 {
			t.Errorf("a box spoils it and it is not given up: %+v", left.Counts())
		}
		if _, err := left.Check(t.Context(), rightAddr); err != nil || left.Extra(rightAddr) != 12 {
			t.Errorf("it came back: %v", err)
		}
	})
	virtual(t, func(t *testing.T) {
		v, left, err := checkThrough(t, Options{Packed: true}, &line{delay: 5 * time.Millisecond})
		if err != nil || !v.Packed {
			t.Fatal(v.Text(), err)
		}
		left.mu.Lock()
		left.table.reset(left.now(), left.table.flows[rightAddr])
		left.mu.Unlock()
		if left.Extra(rightAddr) != 12 {
			t.Error("a RST does not end packed mode")
		}
	})
	virtual(t, func(t *testing.T) {
		v, left, err := checkThrough(t, Options{Packed: true}, &shifter{rng: rand.New(rand.NewPCG(1, 9))}, &line{delay: 5 * time.Millisecond})
		if err != nil || v.Packed || left.Extra(rightAddr) != 12 {
			t.Error("packed mode over a box that shifts numbers", v.Text(), err)
		}
	})
}

// climb runs a Rung on the left against a Conn on the right that opens as well.
func climb(t *testing.T, boxes ...box) (tried int, err error) {
	t.Helper()
	w := newWire(leftAddr, rightAddr, boxes...)
	left, right := w.hosts(t, Options{})
	fire := time.Now().Add(100 * time.Millisecond)
	try := func(ctx context.Context, p path.Path, k path.Kind) (time.Duration, error) {
		tried++
		if p.Addr != rightAddr || k != path.DirectFakeTCP {
			t.Errorf("tried %v %v", p, k)
		}
		return time.Millisecond, nil
	}
	other := &Rung{Conns: []dgram.Opener{right}, Candidates: []netip.AddrPort{leftAddr}, FireAt: fire, PrimeTTL: 4}
	done := make(chan error)
	go func() {
		done <- other.Climb(t.Context(), func(context.Context, path.Path, path.Kind) (time.Duration, error) { return 0, nil })
	}()
	mine := &Rung{Conns: []dgram.Opener{left}, Candidates: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9"), rightAddr,
		netip.MustParseAddrPort("198.18.0.1:7")}, FireAt: fire, RTT: 40 * time.Millisecond, PrimeTTL: 4}
	err = mine.Climb(t.Context(), try)
	if e := <-done; (e == nil) != (err == nil) {
		t.Errorf("one side says %v, the other %v", err, e)
	}
	return tried, err
}

func TestRung(t *testing.T) {
	line20 := func() box { return &line{delay: 20 * time.Millisecond} }
	virtual(t, func(t *testing.T) {
		began := time.Now()
		tried, err := climb(t, line20())
		if err != nil || tried != 1 || time.Since(began) > 300*time.Millisecond {
			t.Errorf("%v, tried %d, after %v", err, tried, time.Since(began))
		}
	})
	for _, test := range []struct {
		reason string
		box    box
	}{
		{"split-tcp", &splitter{}},
		{"no-answer", sieve(func(course, *parcel) bool { return true })},
		{"refused", refuser(400 * time.Millisecond)},
		{"rst-flood", refuser(time.Millisecond)},
	} {
		t.Run(test.reason, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				boxes := []box{line20(), test.box}
				if r, ok := test.box.(refuser); ok {
					boxes = []box{r}
				}
				began := time.Now()
				tried, err := climb(t, boxes...)
				var f *path.Failure
				if !errors.As(err, &f) || f.Reason != test.reason || f.Evidence == "" || f.Advice == "" || tried != 0 {
					t.Errorf("%v, tried %d", err, tried)
				}
				if test.reason != "split-tcp" && time.Since(began) < leastPatience {
					t.Errorf("gave up after %v", time.Since(began))
				}
				t.Log(err)
			})
		})
	}
}

// refuser answers every SYN with RST, so much later.
type refuser time.Duration

func (x refuser) pass(w *wire, at int, d course, p *parcel) *parcel {
	if p.has(flagSYN) {
		r := &parcel{segment: segment{local: p.remote, remote: p.local, ack: p.seq + 1, flags: flagRST | flagACK}}
		time.AfterFunc(time.Duration(x), func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.walk(at-int(d), -d, r)
		})
	}
	return nil
}
