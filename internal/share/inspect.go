package share

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// Look is what became of looking at a connection.
type Look struct {
	Kept []byte // all that was read
	to   *backend
}

// Foreign says whether the connection is for another program: Carry takes it
// there.
func (l *Look) Foreign() bool { return l.to != nil }

// Inspect reads what a new connection begins with until it is clear whose that
// is, at most until the deadline, and at most mostHello bytes of it. A
// connection that begins with nothing goes where the rule for silence says.
// Its error is that of reading, where no rule is for the little that came.
func (s *Sharing) Inspect(conn net.Conn, deadline time.Time) (Look, error) {
	o := opening{conn: conn}
	wait := deadline
	if s.tcp.quiet() != nil {
		wait = earlier(time.Now().Add(s.inspect), deadline)
	}
	if err := conn.SetReadDeadline(wait); err != nil {
		return Look{}, err
	}
	if err := o.fill(); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) && s.tcp.quiet() != nil {
			return Look{to: s.tcp.quiet()}, nil
		}
		return Look{}, err
	}
	if err := conn.SetReadDeadline(deadline); err != nil {
		return Look{}, err
	}
	v := s.tcp.judge(o.kept, false)
	for v.more {
		if err := o.fill(); err != nil {
			return o.undecided(s.tcp.judge(o.kept, true).to, err)
		}
		v = s.tcp.judge(o.kept, false)
	}
	if !v.tls {
		return Look{o.kept, v.to}, nil
	}
	h, err := readHello(&o)
	switch {
	case err == nil && s.own.owns(h):
		return Look{Kept: o.kept}, nil
	case err == nil:
		return Look{o.kept, s.tcp.forHello(h)}, nil
	case !errors.Is(err, errNoHello):
		return o.undecided(s.tcp.otherwise, err)
	}
	s.count.hello.Add(1)
	return Look{o.kept, s.tcp.otherwise}, nil
}

// quiet is who gets what says nothing.
func (t *streamRules) quiet() *backend {
	if t.silence != nil {
		return t.silence
	}
	return t.otherwise
}

func (t *streamRules) forHello(h Hello) *backend {
	for i := range t.tls {
		if t.tls[i].takes(h) {
			return t.tls[i].to
		}
	}
	return t.otherwise
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// opening is the beginning of a connection, which is kept while it is read.
type opening struct {
	conn io.Reader
	kept []byte
	at   int // what of kept was taken by next
}

// firstRead has room for most ClientHellos.
const firstRead = 2 << 10

// fill reads some more.
func (o *opening) fill() error {
	if cap(o.kept)-len(o.kept) == 0 {
		grown := make([]byte, len(o.kept), max(firstRead, 2*cap(o.kept)))
		copy(grown, o.kept)
		o.kept = grown
	}
	n, err := o.conn.Read(o.kept[len(o.kept):cap(o.kept)])
	o.kept = o.kept[:len(o.kept)+n]
	if n > 0 {
		err = nil // it comes again with the next read
	}
	return err
}

// next gives that many bytes more, of what was kept and what comes. It does not
// wait for what a ClientHello can't have.
func (o *opening) next(size int) ([]byte, error) {
	end := o.at + size
	if end > mostHello {
		return nil, errNoHello
	}
	for len(o.kept) < end {
		if err := o.fill(); err != nil {
			return nil, err
		}
	}
	b := o.kept[o.at:end]
	o.at = end
	return b, nil
}

// undecided is for a connection that has ended, or whose time is up, before it
// was clear what it is.
func (o *opening) undecided(to *backend, err error) (Look, error) {
	if to != nil {
		return Look{o.kept, to}, nil
	}
	return Look{Kept: o.kept}, err
}
