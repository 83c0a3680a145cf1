package dgram

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sent is one datagram or burst that a test's kernel was asked to send.
type sent struct {
	bytes, segment int
}

// faulty is a kernel with errors of our choice; what they leave goes to the
// real one.
type faulty struct {
	linux
	sending   func(s sent) syscall.Errno
	receiving []syscall.Errno // each once

	mu  sync.Mutex
	log []sent
}

func (f *faulty) send(fd uintptr, msg *unix.Msghdr) syscall.Errno {
	s := sent{bytes: int(msg.Iov.Len)}
	if msg.Control != nil {
		hdr := (*unix.Cmsghdr)(unsafe.Pointer(msg.Control))
		if hdr.Level == unix.IPPROTO_UDP && hdr.Type == unix.UDP_SEGMENT {
			s.segment = int(*(*uint16)(unsafe.Add(unsafe.Pointer(msg.Control), unix.CmsgLen(0))))
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, s)
	if f.sending != nil {
		if errno := f.sending(s); errno != 0 {
			return errno
		}
	}
	return f.linux.send(fd, msg)
}

func (f *faulty) sendMany(fd uintptr, msgs *message, n int) (int, syscall.Errno) {
	if f.sending != nil {
		if errno := f.sending(sent{bytes: int(msgs.hdr.Iov.Len)}); errno != 0 {
			return 0, errno
		}
	}
	return f.linux.sendMany(fd, msgs, n)
}

func (f *faulty) receive(fd uintptr, msgs *message, n int) (int, syscall.Errno) {
	if len(f.receiving) > 0 {
		errno := f.receiving[0]
		f.receiving = f.receiving[1:]
		return 0, errno
	}
	return f.linux.receive(fd, msgs, n)
}

// onFaulty is a pair of sockets, of which the second has this kernel.
func onFaulty(t *testing.T, f *faulty) (in, out *socket) {
	t.Helper()
	network := System(Options{Offload: true})
	in = listen(t, network, loopbacks[0]).(*socket)
	out = listen(t, network, loopbacks[0]).(*socket)
	if !out.segment.Load() {
		t.Skip("this kernel has no UDP_SEGMENT")
	}
	out.kernel = f
	return in, out
}

func errnos(list ...syscall.Errno) func(sent) syscall.Errno {
	return func(sent) syscall.Errno {
		if len(list) == 0 {
			return 0
		}
		next := list[0]
		list = list[1:]
		return next
	}
}

func TestPitEIOWithoutChecksumOffloadIsRemembered(t *testing.T) {
	f := &faulty{sending: func(s sent) syscall.Errno {
		if s.segment > 0 {
			return unix.EIO
		}
		return 0
	}}
	in, out := onFaulty(t, f)
	b, sizes := burstOf(in.LocalAddr(), 100, 1200, 7)
	for range 2 {
		if err := out.Write(b); err != nil {
			t.Fatal(err)
		}
		same(t, collect(t, in, out.LocalAddr(), 100), sizes)
	}
	if len(f.log) != 1 {
		t.Errorf("tried segmentation %d times, want once for the socket", len(f.log))
	}
	if n := out.Stats().OneByOne; n != 200 {
		t.Errorf("counted %d one by one, want 200", n)
	}
}

func TestPitAtMost64SegmentsAnd65507BytesASend(t *testing.T) {
	for _, s := range []struct{ n, size, last int }{
		{64, 1000, 1000}, {65, 1000, 1000}, {200, 10, 3}, {64, 1452, 1452}, {100, 65000, 1}, {3, 32753, 32753}, {2, 32754, 32754},
	} {
		f := &faulty{}
		in, out := onFaulty(t, f)
		f.sending = func(sent) syscall.Errno { return 0 }
		b, _ := burstOf(in.LocalAddr(), s.n, s.size, s.last)
		if err := out.Write(b); err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, v := range f.log {
			total += v.bytes
			if v.bytes > MaxBytes || v.segment > 0 && v.bytes > MaxSegments*v.segment {
				t.Errorf("%+v: a send of %+v", s, v)
			}
			if v.segment > 0 && v.bytes <= v.segment {
				t.Errorf("%+v: UDP_SEGMENT set for a single datagram, %+v", s, v)
			}
		}
		if total != len(b.Buf) {
			t.Errorf("%+v: sent %d bytes of %d", s, total, len(b.Buf))
		}
	}
}

func TestPitSingleDatagramNeverSetsSegment(t *testing.T) {
	f := &faulty{}
	in, out := onFaulty(t, f)
	for _, n := range []int{0, 1, 1400, MaxBytes} {
		if err := out.Write(One(in.LocalAddr(), make([]byte, n))); err != nil {
			t.Fatal(err)
		}
	}
	// A burst whose Size was not cut down to its only datagram's.
	if err := out.Write(Burst{Addr: in.LocalAddr(), Buf: make([]byte, 100), Size: 1400}); err != nil {
		t.Fatal(err)
	}
	want := []sent{{0, 0}, {1, 0}, {1400, 0}, {MaxBytes, 0}, {100, 0}}
	if !slices.Equal(f.log, want) {
		t.Errorf("sends %v, want %v", f.log, want)
	}
}

func TestPitFirstSendGetsEPERM(t *testing.T) {
	f := &faulty{sending: errnos(unix.EPERM)}
	in, out := onFaulty(t, f)
	b, sizes := burstOf(in.LocalAddr(), 16, 1200, 7)
	if err := out.Write(b); err != nil {
		t.Fatal(err)
	}
	same(t, collect(t, in, out.LocalAddr(), 16), sizes)

	f.log, f.sending = nil, func(sent) syscall.Errno { return unix.EPERM }
	if err := out.Write(b); !errors.Is(err, unix.EPERM) {
		t.Fatalf("a firewall that means it: %v, want EPERM", err)
	}
	if len(f.log) != 2 {
		t.Errorf("tried %d times, want twice", len(f.log))
	}
	if n := out.Stats().Denied; n != 16 {
		t.Errorf("counted %d denied, want 16", n)
	}
}

// An ICMP error about one destination must not hurt a socket that serves many.
func TestPitICMPRefusalOnASharedSocket(t *testing.T) {
	onEach(t, func(t *testing.T, network Network, at netip.Addr) {
		in, conn := listen(t, network, at), listen(t, network, at)
		closed := listen(t, network, at)
		closed.Close()
		// IP_RECVERR makes Linux report them on a socket that isn't
		// connected, as other systems always do.
		level, name := unix.IPPROTO_IP, unix.IP_RECVERR
		if at.Is6() {
			level, name = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		}
		set(t, conn, level, name, 1)
		for i := range 20 {
			if err := conn.Write(One(closed.LocalAddr(), []byte("x"))); err != nil {
				t.Fatalf("write %d to a closed port: %v", i, err)
			}
			if err := conn.Write(One(in.LocalAddr(), numbered(i, 9))); err != nil {
				t.Fatalf("write %d after it: %v", i, err)
			}
			if err := conn.Write(One(closed.LocalAddr(), []byte("x"))); err != nil {
				t.Fatalf("write %d to a closed port: %v", i, err)
			}
			if err := in.Write(One(conn.LocalAddr(), numbered(i, 9))); err != nil {
				t.Fatal(err)
			}
			if got := collect(t, conn, in.LocalAddr(), 1); string(got[0]) != string(numbered(i, 9)) {
				t.Fatal("another datagram")
			}
		}
		for i, d := range collect(t, in, conn.LocalAddr(), 20) {
			if string(d) != string(numbered(i, 9)) {
				t.Fatalf("datagram %d is another one", i)
			}
		}
		if conn.(StatsReader).Stats().ICMP == 0 {
			t.Error("no ICMP error was counted: did the test make any?")
		}
	})
}

// sockOf is the socket below a Conn.
func sockOf(conn Conn) *net.UDPConn {
	if s, ok := conn.(*socket); ok {
		return s.sock.(*net.UDPConn)
	}
	return conn.(*portable).sock
}

func set(t *testing.T, conn Conn, level, name, value int) {
	t.Helper()
	raw, err := sockOf(conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var setErr error
	if err := errors.Join(raw.Control(func(fd uintptr) { setErr = unix.SetsockoptInt(int(fd), level, name, value) }), setErr); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, conn Conn, level, name int) (value int) {
	t.Helper()
	raw, err := sockOf(conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var getErr error
	if err := errors.Join(raw.Control(func(fd uintptr) { value, getErr = unix.GetsockoptInt(int(fd), level, name) }), getErr); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestPitTransientReadErrorsAreSwallowed(t *testing.T) {
	f := &faulty{receiving: []syscall.Errno{unix.ECONNREFUSED, unix.EINTR, unix.EHOSTUNREACH, unix.EMSGSIZE}}
	in, out := onFaulty(t, f)
	if err := in.Write(One(out.LocalAddr(), numbered(0, 9))); err != nil {
		t.Fatal(err)
	}
	same(t, collect(t, out, in.LocalAddr(), 1), []int{9})
	if n := out.Stats().ICMP; n != 3 {
		t.Errorf("counted %d, want 3", n)
	}
	f.receiving = []syscall.Errno{unix.ENOMEM}
	var arena Arena
	if _, err := out.Read(&arena); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("got %v, want ENOMEM", err)
	}
	if arena.block != nil {
		t.Error("the arena kept its memory after an error")
	}
}

func TestPitEMSGSIZEIsTooLarge(t *testing.T) {
	// As old kernels say it of a burst (EINVAL), and new ones (EMSGSIZE).
	for _, word := range []syscall.Errno{unix.EINVAL, unix.EMSGSIZE} {
		const mtu = 1280
		f := &faulty{sending: func(s sent) syscall.Errno {
			switch {
			case s.segment > mtu:
				return word
			case s.segment == 0 && s.bytes > mtu:
				return unix.EMSGSIZE
			}
			return 0
		}}
		in, out := onFaulty(t, f)
		b, _ := burstOf(in.LocalAddr(), 1, 1400, 1400)
		if err := out.Write(b); !IsTooLarge(err) {
			t.Errorf("one: %v, want one that IsTooLarge", err)
		}
		b, _ = burstOf(in.LocalAddr(), 16, 1400, 1400)
		if err := out.Write(b); !IsTooLarge(err) {
			t.Errorf("a burst: %v, want one that IsTooLarge", err)
		}
		if !out.segment.Load() {
			t.Errorf("%v turned segmentation off for good", word)
		}
	}
}

func TestPitNoRoomIsBounded(t *testing.T) {
	for _, word := range []syscall.Errno{unix.EAGAIN, unix.ENOBUFS} {
		f := &faulty{sending: func(sent) syscall.Errno { return word }}
		in, out := onFaulty(t, f)
		b, _ := burstOf(in.LocalAddr(), 16, 1200, 7)
		start := time.Now()
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				if err := out.Write(b); !errors.Is(err, word) {
					t.Errorf("got %v, want %v", err, word)
				}
			})
		}
		wait.Wait()
		if took := time.Since(start); took > 10*patience {
			t.Errorf("%v took %v", word, took)
		}
		if n := out.Stats().Full; n != 64 {
			t.Errorf("%v: counted %d, want 64", word, n)
		}
		// It passes.
		f.sending = errnos(word)
		if word == unix.ENOBUFS {
			if err := out.Write(b); err != nil {
				t.Errorf("after room was made: %v", err)
			}
		}
	}
}

func TestPitOffloadSwitchedOff(t *testing.T) {
	t.Setenv(EnvNoOffload, "1")
	in := listen(t, System(DefaultOptions()), loopbacks[0])
	out := listen(t, System(DefaultOptions()), loopbacks[0]).(*socket)
	f := &faulty{}
	out.kernel = f
	if get(t, in, unix.IPPROTO_UDP, unix.UDP_GRO) != 0 {
		t.Error("UDP_GRO is on")
	}
	b, sizes := burstOf(in.LocalAddr(), 130, 300, 299)
	if err := out.Write(b); err != nil {
		t.Fatal(err)
	}
	same(t, collect(t, in, out.LocalAddr(), 130), sizes)
	if len(f.log) != 0 || out.segment.Load() {
		t.Errorf("sends %v, want only sendmmsg", f.log)
	}
}
