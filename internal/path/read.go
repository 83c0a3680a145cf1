package path

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"rendezvous/internal/dgram"
)

// The rest after a read that went wrong: a socket whose every read fails (the
// interface is down, memory is short) must not spin, and must notice soon that
// it works again or is closed.
const (
	firstRest = time.Millisecond
	mostRest  = 100 * time.Millisecond
)

// Read hands every burst that conn receives to handle, until conn is closed:
// then it returns nil. Errors that may pass are waited out. It returns
// os.ErrDeadlineExceeded when the owner's read deadline has come. A burst is
// valid until handle returns.
func Read(conn dgram.Conn, handle func(b dgram.Burst)) error {
	var arena dgram.Arena
	defer arena.Release()
	rest := firstRest
	for {
		bursts, err := conn.Read(&arena)
		for _, b := range bursts {
			handle(b)
		}
		switch {
		case err == nil:
			rest = firstRest
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return err
		default:
			arena.Release()
			time.Sleep(rest)
			rest = min(2*rest, mostRest)
		}
	}
}

// Accept hands every connection that l takes to take, until l is closed or ctx
// has ended. Other errors, such as too many open files, are told to failed, and
// waited out.
func Accept(ctx context.Context, l net.Listener, failed func(error), take func(net.Conn)) {
	for ctx.Err() == nil {
		conn, err := l.Accept()
		switch {
		case err == nil:
			take(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			failed(err)
			Wait(ctx, mostRest)
		}
	}
}
