package proto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

// writes counts the calls of Write.
type writes struct {
	bytes.Buffer
	calls int
}

func (w *writes) Write(b []byte) (int, error) {
	w.calls++
	return w.Buffer.Write(b)
}

func TestMessagesFollowOneAnotherInAStream(t *testing.T) {
	sent := []*ToCoordinator{
		{},
		{Id: 1, Body: &ToCoordinator_Lookup{Lookup: &Lookup{Name: "home"}}},
		{Id: 1 << 63, Body: &ToCoordinator_Reply{Reply: &Reply{Body: make([]byte, 300)}}},
		{Body: &ToCoordinator_Reply{Reply: &Reply{Body: make([]byte, MaxMessage-20)}}},
	}
	var w writes
	for _, m := range sent {
		if err := WriteMessage(&w, m); err != nil {
			t.Fatal(err)
		}
	}
	if w.calls != len(sent) {
		t.Errorf("%d writes for %d messages", w.calls, len(sent))
	}
	r := bufio.NewReader(&w.Buffer)
	for i, want := range sent {
		got := &ToCoordinator{Id: 99} // what it held before must go
		if err := ReadMessage(r, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("message %d: %v, %v", i, got, err)
		}
	}
	if err := ReadMessage(r, &ToCoordinator{}); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last message: %v", err)
	}
}

func TestFramingVectors(t *testing.T) {
	for name, test := range map[string]struct {
		m    *ToCoordinator
		want string
	}{
		"empty":  {&ToCoordinator{}, "\x00"},
		"lookup": {&ToCoordinator{Id: 5, Body: &ToCoordinator_Lookup{Lookup: &Lookup{Name: "home"}}}, "\x0a\x08\x05\x2a\x06\x0a\x04home"},
		"two bytes of length": {&ToCoordinator{Body: &ToCoordinator_Lookup{Lookup: &Lookup{Name: strings.Repeat("a", 200)}}},
			"\xce\x01\x2a\xcb\x01\x0a\xc8\x01" + strings.Repeat("a", 200)},
	} {
		var b bytes.Buffer
		if err := WriteMessage(&b, test.m); err != nil || b.String() != test.want {
			t.Errorf("%s: %x, %v", name, b.Bytes(), err)
		}
		var got ToCoordinator
		if err := ReadMessage(bufio.NewReader(strings.NewReader(test.want)), &got); err != nil || !proto.Equal(&got, test.m) {
			t.Errorf("%s: %v, %v", name, &got, err)
		}
	}
}

func TestStreamThatEndsWithinAMessage(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMessage(&b, &ToCoordinator{Body: &ToCoordinator_Lookup{Lookup: &Lookup{Name: strings.Repeat("a", 200)}}}); err != nil {
		t.Fatal(err)
	}
	for n := range b.Len() {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		err := ReadMessage(bufio.NewReader(bytes.NewReader(b.Bytes()[:n])), &ToCoordinator{})
		if !errors.Is(err, want) || n > 0 && errors.Is(err, io.EOF) {
			t.Errorf("cut to %d bytes: %v, want %v", n, err, want)
		}
	}
}

func TestTooLongMessageIsRefusedBeforeItIsRead(t *testing.T) {
	for _, size := range []uint64{MaxMessage + 1, 1 << 32, 1<<64 - 1} {
		b := append(binary.AppendUvarint(nil, size), 'x')
		r := bufio.NewReader(bytes.NewReader(b))
		if err := ReadMessage(r, &ToCoordinator{}); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("size %d: %v", size, err)
		}
		if rest, err := r.ReadByte(); err != nil || rest != 'x' {
			t.Errorf("size %d: read on behind the length", size)
		}
	}
	long := bufio.NewReader(bytes.NewReader(bytes.Repeat([]byte{0xff}, 20)))
	if err := ReadMessage(long, &ToCoordinator{}); err == nil {
		t.Error("a length that does not end was taken")
	}
	var w writes
	if err := WriteMessage(&w, &Reply{Body: make([]byte, MaxMessage)}); err == nil || w.calls > 0 {
		t.Errorf("too long to write: %v", err)
	}
}

func TestGarbageIsNoMessage(t *testing.T) {
	for _, s := range []string{"\x01\x80", "\x02\x0a\x05", "\x03\x2a\x01\xff", "\x04\x2a\x02\x0a\xff"} {
		if err := ReadMessage(bufio.NewReader(strings.NewReader(s)), &ToCoordinator{}); err == nil {
			t.Errorf("%x was taken", s)
		}
	}
}

func TestEndpointAndCandidate(t *testing.T) {
	for _, s := range []string{"198.51.100.2:40112", "[2001:db8::7]:1", "[::ffff:10.0.0.1]:65535"} {
		want := netip.MustParseAddrPort(s)
		want = netip.AddrPortFrom(want.Addr().Unmap(), want.Port())
		e, c := NewEndpoint(netip.MustParseAddrPort(s)), NewCandidate(CandidateType_CANDIDATE_HOST, netip.MustParseAddrPort(s))
		if n := len(e.GetAddr()); n != want.Addr().BitLen()/8 {
			t.Errorf("%s takes %d bytes", s, n)
		}
		if got, ok := e.AddrPort(); !ok || got != want {
			t.Errorf("endpoint %s: %v %v", s, got, ok)
		}
		if got, ok := c.AddrPort(); !ok || got != want || c.GetType() != CandidateType_CANDIDATE_HOST {
			t.Errorf("candidate %s: %v %v", s, got, ok)
		}
	}
	for name, e := range map[string]*Endpoint{
		"nil":         nil,
		"empty":       {},
		"no port":     {Addr: []byte{1, 2, 3, 4}},
		"port":        {Addr: []byte{1, 2, 3, 4}, Port: 65536},
		"3 bytes":     {Addr: []byte{1, 2, 3}, Port: 1},
		"5 bytes":     {Addr: []byte{1, 2, 3, 4, 5}, Port: 1},
		"17 bytes":    {Addr: make([]byte, 17), Port: 1},
		"no address":  NewEndpoint(netip.AddrPort{}),
		"port of -1":  {Addr: []byte{1, 2, 3, 4}, Port: 1<<32 - 1},
		"no addr yet": {Port: 1},
	} {
		if got, ok := e.AddrPort(); ok {
			t.Errorf("%s: %v", name, got)
		}
	}
}
