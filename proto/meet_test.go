package proto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func TestMeetBytes(t *testing.T) {
	message := bytes.Repeat([]byte{7}, meetSize-1)
	for _, answer := range []bool{false, true} {
		b := AppendMeet(nil, answer, message)
		got, rest, err := ParseMeet(b)
		if err != nil || got != answer || !bytes.Equal(rest, message) || (KindOf(b) == KindMet) != answer {
			t.Errorf("%x: %v, %x, %v", b, got, rest, err)
		}
	}
	for _, c := range []struct {
		b    []byte
		want error
	}{
		{nil, ErrShort},
		{AppendMeet(nil, false, message[1:]), ErrShort},
		{append([]byte{bytePrime}, message...), ErrForm},
		{AppendMeet(nil, false, make([]byte, maxMeetSize)), ErrForm},
	} {
		if _, _, err := ParseMeet(c.b); !errors.Is(err, c.want) {
			t.Errorf("%d bytes: %v, want %v", len(c.b), err, c.want)
		}
	}
}

func TestGreetingBytes(t *testing.T) {
	g := Greeting{ID: 0x0102030405060708, Half: UpperHalf}
	b := g.Append(nil)
	if got := hex.EncodeToString(b); got != "010203040506070802" {
		t.Errorf("%s", got)
	}
	if got, err := ParseGreeting(append(b, 9)); err != nil || got != g {
		t.Errorf("%+v, %v", got, err)
	}
	for text, want := range map[string]error{"0102030405060708": ErrShort, "010203040506070803": ErrForm} {
		b, _ := hex.DecodeString(text)
		if _, err := ParseGreeting(b); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	for h, other := range map[Half]Half{EitherHalf: EitherHalf, LowerHalf: UpperHalf, UpperHalf: LowerHalf} {
		if h.Other() != other {
			t.Errorf("%d leaves %d", h, h.Other())
		}
	}
}

func FuzzMeet(f *testing.F) {
	f.Add(AppendMeet(nil, true, make([]byte, meetSize)))
	f.Fuzz(func(t *testing.T, b []byte) {
		answer, message, err := ParseMeet(b)
		if err == nil && !bytes.Equal(AppendMeet(nil, answer, message), b) {
			t.Errorf("%x", b)
		}
	})
}

func FuzzGreeting(f *testing.F) {
	f.Add(Greeting{ID: 1, Half: LowerHalf}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGreeting(b)
		if err == nil && !bytes.Equal(g.Append(nil), b[:greetingSize]) {
			t.Errorf("%x: %+v", b, g)
		}
	})
}
