package stream

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"rendezvous/internal/path"
	"rendezvous/proto"
)

// pieces reads all pieces of b, which comes in parts of at most n bytes. Data
// is joined.
func pieces(b []byte, n int) (found []piece, err error) {
	var d decoder
	for len(b) > 0 {
		part := bytes.Clone(b[:min(n, len(b))])
		b = b[len(part):]
		for {
			p, rest, ok, err := d.next(part)
			if err != nil {
				return found, err
			}
			if !ok {
				break
			}
			part = rest
			if last := len(found) - 1; p.kind == pieceData && last >= 0 && found[last].kind == pieceData {
				found[last].data = append(bytes.Clone(found[last].data), p.data...)
				continue
			}
			p.data = bytes.Clone(p.data)
			found = append(found, p)
		}
	}
	return found, nil
}

// The bytes of each kind, as SPEC.md shows them.
func TestPieces(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		hex  string
		want piece
	}{
		{"data", append(appendHeader(nil, pieceData, 2), "hi"...), "010000026869", piece{kind: pieceData, data: []byte("hi")}},
		{"acknowledgement", appendAck(nil, 258, 131330), "0200001000000000000001020000000000020102", piece{kind: pieceAck, received: 258, limit: 131330}},
		{"FIN", appendHeader(nil, pieceFIN, 0), "03000000", piece{kind: pieceFIN}},
		{"reset", appendReset(nil, "gone"), "04000004676f6e65", piece{kind: pieceReset, reason: "gone"}},
		{"end", appendHeader(nil, pieceEnd, 0), "05000000", piece{kind: pieceEnd}},
	}
	for _, test := range tests {
		if got := hex.EncodeToString(test.b); got != test.hex {
			t.Errorf("%s: %s, not %s", test.name, got, test.hex)
		}
		for n := 1; n <= len(test.b); n++ {
			got, err := pieces(test.b, n)
			if err != nil || len(got) != 1 {
				t.Fatalf("%s in parts of %d: %v, %v", test.name, n, got, err)
			}
			p := got[0]
			if p.kind != test.want.kind || !bytes.Equal(p.data, test.want.data) || p.received != test.want.received ||
				p.limit != test.want.limit || p.reason != test.want.reason {
				t.Errorf("%s in parts of %d: %+v", test.name, n, p)
			}
		}
	}
	for _, bad := range []string{"00000000", "06000000", "01000000", "01010001", "0200000f", "03000001", "040000c9", "05000001", "ffffffff"} {
		b, _ := hex.DecodeString(bad)
		if got, err := pieces(b, 4); err == nil {
			t.Errorf("%s is read as %v", bad, got)
		}
	}
	if long := appendReset(nil, strings.Repeat("ö", 150)); len(long) > headerSize+mostReason {
		t.Errorf("a reason of %d bytes", len(long))
	}
}

// Whatever comes, it makes no difference in which parts.
func FuzzPieces(f *testing.F) {
	f.Add([]byte{1, 0, 0, 2, 'h', 'i', 2, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0}, 3)
	f.Add([]byte{3, 0, 0, 0, 4, 0, 0, 1, 'x', 5, 0, 0, 0}, 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n = max(1, min(n, 1000))
		whole, err1 := pieces(b, len(b)+1)
		parts, err2 := pieces(b, n)
		if (err1 == nil) != (err2 == nil) || len(whole) != len(parts) {
			t.Fatalf("%d pieces and %v, in parts of %d: %d and %v", len(whole), err1, n, len(parts), err2)
		}
		for i := range whole {
			x, y := whole[i], parts[i]
			if x.kind != y.kind || !bytes.Equal(x.data, y.data) || x.received != y.received || x.limit != y.limit || x.reason != y.reason {
				t.Errorf("%+v, in parts %+v", x, y)
			}
		}
	})
}

func FuzzGreeting(f *testing.F) {
	f.Add(appendMessage(nil, (&Request{Service: "ssh", Only: path.KindsOf(path.DirectUDP)}).connect()))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m proto.Connect
		r := bytes.NewReader(b)
		if readMessage(r, &m) != nil {
			return
		}
		request, err := requestOf(&m)
		if err != nil {
			return
		}
		var again proto.Connect
		if err := readMessage(bytes.NewReader(appendMessage(nil, request.connect())), &again); err != nil {
			t.Fatal(err)
		}
		if same, err := requestOf(&again); err != nil || same != request {
			t.Errorf("%+v becomes %+v: %v", request, same, err)
		}
	})
}
