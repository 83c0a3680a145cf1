package lean

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

var (
	id    = ID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	agent = [KeySize]byte{1}
	coord = [KeySize]byte{2}
	noon  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

func ends(t testing.TB) (a, c *Link) {
	t.Helper()
	a, err := New(id, agent, coord, 0)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = New(id, coord, agent, 0); err != nil {
		t.Fatal(err)
	}
	return a, c
}

func receive(t testing.TB, l *Link, now time.Time, d []byte) Received {
	t.Helper()
	r, err := l.Receive(now, d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// journey is a datagram that arrives at a time.
type journey struct {
	at time.Time
	to *Link
	d  []byte
}

// way carries datagrams in 20 ms each way, badly.
type way struct {
	t    *testing.T
	luck *rand.Rand
	loss float64
	all  []journey
	got  map[*Link][]byte
}

func (w *way) send(now time.Time, to *Link, all ...[]byte) {
	for _, d := range all {
		for range 1 + w.luck.IntN(2)*w.luck.IntN(2) { // a quarter comes twice
			if w.luck.Float64() >= w.loss {
				late := time.Duration(20+w.luck.IntN(10)) * time.Millisecond
				w.all = append(w.all, journey{now.Add(late), to, bytes.Clone(d)})
			}
		}
	}
}

// pass lets the datagrams of one millisecond arrive.
func (w *way) pass(now time.Time, other map[*Link]*Link) {
	var later []journey
	due := w.all
	w.all = nil
	for _, j := range due {
		if j.at.After(now) {
			later = append(later, j)
			continue
		}
		r := receive(w.t, j.to, now, j.d)
		w.got[j.to] = append(w.got[j.to], r.Bytes...)
		w.send(now, other[j.to], r.Send...)
	}
	w.all = append(w.all, later...)
}

func TestBytesArriveInOrderWhateverTheWayDoes(t *testing.T) {
	for _, loss := range []float64{0, 0.1, 0.3} {
		a, c := ends(t)
		other := map[*Link]*Link{a: c, c: a}
		w := &way{t: t, luck: rand.New(rand.NewPCG(1, uint64(100*loss))), loss: loss, got: map[*Link][]byte{}}
		text := make([]byte, 100_000)
		for i := range text {
			text[i] = byte(w.luck.Uint32())
		}
		left := map[*Link][]byte{a: text, c: text}
		now := noon
		for ; len(w.got[a])+len(w.got[c]) < 2*len(text) && now.Before(noon.Add(time.Minute)); now = now.Add(time.Millisecond) {
			w.pass(now, other)
			for _, l := range []*Link{a, c} {
				n := min(l.Room(), len(left[l]), 5000)
				w.send(now, other[l], l.Write(now, left[l][:n])...)
				left[l] = left[l][n:]
				again, err := l.Retry(now)
				if err != nil {
					t.Fatalf("loss %v: after %v: %v", loss, now.Sub(noon), err)
				}
				w.send(now, other[l], again...)
			}
		}
		if !bytes.Equal(w.got[a], text) || !bytes.Equal(w.got[c], text) {
			t.Fatalf("loss %v: got %d and %d of %d bytes, or others", loss, len(w.got[a]), len(w.got[c]), len(text))
		}
		if loss == 0 && now.Sub(noon) > time.Second {
			t.Errorf("it took %v without loss", now.Sub(noon))
		}
		for _, l := range []*Link{a, c} {
			if trip := l.RoundTrip(); trip < 40*time.Millisecond || trip > 100*time.Millisecond {
				t.Errorf("loss %v: the round trip is said to be %v", loss, trip)
			}
		}
	}
}

func TestIdleHasNothingToDo(t *testing.T) {
	a, c := ends(t)
	for _, d := range a.Write(noon, []byte("hello")) {
		r := receive(t, c, noon.Add(20*time.Millisecond), d)
		for _, ack := range r.Send {
			if more := receive(t, a, noon.Add(40*time.Millisecond), ack); len(more.Send) > 0 {
				t.Error("an acknowledgement is acknowledged")
			}
		}
	}
	if !a.Due().IsZero() || a.out != nil || a.RoundTrip() != 40*time.Millisecond {
		t.Errorf("due %v, %d bytes kept, round trip %v", a.Due(), len(a.out), a.RoundTrip())
	}
	r := receive(t, c, noon, a.Ask())
	if len(r.Send) != 1 || len(r.Bytes) > 0 {
		t.Errorf("a question brought %+v", r)
	}
	if c.RoundTrip() != 40*time.Millisecond {
		t.Errorf("the coordinator was told a round trip of %v", c.RoundTrip())
	}
}

func TestWhatIsOldMovesNothing(t *testing.T) {
	a, c := ends(t)
	first, second := a.Ask(), a.Ask()
	if !receive(t, c, noon, second).Newer {
		t.Error("the newest is not newer")
	}
	for _, d := range [][]byte{first, second} {
		if r := receive(t, c, noon, d); r.Newer || len(r.Send) > 0 {
			t.Errorf("an old one brought %+v", r)
		}
	}
}

func TestPiecesThatCameTooEarlyAreKeptButNotForEver(t *testing.T) {
	_, c := ends(t)
	for i := range 1000 {
		if b := c.take(uint64(1+i), []byte("ab")); b != nil {
			t.Fatalf("piece %d brought %q", i, b)
		}
	}
	if c.take(1<<40, []byte("far")); len(c.early) != mostEarly {
		t.Errorf("%d pieces are kept", len(c.early))
	}
	if b := c.take(0, []byte("abc")); len(b) != mostEarly+2 || c.early != nil {
		t.Errorf("then %q, %d left", b, len(c.early))
	}
}

func TestForgedDatagrams(t *testing.T) {
	a, c := ends(t)
	d := a.Write(noon, []byte("hello"))[0]
	for i := range d {
		bad := bytes.Clone(d)
		bad[i] ^= 1
		if _, err := c.Receive(noon, bad); !errors.Is(err, ErrForged) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for n := range len(d) {
		if _, err := c.Receive(noon, d[:n]); !errors.Is(err, ErrForged) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	if _, err := a.Receive(noon, d); !errors.Is(err, ErrForged) {
		t.Errorf("sent back: %v", err)
	}
	if r := receive(t, c, noon, d); string(r.Bytes) != "hello" {
		t.Errorf("then the genuine one brought %q", r.Bytes)
	}
}

func TestReset(t *testing.T) {
	a, _ := ends(t)
	token := Token{7}
	d := a.Ask()
	got, ok := IDOf(d)
	if !ok || got != id {
		t.Fatalf("the ID is %x, %v", got, ok)
	}
	reset := Reset(d, token)
	if len(reset) >= len(d) || !IsReset(reset, token) || IsReset(reset, Token{8}) || IsReset(d, token) {
		t.Errorf("the reset is %x", reset)
	}
	if of, ok := IDOf(reset); !ok || of != id {
		t.Errorf("the reset is for %x", of)
	}
	if Reset(reset, token) != nil {
		t.Error("a reset is reset")
	}
	for _, no := range [][]byte{nil, d[:10], {0x80, 30: 0}, {0x00, 30: 0}, {0xc0, 30: 0}} {
		if _, ok := IDOf(no); ok {
			t.Errorf("%x has an ID", no)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	a, _ := ends(t)
	a.Write(noon, []byte("hello"))
	sent := 0
	for now := noon; ; now = now.Add(10 * time.Millisecond) {
		all, err := a.Retry(now)
		sent += len(all)
		if errors.Is(err, ErrSilent) {
			if took := now.Sub(noon); took < GiveUpAfter || took > GiveUpAfter+retryMost {
				t.Errorf("given up after %v", took)
			}
			break
		}
		if now.Sub(noon) > time.Minute {
			t.Fatal("never given up")
		}
	}
	if sent < 8 || sent > 15 {
		t.Errorf("sent again %d times", sent)
	}
}

func TestClose(t *testing.T) {
	a, c := ends(t)
	_, err := c.Receive(noon, a.Close(0x10b, strings.Repeat("long ", 1000)))
	var closed *Closed
	if !errors.As(err, &closed) || closed.Code != 0x10b || !strings.HasPrefix(closed.Text, "long long") {
		t.Errorf("got %v", err)
	}
}

// TestBytes has the bytes of a datagram as proto/SPEC.md says them.
func TestBytes(t *testing.T) {
	a, err := New(id, agent, coord, 1234*time.Microsecond)
	if err != nil {
		t.Fatal(err)
	}
	d := a.Write(noon, []byte("hello"))[0]
	aead, err := chacha20poly1305.New(agent[:])
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	plain, err := aead.Open(nil, nonce, d[21:], d[:21])
	want := "\x02" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x04\xd2" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "hello"
	if err != nil || string(plain) != want || d[0]>>6 != 1 || ID(d[1:13]) != id || binary.BigEndian.Uint64(d[13:]) != 1 {
		t.Errorf("%x is %x, %v", d, plain, err)
	}
}

// FuzzReceive gives what the other end could seal, were it not ours, and then
// what a stranger could send.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0}, []byte{})
	f.Add(append([]byte{flagPiece}, make([]byte, 30)...), []byte{0x40})
	f.Add(append([]byte{flagClose | flagAsk}, make([]byte, 30)...), make([]byte, 60))
	other, err := chacha20poly1305.New(agent[:])
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, plain, strange []byte) {
		_, c := ends(t)
		c.Write(noon, make([]byte, 3000))
		r, err := c.Receive(noon, sealed(other, plain))
		if err == nil && len(plain) < fixedSize {
			t.Errorf("%x was taken", plain)
		}
		if len(r.Bytes) > len(plain) || len(c.early) > 1 || len(c.out) > 3000 || c.sent > len(c.out) {
			t.Errorf("%x brought %x; %d of %d on their way", plain, r.Bytes, c.sent, len(c.out))
		}
		if _, err := c.Receive(noon, strange); err == nil {
			t.Errorf("a stranger's %x was taken", strange)
		}
		if of, ok := IDOf(strange); ok && Reset(strange, Token{}) != nil && of != ID(strange[1:]) {
			t.Errorf("%x is of %x", strange, of)
		}
	})
}

func sealed(aead cipher.AEAD, plain []byte) []byte {
	d := make([]byte, headSize)
	d[0] = 0x40
	copy(d[idAt:], id[:])
	binary.BigEndian.PutUint64(d[counterAt:], 1)
	return aead.Seal(d, nonce(1), plain, d[:headSize])
}
