package relay

import (
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

// crossing is a relay on a real socket, with legs at addresses of their own on
// loopback.
type crossing struct {
	server *Server
	conn   dgram.Conn
	from   int // a socket that sends from any address
	port   uint16
	at     unix.SockaddrInet4 // the relay's
	burst  []byte
	arena  dgram.Arena
}

const (
	burstSize = 1400
	burstLen  = 16
)

// legAddr is the address of one side of a session.
func legAddr(side byte, session int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1 + side, byte(session >> 8), byte(session)}), port)
}

func newCrossing(b *testing.B, sessions int) *crossing {
	c := &crossing{server: NewServer(Limits{Bytes: 1e15, Datagrams: 1e15, PerMember: sessions}), burst: make([]byte, burstLen*burstSize)}
	var err error
	if c.conn, err = dgram.System(dgram.DefaultOptions()).ListenUDP(netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.conn.Close() })
	var far uint16
	c.from, c.port = anySocket(b)
	_, far = anySocket(b) // nobody reads what arrives
	local := c.conn.LocalAddr()
	c.at = unix.SockaddrInet4{Port: int(local.Port()), Addr: local.Addr().As4()}
	for i := range sessions {
		a, err := c.server.Allocate(time.Now(), "home", "laptop"+legAddr(0, i, 1).String())
		if err != nil {
			b.Fatal(err)
		}
		c.server.Receive(c.conn, dgram.One(legAddr(0, i, c.port), makeBind(a, 0, 1)))
		c.server.Receive(c.conn, dgram.One(legAddr(1, i, far), makeBind(a, 1, 1)))
	}
	return c
}

// anySocket takes what is sent to any address of this host's at its port.
func anySocket(b *testing.B) (fd int, port uint16) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		b.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		b.Fatal(err)
	}
	return fd, uint16(name.(*unix.SockaddrInet4).Port)
}

// send has a leg send a burst.
func (c *crossing) send(b *testing.B, session int) {
	var control [64]byte
	put := func(at, level, kind, size int) unsafe.Pointer {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[at]))
		h.Level, h.Type = int32(level), int32(kind)
		h.SetLen(unix.CmsgLen(size))
		return unsafe.Pointer(&control[at+unix.CmsgLen(0)])
	}
	info := (*unix.Inet4Pktinfo)(put(0, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo))
	info.Spec_dst = legAddr(0, session, 0).Addr().As4()
	next := unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	*(*uint16)(put(next, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)) = burstSize
	if _, err := unix.SendmsgN(c.from, c.burst, control[:next+unix.CmsgSpace(2)], &c.at, 0); err != nil {
		b.Fatal(err)
	}
}

// turn has bursts of these sessions wait, and says how long the relay takes to
// forward them.
func (c *crossing) turn(b *testing.B, first, sessions int) time.Duration {
	const bursts = 40 // as many as a socket's buffer holds
	for i := range bursts {
		c.send(b, (first+i)%sessions)
	}
	began := time.Now()
	for got := 0; got < bursts*burstLen; {
		all, err := c.conn.Read(&c.arena)
		if err != nil {
			b.Fatal(err)
		}
		for _, each := range all {
			c.server.Receive(c.conn, each)
			got += each.Len()
		}
	}
	return time.Since(began)
}

// BenchmarkSessions is what a relay takes for a datagram of bursts of 16, of one
// session, of two and of ten thousand in turn, in one process turn by turn.
// "of-two" is the rate of the many as a share of the two's. The one is apart: its
// bursts lie end to end in the queue, and are sent as longer ones.
func BenchmarkSessions(b *testing.B) {
	const sessions = 10_000
	c := newCrossing(b, sessions)
	defer c.arena.Release()
	var one, two, many []time.Duration
	next := 0
	for b.Loop() {
		one = append(one, c.turn(b, 0, 1))
		two = append(two, c.turn(b, 0, 2))
		many = append(many, c.turn(b, next, sessions))
		next += 40
	}
	slices.Sort(one)
	slices.Sort(two)
	slices.Sort(many)
	b.ReportMetric(float64(one[len(one)/2].Nanoseconds())/(40*burstLen), "ns/one")
	b.ReportMetric(float64(two[len(two)/2].Nanoseconds())/(40*burstLen), "ns/two")
	b.ReportMetric(float64(many[len(many)/2].Nanoseconds())/(40*burstLen), "ns/many")
	b.ReportMetric(float64(one[len(one)/2])/float64(many[len(many)/2]), "of-one")
	b.ReportMetric(float64(two[len(two)/2])/float64(many[len(many)/2]), "of-two")
	if n := c.server.Stats(); n.Sessions != sessions {
		b.Fatalf("%d sessions have both legs, want %d", n.Sessions, sessions)
	}
}
