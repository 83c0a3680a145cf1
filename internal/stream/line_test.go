package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/yamux"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// wire takes the datagrams of one line to another.
type wire struct {
	to   *Line
	most int
	lose int // the so-many-th datagram from now on is lost, or a later one that others follow at once; 0 loses none
	sent int
}

func (w *wire) await(stop <-chan struct{}) (int, error) {
	select {
	case <-stop:
		return 0, net.ErrClosed
	default:
		return w.most, nil
	}
}

func (w *wire) send(b []byte, size int) error {
	for len(b) > 0 {
		d := b[:min(size, len(b))]
		b = b[len(d):]
		w.sent++
		if w.lose > 1 {
			w.lose--
		} else if w.lose == 1 && len(b) > 0 {
			w.lose = 0
			continue
		}
		h, payload, err := ParseLine(d)
		if err != nil {
			return err
		}
		w.to.Deliver(h, payload)
	}
	return nil
}

// linePair is two ends of a line.
func linePair(most int) (a, b *Line, there *wire) {
	there, back := &wire{most: most}, &wire{most: most}
	a = NewLine(LineConfig{Header: LineHeader{ID: 7}, Await: there.await, Send: there.send})
	b = NewLine(LineConfig{Header: LineHeader{ID: 7, Answer: true}, Await: back.await, Send: back.send})
	there.to, back.to = b, a
	return a, b, there
}

func lineCarriers(t testing.TB) (Carrier, Carrier) {
	a, b, _ := linePair(64 << 10)
	client, err := yamux.Client(a, YamuxConfig())
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(b, YamuxConfig())
	if err != nil {
		t.Fatal(err)
	}
	return OverYamux(client), OverYamux(server)
}

// The bytes of a datagram, as SPEC.md shows them.
func TestLineHeader(t *testing.T) {
	h := LineHeader{Answer: true, Only: path.KindsOf(path.DirectTCP), ID: 258, Offset: 1 << 32}
	want := []byte{1, 4, 0, 0, 1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 'x'}
	if got := append(h.Append(nil), 'x'); !bytes.Equal(got, want) {
		t.Errorf("% x", got)
	}
	got, payload, err := ParseLine(want)
	if err != nil || got != h || string(payload) != "x" {
		t.Errorf("%+v %q %v", got, payload, err)
	}
	for _, bad := range [][]byte{nil, want[:13], append([]byte{4}, want[1:]...), append([]byte{0, 0x40}, want[2:]...)} {
		if _, _, err := ParseLine(bad); err == nil {
			t.Errorf("% x is read", bad)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add(LineHeader{End: true, ID: 1, Offset: 2}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, payload, err := ParseLine(b); err == nil && !bytes.Equal(append(h.Append(nil), payload...), b) {
			t.Errorf("% x becomes %+v", b, h)
		}
	})
}

func TestLine(t *testing.T) {
	for _, most := range []int{1, 20 << 10, 1 << 20} {
		bubble.Test(t, func(t *testing.T) {
			a, b, _ := linePair(most)
			data := noise(1, 3<<20)
			go func() {
				for rest := data; len(rest) > 0; {
					n := min(len(rest), 1+len(rest)%40_000)
					if _, err := a.Write(rest[:n]); err != nil {
						t.Error(err)
					}
					rest = rest[n:]
				}
			}()
			got := make([]byte, len(data))
			if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("what came differs: %v", err)
			}
			_ = b.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := b.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			_ = a.Close()
			b.Deliver(LineHeader{End: true}, nil)
			if _, err := b.Read(got); !errors.Is(err, errEnded) {
				t.Error(err)
			}
		})
	}
}

// A datagram that is missing, and a reader that does not read, end the line;
// what came before is still read.
func TestLineEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, b, there := linePair(64 << 10)
		there.lose = 5
		_, _ = a.Write(noise(1, 100*lineDatagram))
		synctest.Wait()
		if n, err := io.Copy(io.Discard, b); n < 4*(lineDatagram-lineHeader) || n%(lineDatagram-lineHeader) != 0 || !errors.Is(err, errGap) {
			t.Errorf("%d bytes, then %v", n, err)
		}
		_ = a.Close()

		a, b, _ = linePair(1)
		go func() { _, _ = a.Write(noise(1, 2*mostLineIn)) }()
		synctest.Wait()
		if n, err := io.Copy(io.Discard, b); n > mostLineIn || !errors.Is(err, errBrim) {
			t.Errorf("%d bytes, then %v", n, err)
		}
		_ = a.Close()
	})
}

// Lines that lose a datagram lose no byte of the connections on them.
// Time is real here: yamux keeps timers for all of its sessions, which can't be
// in a bubble of synctest's and outside.
func TestConnectionsOverLinesThatBreak(t *testing.T) {
	p := newPair(t, nil)
	defer p.close()
	stop := make(chan struct{})
	lines := make(chan struct{})
	go func() {
		defer close(lines)
		for i := 1; ; i++ {
			a, b, there := linePair(64 << 10)
			there.lose = 20 * i
			client, _ := yamux.Client(a, YamuxConfig())
			server, _ := yamux.Server(b, YamuxConfig())
			p.far.Use(OverYamux(server))
			p.near.Use(OverYamux(client))
			select {
			case <-b.Done():
				_ = a.Close() // as the other end would be told
			case <-stop:
				return
			}
		}
	}()
	client, ended := p.dial(Request{Service: "web"})
	service := <-p.service("web")
	up, down := noise(1, 10<<20), noise(2, 1<<20)
	go send(t, client, up)
	go send(t, service, down)
	got := make(chan struct{})
	go func() { want(t, client, down, "client"); close(got) }()
	want(t, service, up, "service")
	<-got
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := p.near.Status().Resumed; n < 5 {
		t.Errorf("it was resumed %d times", n)
	}
	close(stop)
	<-lines
}
