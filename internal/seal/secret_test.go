package seal

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// sealings are the two ways to seal under a key at random nonces.
var sealings = map[string]struct {
	seal func(key [32]byte, plain []byte) []byte
	open func(key [32]byte, sealed []byte) ([]byte, error)
}{
	"standing": {
		func(k [32]byte, p []byte) []byte { return SealStanding(k, p) },
		func(k [32]byte, p []byte) ([]byte, error) { return OpenStanding(k, p) },
	},
	"message": {SealMessage, OpenMessage},
}

func TestSealedUnderAKeyOpensUnderItAlone(t *testing.T) {
	key := NewSecret()
	for name, s := range sealings {
		t.Run(name, func(t *testing.T) {
			for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("candidates"), 300)} {
				sealed := s.seal(key, plain)
				if bytes.Equal(sealed, s.seal(key, plain)) {
					t.Error("the nonce is not random")
				}
				if got, err := s.open(key, sealed); err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("%d bytes: %v", len(plain), err)
				}
				if _, err := s.open(NewSecret(), sealed); !errors.Is(err, ErrForged) {
					t.Errorf("another key: %v", err)
				}
				for i := 0; i < len(sealed); i += 1 + len(sealed)/50 {
					bad := bytes.Clone(sealed)
					bad[i] ^= 1
					if _, err := s.open(key, bad); !errors.Is(err, ErrForged) {
						t.Errorf("byte %d changed: %v", i, err)
					}
					if _, err := s.open(key, sealed[:i]); !errors.Is(err, ErrForged) {
						t.Errorf("cut to %d bytes: %v", i, err)
					}
				}
			}
		})
	}
	if _, err := OpenMessage(key, SealStanding(key, []byte("x"))); !errors.Is(err, ErrForged) {
		t.Error("what was sealed as one thing opens as another")
	}
}

func TestSecretHasAPublicName(t *testing.T) {
	a, b := NewSecret(), NewSecret()
	if a == b || a.ID() == b.ID() || len(a.ID()) != 16 {
		t.Errorf("ids %q and %q", a.ID(), b.ID())
	}
}

// TestLabelsAreDistinct reads the source, so that no label is forgotten.
func TestLabelsAreDistinct(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "seal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(v.Names[0].Name, "label") {
			return true
		}
		value := v.Values[0].(*ast.BasicLit).Value
		if other := seen[value]; other != "" {
			t.Errorf("%s and %s are both %s", v.Names[0].Name, other, value)
		}
		seen[value] = v.Names[0].Name
		return true
	})
	if len(seen) < 14 {
		t.Errorf("only %d labels found", len(seen))
	}
}
