package proto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

var update = flag.Bool("update", false, "write testdata anew; another program's bytes then no longer fit")

// wireCase is a value, how it is written, and how it is read back.
type wireCase struct {
	name   string
	kind   Kind
	encode func() []byte
	decode func([]byte) (any, error)
	want   any
}

func headerCase(name string, epoch uint8, flow uint16, counter uint64) wireCase {
	return wireCase{"data: " + name, KindData,
		func() []byte {
			b := make([]byte, Overhead)
			PutHeader(b, epoch, flow, counter)
			return b
		},
		func(b []byte) (any, error) { return ParseHeader(b) },
		Header{epoch & 1, flow & flowMask, uint16(counter % (1 << CounterBits))},
	}
}

func probeCase(name string, kind Kind, h ProbeHeader) wireCase {
	return wireCase{"probe header: " + name, kind,
		func() []byte { return append(AppendProbeHeader(nil, h), make([]byte, ProbeBodySize+TagSize)...) },
		func(b []byte) (any, error) { return ParseProbeHeader(b) }, h}
}

func bodyCase(name string, p ProbeBody) wireCase {
	return wireCase{"probe body: " + name, KindUnknown,
		func() []byte { return AppendProbeBody(nil, p) },
		func(b []byte) (any, error) { return ParseProbeBody(b) }, p}
}

func bindCase(name string, kind Kind, v Bind) wireCase {
	return wireCase{"bind: " + name, kind,
		func() []byte { return AppendBind(nil, v) },
		func(b []byte) (any, error) { return ParseBind(b) }, v}
}

func partCase(name string, p Part) wireCase {
	return wireCase{"part: " + name, KindUnknown,
		func() []byte { return AppendPart(nil, p) },
		func(b []byte) (any, error) {
			p, err := ParsePart(b)
			return fmt.Sprint(p), err
		}, fmt.Sprint(p)}
}

var (
	token    = Token{1, 2, 3, 4, 5, 6, 7, 8}
	address  = netip.MustParseAddrPort("198.51.100.2:40112")
	address6 = netip.MustParseAddrPort("[2001:db8::7]:443")
	mac      = [bindMACSize]byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf}
)

var wireCases = []wireCase{
	headerCase("all zero", 0, 0, 0),
	headerCase("all ones", 1, flowMask, 1<<CounterBits-1),
	headerCase("epoch alone", 1, 0, 0),
	headerCase("flow 1", 0, 1, 0),
	headerCase("flow 8192", 0, 8192, 0),
	headerCase("counter 1", 0, 0, 1),
	headerCase("counter 2^40 + 2^14 + 5", 0, 3, 1<<40+1<<14+5),
	headerCase("epoch 7 is odd", 7, 3, 9),
	probeCase("probe", KindProbe, ProbeHeader{Token: token, Counter: 0x1122334455667788}),
	probeCase("answer", KindProbeAnswer, ProbeHeader{Answer: true, Token: token, Counter: 1}),
	bodyCase("empty", ProbeBody{}),
	bodyCase("probe", ProbeBody{Best: true, Epoch: 2, Size: 1472, Next: 1 << 40, Received: 99}),
	bodyCase("answer, IPv4", ProbeBody{Size: 79, Next: 1, Received: 2, Echo: 3, Observed: address}),
	bodyCase("answer, IPv6", ProbeBody{Epoch: 255, Size: 65535, Next: 1<<64 - 1, Received: 1<<64 - 1, Echo: 1<<64 - 1, Observed: address6}),
	bindCase("bind", KindBind, Bind{Allocation: token, Counter: 7, MAC: mac}),
	bindCase("bind of leg 1", KindBind, Bind{Allocation: token, Leg: 1, Counter: 1 << 60, MAC: mac}),
	bindCase("bound", KindBound, Bind{Bound: true, Allocation: token, Leg: 1, Counter: 7, Observed: address, MAC: mac}),
	bindCase("bound, both", KindBound, Bind{Bound: true, Allocation: token, Counter: 7, Both: true, Observed: address6, MAC: mac}),
	bindCase("bound, gone", KindBound, Bind{Bound: true, Allocation: token, Counter: 7, Gone: true, Observed: address, MAC: mac}),
	partCase("first of two", Part{Flow: 1, ID: 0x01020304, Index: 0, Count: 2, Payload: []byte("ab")}),
	partCase("of a frame", Part{Flow: ControlFlow, ID: 5, Index: 1, Count: 3, Payload: []byte{FrameControl}}),
	partCase("last of 255, empty", Part{Flow: flowMask, ID: 1<<32 - 1, Index: 254, Count: 255, Payload: []byte{}}),
	{"prime", KindPrime, Prime, func(b []byte) (any, error) { return len(b), nil }, 1},
}

