package dgram

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errAttended: a socket of a Crowd has its readers there.
var errAttended = errors.New("this socket is read by Attend")

// gathering is the readers of a Crowd: as many as there are processors, each
// with an epoll of its own for its share of the sockets. A socket costs a visit
// for what came, and no goroutine, no wake-up and no visit that finds nothing.
type gathering struct {
	readers sync.WaitGroup

	mu     sync.Mutex
	rounds []*round // made for the first socket
	next   int
	fault  error // why there are none
	ended  bool
}

// listen opens a socket, and finds it a reader.
func (g *gathering) listen(s system, addr netip.AddrPort) (Conn, error) {
	r, err := g.round()
	if err != nil {
		return nil, fmt.Errorf("listen on UDP %v: %w", addr, err)
	}
	conn, err := s.ListenUDP(addr)
	if err != nil {
		return nil, err
	}
	member := conn.(*socket)
	fd, err := takenOut(member.raw, member.sock)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on UDP %v: %w", addr, err), conn.Close())
	}
	member.sock, member.raw = fd, fd
	return &attended{socket: member, fd: fd, round: r}, nil
}

// round is the next of the readers in turn.
func (g *gathering) round() (*round, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rounds == nil && g.fault == nil && !g.ended {
		for range runtime.GOMAXPROCS(0) {
			r, err := newRound()
			if err != nil {
				g.fault = err
				break
			}
			g.rounds = append(g.rounds, r)
			g.readers.Go(r.read)
		}
	}
	switch {
	case g.ended:
		return nil, os.ErrClosed
	case len(g.rounds) == 0:
		return nil, g.fault
	}
	g.next++
	return g.rounds[g.next%len(g.rounds)], nil
}

func (g *gathering) end() {
	g.mu.Lock()
	g.ended = true
	for _, r := range g.rounds {
		_ = r.epoll.Close() // its reader ends
	}
	g.rounds = nil
	g.mu.Unlock()
	g.readers.Wait()
}

// round is one reader's sockets. Its epoll is in the runtime's poller, so that
// it waits as any goroutine does.
type round struct {
	epoll *os.File
	raw   syscall.RawConn
	ready [turnMost]unix.EpollEvent
	turn  []*attended // who has one now
	more  []*attended // of those, who may have more

	mu      sync.Mutex
	members map[int32]*attended // by descriptor
}

// turnMost bounds how many sockets have their turn between two looks at which
// have something.
const turnMost = 128

func newRound() (*round, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // NewFile asks that of what may wait
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	r := &round{epoll: os.NewFile(uintptr(fd), "epoll"), members: map[int32]*attended{}}
	r.raw, err = r.epoll.SyscallConn()
	if err == nil {
		err = r.epoll.SetReadDeadline(time.Time{}) // an error says that it can't wait in the poller
	}
	if err != nil {
		return nil, errors.Join(err, r.epoll.Close())
	}
	return r, nil
}

// read gives every socket that has something its turn, until the epoll is
// closed. Memory is borrowed only while there is something to read.
func (r *round) read() {
	var arena Arena
	n := 0
	look := func(fd uintptr) bool {
		var err error
		if n, err = unix.EpollWait(int(fd), r.ready[:], 0); err != nil {
			n = 0 // interrupted: it looks again
			return true
		}
		if n == 0 && len(r.more) == 0 {
			arena.Release()
			return false
		}
		return true
	}
	for r.raw.Read(look) == nil {
		r.call(r.ready[:n])
		for _, a := range r.turn {
			if a.visit(&arena) {
				r.more = append(r.more, a)
			}
		}
	}
	arena.Release()
}

// call makes turn of who had more and who is ready.
func (r *round) call(ready []unix.EpollEvent) {
	r.turn, r.more = r.more, r.turn[:0]
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range ready {
		if a := r.members[e.Fd]; a != nil { // else it was closed just now
			r.turn = append(r.turn, a)
		}
	}
}

func (r *round) add(a *attended) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var added error
	err := r.raw.Control(func(epoll uintptr) {
		added = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, a.fd.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(a.fd.fd)})
	})
	if err == nil {
		err = os.NewSyscallError("epoll_ctl", added)
	}
	if err == nil {
		r.members[int32(a.fd.fd)] = a
	}
	return err
}

// remove takes a socket out before its descriptor is closed, and may be
// another's. The kernel forgets it by itself.
func (r *round) remove(a *attended) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members[int32(a.fd.fd)] == a {
		delete(r.members, int32(a.fd.fd))
	}
}

// attended is a socket of a Crowd.
type attended struct {
	*socket
	fd     *unpolled
	round  *round
	handle func(Burst)
}

// Attend is that of Attended.
func (a *attended) Attend(handle func(Burst)) error {
	if !a.fd.enter() { // it must stay open meanwhile
		return os.ErrClosed
	}
	defer a.fd.leave()
	a.handle = handle
	return a.round.add(a)
}

// Read is Conn's, which is not this socket's way.
func (a *attended) Read(*Arena) ([]Burst, error) { return nil, errAttended }

// Close is Conn's. A burst may still be under way when it returns.
func (a *attended) Close() error {
	a.round.remove(a)
	a.roll.leave(a.socket)
	return a.fd.Close()
}

// visit reads once, and says whether there may be more: the epoll tells only of
// what comes behind a visit that found less than it had room for.
func (a *attended) visit(arena *Arena) (more bool) {
	if !a.fd.enter() {
		return false
	}
	arena.Reset()
	b := arena.borrow()
	a.rx.arena = arena
	want := a.expect(b)
	n, errno := a.kernel.receive(uintptr(a.fd.fd), &b.headers.msgs[0], want)
	if errno == 0 {
		a.gather(b, n)
	}
	a.rx.arena = nil
	a.fd.leave()
	switch {
	case errno == 0:
		for _, each := range arena.Bursts() {
			a.handle(each)
		}
		a.rx.adapt(n)
		return n == want
	case errno == unix.EAGAIN:
		return false
	case errno == unix.EINTR:
	case transient(errno):
		a.icmp.Add(1)
	default:
		time.Sleep(Shortage) // memory is short; it must not spin
	}
	return true
}
