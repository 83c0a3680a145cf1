package dgram

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrTooLarge is what an implementation of Conn that has no kernel below it
// returns for a datagram that is larger than the path.
var ErrTooLarge = errors.New("datagram larger than the path")

// errFamily: a socket speaks IPv4 or IPv6, never both.
var errFamily = errors.New("the address is of the other family than the socket")

// IsTooLarge says whether err means that a datagram is larger than the path
// (EMSGSIZE): it was not sent, and a smaller one may pass.
func IsTooLarge(err error) bool {
	return errors.Is(err, ErrTooLarge) || errors.Is(err, errMessageSize)
}

// Error is a visit to the kernel that ended badly. It is made on the data path,
// so its text is put together only when somebody asks.
type Error struct {
	Op    string         // "read" or "write"
	Local netip.AddrPort // of the socket
	Addr  netip.AddrPort // written to; zero for a read
	Bytes int            // of the burst that was to be written
	Err   error          // the kernel's
}

func (e *Error) Error() string {
	if e.Op == "write" {
		return fmt.Sprintf("write %d bytes from %v to %v: %v", e.Bytes, e.Local, e.Addr, e.Err)
	}
	return fmt.Sprintf("%s on %v: %v", e.Op, e.Local, e.Err)
}

// Unwrap is the kernel's error.
func (e *Error) Unwrap() error { return e.Err }
