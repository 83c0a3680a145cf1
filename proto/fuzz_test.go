package proto

import (
	"bufio"
	"bytes"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"
)

// Each target takes any bytes at all; what it reads, it must write so that it
// reads the same again.

func addSeeds(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Add([]byte{0xc0, 0, 0, 0, 1})
	for _, c := range wireCases {
		f.Add(c.encode())
	}
}

func FuzzKindOf(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		kind := KindOf(b)
		_, err := ParseHeader(b)
		if len(b) >= Overhead && (err == nil) != (kind == KindData) {
			t.Errorf("kind %d, but the header gives %v", kind, err)
		}
		_, err = ParseProbeHeader(b)
		if len(b) >= ProbeSize && (err == nil) != (kind == KindProbe || kind == KindProbeAnswer) {
			t.Errorf("kind %d, but the probe gives %v", kind, err)
		}
		if _, err = ParseBind(b); err == nil && kind != KindBind && kind != KindBound {
			t.Errorf("kind %d, but it is a bind", kind)
		}
		// The first byte decides, but for the cookie of STUN.
		if len(b) > 0 && kind != KindSTUN && KindOf(b[:1]) != kind {
			t.Errorf("kind %d, of its first byte alone %d", kind, KindOf(b[:1]))
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		var again [HeaderSize]byte
		PutHeader(again[:], h.Epoch, h.Flow, uint64(h.Counter))
		if !bytes.Equal(again[:], b[:HeaderSize]) {
			t.Errorf("%+v writes %x, not %x", h, again, b[:HeaderSize])
		}
		if c := CompleteCounter(uint64(h.Counter), h.Counter); c != uint64(h.Counter) {
			t.Errorf("%d completes to %d", h.Counter, c)
		}
	})
}

func FuzzParseProbeHeader(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseProbeHeader(b)
		if err != nil {
			return
		}
		if again := AppendProbeHeader(nil, h); !bytes.Equal(again, b[:ProbeHeaderSize]) {
			t.Errorf("%+v writes %x, not %x", h, again, b[:ProbeHeaderSize])
		}
	})
}

func FuzzParseProbeBody(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProbeBody(b)
		if err != nil {
			return
		}
		again := AppendProbeBody(nil, p)
		if !bytes.Equal(again[1:], b[1:ProbeBodySize]) || again[0] != b[0]&flagBest {
			t.Errorf("%+v writes %x, not %x", p, again, b[:ProbeBodySize])
		}
	})
}

func FuzzParseBind(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseBind(b)
		if err != nil {
			return
		}
		if again := AppendBind(nil, v); !bytes.Equal(again, b) {
			t.Errorf("%+v writes %x, not %x", v, again, b)
		}
	})
}

func FuzzParsePart(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePart(b)
		if err != nil {
			return
		}
		if again := AppendPart(nil, p); !bytes.Equal(again, b) {
			t.Errorf("%+v writes %x, not %x", p, again, b)
		}
	})
}

// fuzzMessage checks that what decodes, encodes to what decodes the same.
func fuzzMessage(f *testing.F, create func() proto.Message) {
	for _, m := range variants(create().ProtoReflect().Descriptor()) {
		b, err := Marshal(m.Interface())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, again := create(), create()
		if Unmarshal(b, m) != nil {
			return
		}
		out, err := Marshal(m)
		if err != nil {
			t.Fatalf("%v does not encode: %v", m, err)
		}
		if err := Unmarshal(out, again); err != nil || !proto.Equal(m, again) {
			t.Errorf("%v\ncame back as %v, %v", m, again, err)
		}
	})
}

func FuzzFrame(f *testing.F)   { fuzzMessage(f, func() proto.Message { return new(Frame) }) }
func FuzzOpening(f *testing.F) { fuzzMessage(f, func() proto.Message { return new(Opening) }) }

// fuzzStream reads messages from a stream of any bytes until it ends.
func fuzzStream(f *testing.F, create func() proto.Message) {
	for _, m := range variants(create().ProtoReflect().Descriptor()) {
		var b bytes.Buffer
		for range 2 {
			if err := WriteMessage(&b, m.Interface()); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for {
			m, again := create(), create()
			if ReadMessage(r, m) != nil {
				return
			}
			if proto.Size(m) > MaxMessage {
				continue // a negative enum takes more bytes when written again
			}
			var out bytes.Buffer
			if err := WriteMessage(&out, m); err != nil {
				t.Fatalf("%v does not encode: %v", m, err)
			}
			if err := ReadMessage(bufio.NewReader(&out), again); err != nil || !proto.Equal(m, again) {
				t.Errorf("%v\ncame back as %v, %v", m, again, err)
			}
		}
	})
}

func FuzzReadToCoordinator(f *testing.F) {
	fuzzStream(f, func() proto.Message { return new(ToCoordinator) })
}

func FuzzReadToAgent(f *testing.F) {
	fuzzStream(f, func() proto.Message { return new(ToAgent) })
}

func FuzzParseLink(f *testing.F) {
	for _, coordinator := range []string{"203.0.113.10:443", "[2001:db8::7]:1", "vps.example.net:65535"} {
		f.Add(fixedLink(coordinator, true).String())
		f.Add(fixedLink(coordinator, false).String())
		f.Add(veiledLink(coordinator).String())
	}
	f.Add("rdv://")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLink(s)
		if err != nil {
			return
		}
		again, err := ParseLink(l.String())
		if err != nil || !reflect.DeepEqual(again, l) {
			t.Errorf("%q is %+v, and that is %+v, %v", s, l, again, err)
		}
	})
}
