package share

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// Hello is what a ClientHello of TLS tells of where it wants to go.
type Hello struct {
	ServerName string // in lower case, without a dot behind it; "" when none is told
	Protocols  []string
}

// mostHello bounds a ClientHello, in bytes: browsers' have some 2 KB with
// post-quantum keys.
const mostHello = 16 << 10

var (
	errSeen    = errors.New("the ClientHello was seen")
	errNoHello = errors.New("no ClientHello of TLS")
)

// onlyHello stops the standard library's TLS once it has read a ClientHello.
var onlyHello = &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
	m, ok := info.Conn.(*mute)
	if ok {
		m.seen = true
		m.hello = Hello{ServerName: plainName(info.ServerName), Protocols: info.SupportedProtos}
	}
	return nil, errSeen
}}

// readHello reads no more of r than TLS wants for a ClientHello. The standard
// library reads it, and is stopped before it answers.
func readHello(r io.Reader) (Hello, error) {
	m := mute{Reader: r}
	err := tls.Server(&m, onlyHello).Handshake()
	if !m.seen {
		return m.hello, errors.Join(errNoHello, err)
	}
	return m.hello, nil
}

// mute is a connection that only reads, and keeps what was read.
type mute struct {
	io.Reader
	hello Hello
	seen  bool
}

func (*mute) Write(b []byte) (int, error)      { return len(b), nil }
func (*mute) Close() error                     { return nil }
func (*mute) LocalAddr() net.Addr              { return nil }
func (*mute) RemoteAddr() net.Addr             { return nil }
func (*mute) SetDeadline(time.Time) error      { return nil }
func (*mute) SetReadDeadline(time.Time) error  { return nil }
func (*mute) SetWriteDeadline(time.Time) error { return nil }
