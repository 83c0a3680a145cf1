package stun

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
)

// maxMessage bounds a STUN message on a stream. An answer to a binding request
// has a few addresses; what is longer is no answer to us.
const maxMessage = 2048

// ReadMessage reads one STUN message off a stream, where messages stand one
// behind another and each says its own length (RFC 8489 section 6.2.2). It
// reads not a byte more. Bytes that are no STUN message are an error after
// which the stream can't be understood any more.
func ReadMessage(r io.Reader) ([]byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(header[2:]))
	if header[0]&0xc0 != 0 || n%4 != 0 || binary.BigEndian.Uint32(header[4:]) != cookie || headerSize+n > maxMessage {
		return nil, errMalformed
	}
	message := make([]byte, headerSize+n)
	copy(message, header[:])
	if _, err := io.ReadFull(r, message[headerSize:]); err != nil {
		return nil, fmt.Errorf("a STUN message was cut short: %w", err)
	}
	return message, nil
}

// BindTCP connects to a STUN server from local, which may share its port with a
// listener and with other connections, and asks how the server sees it. The
// connection is the caller's to close: while it is open the NAT keeps the
// mapping, and AskTCP can ask again.
//
// The connect is retried by the kernel (after 1 s and 3 s), and the request
// needs no repeating; ctx bounds both.
func BindTCP(ctx context.Context, streams dgram.Streams, local, server netip.AddrPort) (Result, net.Conn, error) {
	begun := time.Now()
	conn, err := streams.DialTCP(ctx, local, server)
	if err != nil {
		return Result{}, nil, fmt.Errorf("ask STUN server %v over TCP: no connection in %v; does TCP to port %d pass?: %w",
			server, time.Since(begun).Round(time.Millisecond), server.Port(), err)
	}
	result, err := AskTCP(ctx, conn, server)
	if err != nil {
		_ = conn.Close() // the first error is the one that says something
		return Result{}, nil, err
	}
	return result, conn, nil
}

// AskTCP asks once on a connection to a STUN server: as BindTCP does, and again
// where BindTCP left it open. Not for concurrent use on one connection.
func AskTCP(ctx context.Context, conn net.Conn, server netip.AddrPort) (Result, error) {
	_ = conn.SetDeadline(time.Time{})                                                // that of an earlier one may have come to an end
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends what waits
	defer stop()
	id := pion.NewTransactionID()
	begun := time.Now()
	_, err := conn.Write(bindingRequest(id, 0))
	for err == nil {
		var b []byte
		if b, err = ReadMessage(conn); err != nil {
			break
		}
		m, bad := parse(b)
		if bad != nil {
			err = bad
			break
		}
		if m.TransactionID != id || m.Type != pion.BindingSuccess && m.Type != pion.BindingError {
			continue // of an earlier request that was given up
		}
		o, ok := decode(m, plain(server))
		if !ok {
			err = errMalformed
			break
		}
		o.result.RTT = time.Since(begun)
		return o.result, o.err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return Result{}, fmt.Errorf("ask STUN server %v over TCP: no answer in %v, though it took the connection; is it a STUN server?: %w",
		server, time.Since(begun).Round(time.Millisecond), err)
}