func TestDatagramVectors(t *testing.T) {
	const file = "testdata/datagrams.txt"
	var lines []string
	for _, c := range wireCases {
		lines = append(lines, fmt.Sprintf("%s = %x", c.name, c.encode()))
	}
	want := vectors(t, file, "The bytes of SPEC.md sections 2 to 6 before sealing; what a seal would fill is zero.", lines)
	for _, c := range wireCases {
		b := want[c.name]
		if got := c.encode(); !bytes.Equal(got, b) {
			t.Errorf("%s\n got %x\nwant %x", c.name, got, b)
		}
		if got, err := c.decode(b); err != nil || got != c.want {
			t.Errorf("%s: read %+v, %v; want %+v", c.name, got, err, c.want)
		}
		if got := KindOf(b); c.kind != KindUnknown && got != c.kind {
			t.Errorf("%s: kind %d, want %d", c.name, got, c.kind)
		}
		// Each byte less must be refused, except of what has no size of its own.
		if cut, err := c.decode(b[:len(b)-1]); c.kind != KindPrime && err == nil && cut == c.want {
			t.Errorf("%s: one byte less is read as the same", c.name)
		}
	}
}

// vectors reads "name = hex" lines, after writing them where that is asked for.
func vectors(t *testing.T, file, head string, lines []string) map[string][]byte {
	t.Helper()
	if *update {
		text := "# " + head + "\n" + strings.Join(lines, "\n") + "\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		name, value, ok := strings.Cut(line, " = ")
		if strings.HasPrefix(line, "#") || !ok {
			continue
		}
		if values[name], err = hex.DecodeString(value); err != nil {
			t.Fatalf("%s: %s: %v", file, name, err)
		}
	}
	if len(values) != len(lines) {
		t.Errorf("%s has %d vectors, the test %d", file, len(values), len(lines))
	}
	return values
}

func TestDecodersRefuse(t *testing.T) {
	bind := AppendBind(nil, Bind{Allocation: token, MAC: mac})
	probe := append(AppendProbeHeader(nil, ProbeHeader{}), make([]byte, ProbeBodySize+TagSize)...)
	part := AppendPart(nil, Part{Flow: 1, Count: 1})
	body := AppendProbeBody(nil, ProbeBody{})
	data := make([]byte, Overhead)
	PutHeader(data, 0, 1, 1)
	parseHeader := func(b []byte) error { _, err := ParseHeader(b); return err }
	parseProbe := func(b []byte) error { _, err := ParseProbeHeader(b); return err }
	parseBody := func(b []byte) error { _, err := ParseProbeBody(b); return err }
	parseBind := func(b []byte) error { _, err := ParseBind(b); return err }
	parsePart := func(b []byte) error { _, err := ParsePart(b); return err }
	with := func(b []byte, at int, value ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], value)
		return b
	}
	for _, test := range []struct {
		name  string
		parse func([]byte) error
		b     []byte
		want  error
	}{
		{"header: nothing", parseHeader, nil, ErrShort},
		{"header: no room for the tag", parseHeader, data[:Overhead-1], ErrShort},
		{"header: another mark", parseHeader, with(data, 0, 0x80), ErrForm},
		{"header: QUIC", parseHeader, with(data, 0, 0xe0), ErrForm},
		{"probe: nothing", parseProbe, nil, ErrShort},
		{"probe: one byte short", parseProbe, probe[:ProbeSize-1], ErrShort},
		{"probe: of another kind", parseProbe, with(probe, 0, byteBind), ErrForm},
		{"body: one byte short", parseBody, body[:ProbeBodySize-1], ErrShort},
		{"body: a port without an address", parseBody, with(body, ProbeBodySize-1, 1), ErrForm},
		{"bind: nothing", parseBind, nil, ErrShort},
		{"bind: one byte short", parseBind, bind[:BindSize-1], ErrShort},
		{"bind: one byte long", parseBind, append(bytes.Clone(bind), 0), ErrForm},
		{"bind: of another kind", parseBind, with(bind, 0, byteProbe), ErrForm},
		{"bind: a third leg", parseBind, with(bind, 9, 2), ErrForm},
		{"bind: an unknown flag", parseBind, with(bind, 18, 4), ErrForm},
		{"bind: a port without an address", parseBind, with(bind, 36, 1), ErrForm},
		{"part: nothing", parsePart, nil, ErrShort},
		{"part: one byte short", parsePart, part[:PartSize-1], ErrShort},
		{"part: a frame", parsePart, with(part, 0, FrameControl), ErrForm},
		{"part: flow over the highest", parsePart, with(part, 1, 0x40, 0), ErrForm},
		{"part: none of none", parsePart, with(part, 7, 0, 0), ErrForm},
		{"part: index over the count", parsePart, with(part, 7, 3, 3), ErrForm},
	} {
		if err := test.parse(test.b); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// variants are m once for each field of its oneof, or m alone; all fields are
// set, each to a value that follows from its number, so that no number can
// move without a vector noticing.
func variants(d protoreflect.MessageDescriptor) map[string]protoreflect.Message {
	out := map[string]protoreflect.Message{}
	if d.Oneofs().Len() == 0 {
		m := newMessage(d)
		fill(m, "")
		out[string(d.Name())] = m
		return out
	}
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); f.ContainingOneof() != nil {
			m := newMessage(d)
			fill(m, f.Name())
			out[string(d.Name())+" "+string(f.Name())] = m
		}
	}
	return out
}

