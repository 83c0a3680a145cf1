package seal

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func greetWith(text string) func([]byte) ([]byte, error) {
	return func([]byte) ([]byte, error) { return []byte(text), nil }
}

func TestTwoMeetByASecret(t *testing.T) {
	secret := NewSecret()
	m, first, err := Meet(secret, []byte("from one"))
	if err != nil {
		t.Fatal(err)
	}
	var heard []byte
	second, two, err := Met(secret, first, func(theirs []byte) ([]byte, error) {
		heard = bytes.Clone(theirs)
		return []byte("from two"), nil
	})
	if err != nil || string(heard) != "from one" {
		t.Fatalf("%q, %v", heard, err)
	}
	// A forged answer does no harm to the one that follows.
	for _, bad := range [][]byte{nil, second[:31], bytes.Repeat([]byte{0}, len(second)), append([]byte{second[0] ^ 1}, second[1:]...)} {
		if _, _, err := m.Finish(bad); !errors.Is(err, ErrForged) {
			t.Errorf("%x: %v", bad, err)
		}
	}
	one, payload, err := m.Finish(second)
	if err != nil || string(payload) != "from two" {
		t.Fatalf("%q, %v", payload, err)
	}
	if one.Send != two.Receive || one.Receive != two.Send || one.Export != two.Export || one.Send == one.Receive || one.Cipher != two.Cipher {
		t.Error("the keys don't fit together")
	}
	for _, msg := range [][]byte{first, second} {
		if bytes.Contains(msg, []byte("from")) {
			t.Error("a payload is in the clear")
		}
	}
}

func TestAnotherSecretOpensNothing(t *testing.T) {
	m, first, err := Meet(NewSecret(), nil)
	if err != nil {
		t.Fatal(err)
	}
	other := NewSecret()
	if _, _, err := Met(other, first, greetWith("")); !errors.Is(err, ErrForged) {
		t.Errorf("first: %v", err)
	}
	_, theirs, err := Meet(other, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := Met(other, theirs, greetWith(""))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Finish(second); !errors.Is(err, ErrForged) {
		t.Errorf("second: %v", err)
	}
}

// Words make secrets, the same everywhere and for ever.
func TestSecretOfAWord(t *testing.T) {
	if a, b := SecretOfWord("k7qy-3mfa"), SecretOfWord("k7qy-3mfb"); a == b || a == (Secret{}) || a != SecretOfWord("k7qy-3mfa") {
		t.Error("not one secret a word")
	}
	a, b := NewWord(), NewWord()
	if a == b || len(a) != 19 || strings.Count(a, "-") != 3 {
		t.Errorf("%q, %q", a, b)
	}
}

func FuzzMeeting(f *testing.F) {
	secret := Secret{1}
	m, first, err := Meet(secret, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	second, _, err := Met(secret, first, greetWith("y"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(first)
	f.Add(second)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, k, err := Met(secret, b, func(p []byte) ([]byte, error) { return p, nil })
		if err == nil && k.Send == k.Receive {
			t.Error("one key for both directions")
		}
		if _, _, err := m.Finish(b); err != nil && !errors.Is(err, ErrForged) {
			t.Error(err)
		}
	})
}
