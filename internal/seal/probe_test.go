package seal

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"rendezvous/proto"
)

var probeBody = proto.ProbeBody{
	Best: true, Epoch: 3, Size: 1472, Next: 1 << 33, Received: 12345, Echo: 77,
	Observed: netip.MustParseAddrPort("198.51.100.2:40112"),
}

func TestProbeKeysMeet(t *testing.T) {
	secret := NewSecret()
	seed := counting(9, 32)
	a, b := DeriveProbeKeys(seed, secret, true), DeriveProbeKeys(seed, secret, false)
	if a.Local != b.Remote || a.Remote != b.Local || a.Local == a.Remote {
		t.Fatalf("tokens %x %x, %x %x", a.Local, a.Remote, b.Local, b.Remote)
	}
	for _, pair := range [][2]*ProbeKeys{{&a, &b}, {&b, &a}} {
		for _, answer := range []bool{false, true} {
			for _, size := range []int{0, proto.ProbeSize, proto.ProbeSize + 1, 1200, 1472, 65507} {
				sealed := pair[0].Seal([]byte("before"), answer, 41, probeBody, size)[len("before"):]
				if len(sealed) != max(size, proto.ProbeSize) {
					t.Fatalf("size %d: %d bytes", size, len(sealed))
				}
				h, body, err := pair[1].Open(sealed)
				if err != nil || h.Answer != answer || h.Counter != 41 || h.Token != pair[1].Local || body != probeBody {
					t.Fatalf("size %d: %+v %+v %v", size, h, body, err)
				}
				if _, _, err := pair[0].Open(sealed); !errors.Is(err, ErrForged) {
					t.Errorf("a probe sent back to its sender: %v", err)
				}
			}
		}
	}
}

func TestProbeOpensOnlyAsItWasSealed(t *testing.T) {
	secret := NewSecret()
	a, b := DeriveProbeKeys([]byte("seed"), secret, true), DeriveProbeKeys([]byte("seed"), secret, false)
	sealed := a.Seal(nil, false, 7, probeBody, 0)
	for i := range sealed {
		for _, bit := range []byte{0x01, 0x02, 0x03, 0x80} {
			bad := bytes.Clone(sealed)
			bad[i] ^= bit
			if _, _, err := b.Open(bad); err == nil {
				t.Errorf("byte %d ^ %#x passed", i, bit)
			}
		}
		if _, _, err := b.Open(sealed[:i]); !errors.Is(err, proto.ErrShort) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	// The kind of a probe is authenticated: none passes for an answer.
	forged := bytes.Clone(sealed)
	forged[0] ^= 0x03
	if proto.KindOf(forged) != proto.KindProbeAnswer {
		t.Fatal("the test does not make an answer")
	}
	if _, _, err := b.Open(forged); !errors.Is(err, ErrForged) {
		t.Errorf("a probe passed for an answer: %v", err)
	}
	for name, k := range map[string]ProbeKeys{
		"another seed":   DeriveProbeKeys([]byte("seeD"), secret, false),
		"another secret": DeriveProbeKeys([]byte("seed"), NewSecret(), false),
	} {
		k.Local = b.Local
		if _, _, err := k.Open(sealed); !errors.Is(err, ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Probes and answers of one counter must not share a nonce: their ciphertexts
// would differ by no more than their plaintexts do.
func TestProbeAndAnswerHaveDifferentNonces(t *testing.T) {
	k := DeriveProbeKeys([]byte("seed"), Secret{}, true)
	const text = proto.ProbeHeaderSize
	probe, answer := k.Seal(nil, false, 7, probeBody, 0), k.Seal(nil, true, 7, probeBody, 0)
	if bytes.Equal(probe[text:text+proto.ProbeBodySize], answer[text:text+proto.ProbeBodySize]) {
		t.Error("they share a nonce")
	}
}

func TestProbePaddingIsEmpty(t *testing.T) {
	a, b := DeriveProbeKeys([]byte("seed"), Secret{}, true), DeriveProbeKeys([]byte("seed"), Secret{}, false)
	dirty := bytes.Repeat([]byte{0xff}, 2000)
	sealed := a.Seal(dirty[:0], false, 1, probeBody, 1000)
	clean := a.Seal(nil, false, 1, probeBody, 1000)
	if !bytes.Equal(sealed, clean) {
		t.Error("what the buffer held before leaked into the padding")
	}
	if _, _, err := b.Open(sealed); err != nil {
		t.Error(err)
	}
}