func fill(m protoreflect.Message, chosen protoreflect.Name) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.ContainingOneof() != nil && f.Name() != chosen {
			continue
		}
		if f.IsList() {
			list := m.Mutable(f).List()
			for range 2 {
				list.Append(element(list.NewElement(), f))
			}
			continue
		}
		m.Set(f, element(m.NewField(f), f))
	}
}

func element(v protoreflect.Value, f protoreflect.FieldDescriptor) protoreflect.Value {
	n := uint64(f.Number())
	switch f.Kind() {
	case protoreflect.MessageKind:
		fill(v.Message(), "")
		return v
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(f.Name()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(bytes.Repeat([]byte{byte(n)}, 3))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(n << 40)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n) << 40)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n) << 20)
	case protoreflect.Sint32Kind:
		return protoreflect.ValueOfInt32(-int32(n) << 20)
	}
	panic("no value for a field of kind " + f.Kind().String())
}

func TestMessageVectors(t *testing.T) {
	var lines []string
	all := map[string]proto.Message{}
	for _, file := range []protoreflect.FileDescriptor{File_control_proto, File_peer_proto} {
		for i := range file.Messages().Len() {
			d := file.Messages().Get(i)
			for name, m := range variants(d) {
				all[name] = m.Interface()
				b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, fmt.Sprintf("%s = %x", name, b))
			}
		}
	}
	lines = append(lines, enumLines()...)
	slices.Sort(lines)
	want := vectors(t, "testdata/messages.txt", "Each message with all its fields set, once for each choice where there is one; each name of an enum.", lines)
	for _, line := range enumLines() {
		if name, value, _ := strings.Cut(line, " = "); hex.EncodeToString(want[name]) != value {
			t.Errorf("%s is now %s, it was %x", name, value, want[name])
		}
	}
	for name, m := range all {
		b, ok := want[name]
		if !ok {
			t.Errorf("%s has no vector; if it is new, run: go test ./proto -run Vectors -update", name)
			continue
		}
		got := newMessage(m.ProtoReflect().Descriptor()).Interface()
		if err := Unmarshal(b, got); err != nil || !proto.Equal(got, m) {
			t.Errorf("%s: read %v, %v\nwant %v", name, got, err, m)
		}
		if got, err := (proto.MarshalOptions{Deterministic: true}).Marshal(m); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %v\n got %x\nwant %x", name, err, got, b)
		}
	}
}

// enumLines are the numbers of all names, each in one byte.
func enumLines() (lines []string) {
	codes, types, dependences := Code(0).Descriptor(), CandidateType(0).Descriptor(), Behaviour_Dependence(0).Descriptor()
	for _, enum := range []protoreflect.EnumDescriptor{codes, types, dependences} {
		for i := range enum.Values().Len() {
			v := enum.Values().Get(i)
			lines = append(lines, fmt.Sprintf("enum %s = %02x", v.Name(), v.Number()))
		}
	}
	return lines
}

func newMessage(d protoreflect.MessageDescriptor) protoreflect.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err)
	}
	return kind.New()
}
