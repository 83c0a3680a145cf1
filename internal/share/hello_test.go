package share

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// byCrypto reads a ClientHello by crypto/tls, which is stopped before it
// answers; false: it takes none. It is what parseHello is compared with.
func byCrypto(stream []byte) (h Hello, ok bool) {
	stop := errors.New("seen")
	_ = tls.Server(mute{Reader: bytes.NewReader(stream)}, &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		h, ok = Hello{plainName(info.ServerName), info.SupportedProtos}, true
		return nil, stop
	}}).Handshake()
	return h, ok
}

// mute is a connection that only reads.
type mute struct {
	io.Reader
	net.Conn
}

func (m mute) Read(b []byte) (int, error)       { return m.Reader.Read(b) }
func (m mute) Write(b []byte) (int, error)      { return len(b), nil }
func (m mute) Close() error                     { return nil }
func (m mute) SetDeadline(time.Time) error      { return nil }
func (m mute) SetWriteDeadline(time.Time) error { return nil }

// clientHello is a message around a body.
func clientHello(body []byte) []byte {
	return append([]byte{messageClientHello, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// inRecords cuts a message into records of so many bytes.
func inRecords(message []byte, size int) (stream []byte) {
	for piece := range slices.Chunk(message, size) {
		stream = append(stream, recordHandshake, 3, 1, byte(len(piece)>>8), byte(len(piece)))
		stream = append(stream, piece...)
	}
	return stream
}

func readStream(r io.Reader) (Hello, error) { return readHello(&opening{conn: r}) }

func sameHello(a, b Hello) bool {
	return a.ServerName == b.ServerName && slices.Equal(a.Protocols, b.Protocols)
}

// body is a ClientHello with these extensions, each its number and its content;
// without any it has no list of them.
func body(extensions ...any) []byte {
	var b cryptobyte.Builder
	b.AddUint16(0x0303)
	b.AddBytes(make([]byte, 32))
	b.AddUint8LengthPrefixed(func(*cryptobyte.Builder) {})
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(0x1301) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
	if len(extensions) > 0 {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for i := 0; i < len(extensions); i += 2 {
				b.AddUint16(uint16(extensions[i].(int)))
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(extensions[i+1].(string))) })
			}
		})
	}
	return b.BytesOrPanic()
}

// Content of extensions that name a destination.
const (
	nameA    = "\x00\x08\x00\x00\x05a.org"
	nameADot = "\x00\x09\x00\x00\x06a.org."
	protoH2  = "\x00\x03\x02h2"
)

// strange are ClientHellos that no client sends by itself. What crypto/tls says
// of them must be the same, unless we take more than it does.
func strange() map[string]struct {
	body  []byte
	want  string // name and ALPNs; "-": none
	apart bool   // crypto/tls doesn't take it
} {
	type each = struct {
		body  []byte
		want  string
		apart bool
	}
	return map[string]each{
		"nothing":                     {nil, "-", false},
		"no extensions":               {body(), "", false},
		"other extensions":            {body(0x1234, "what?", 43, "\x02\x03\x04"), "", false},
		"a name":                      {body(0, nameA), "a.org", false},
		"a name in capitals":          {body(0, strings.ToUpper(nameA)), "a.org", false},
		"a name with a dot":           {body(0, nameADot), "a.org", true},
		"two names":                   {body(0, "\x00\x10"+nameA[2:]+nameA[2:]), "-", false},
		"a name of another type":      {body(0, "\x00\x08\x01\x00\x05a.org"), "", false},
		"names of two types":          {body(0, "\x00\x10\x01\x00\x05b.org"+nameA[2:]), "a.org", false},
		"two extensions with names":   {body(0, nameA, 0, nameA), "-", false},
		"an empty name":               {body(0, "\x00\x03\x00\x00\x00"), "-", false},
		"an empty list of names":      {body(0, "\x00\x00"), "-", false},
		"nothing for a name":          {body(0, ""), "-", false},
		"nothing for a name, twice":   {body(0, "", 0, nameA), "-", false},
		"something behind the name":   {body(0, nameA+"x"), "-", false},
		"a name that is cut off":      {body(0, nameA[:9]), "-", false},
		"ALPNs":                       {body(16, "\x00\x08\x02h2\x04http", 0, nameA), "a.org h2 http", false},
		"two extensions with ALPNs":   {body(16, protoH2, 16, protoH2), "-", false},
		"an empty ALPN":               {body(16, "\x00\x01\x00"), "-", false},
		"an empty list of ALPNs":      {body(16, "\x00\x00"), "-", false},
		"something behind the ALPNs":  {body(16, protoH2+"x"), "-", false},
		"bytes behind the extensions": {append(body(0, nameA), 0), "-", false},
		"other extensions twice":      {body(0x1234, "", 0x1234, "", 0, nameA), "a.org", true},
		"other extensions, broken":    {body(10, "x", 0, nameA), "a.org", true},
	}
}

func TestStrangeHellos(t *testing.T) {
	for name, c := range strange() {
		stream := inRecords(clientHello(c.body), mostHello)
		got := "-"
		h, err := readStream(bytes.NewReader(stream))
		if err == nil {
			got = strings.Join(append([]string{h.ServerName}, h.Protocols...), " ")
		}
		if got != c.want || err != nil && !errors.Is(err, errNoHello) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
		reference, ok := byCrypto(stream)
		if apart := ok != (err == nil); apart != c.apart || ok && !sameHello(h, reference) {
			t.Errorf("%s: %+v, %v; crypto/tls says %+v, %v", name, h, err, reference, ok)
		}
	}
}

// FuzzHello reads any ClientHello, in records and pieces of any size, and any
// bytes as a stream: what crypto/tls takes is taken, and the same is found in it.
func FuzzHello(f *testing.F) {
	head := recordHead + messageHead
	f.Add(helloBytes(f, "www.example.org", "h2", "http/1.1")[head:], uint16(1))
	f.Add(helloBytes(f, "")[head:], uint16(3))
	for _, c := range strange() {
		f.Add(c.body, uint16(16))
		f.Add(inRecords(clientHello(c.body), 20), uint16(mostHello))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint16) {
		message := clientHello(in)
		pieces := max(1, int(size))
		stream := inRecords(message, pieces)
		reference, ok := byCrypto(inRecords(message, mostHello))
		bounded := len(stream) <= mostHello
		for _, r := range []io.Reader{bytes.NewReader(stream), iotest.OneByteReader(bytes.NewReader(stream))} {
			h, err := readStream(r)
			switch {
			case ok && bounded && err != nil:
				t.Errorf("crypto/tls takes it: %v", err)
			case ok && err == nil && !sameHello(h, reference):
				t.Errorf("got %+v; crypto/tls says %+v", h, reference)
			case err != nil && !errors.Is(err, errNoHello):
				t.Errorf("it was all there: %v", err)
			}
		}
		if reference, ok := byCrypto(in); ok {
			if h, err := readStream(bytes.NewReader(in)); err == nil && !sameHello(h, reference) {
				t.Errorf("the stream has %+v; crypto/tls says %+v", h, reference)
			}
		}
	})
}
