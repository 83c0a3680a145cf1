package forward

import (
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// resident is this process's resident memory in bytes.
func resident(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// loop is a session of a Flows with itself, as it were: what one side sends,
// the other gets at once.
type loop struct{ to *Flows }

func (l *loop) Send(_ path.Kinds, flow uint16, b dgram.Burst) { l.to.Deliver(flow, b) }
func (l *loop) SendFrame(_ path.Kinds, f *proto.Frame)        { l.to.Frame(f) }
func (l *loop) Raw(uint16, uint64)                            {}

// TestMemoryOfTenThousandFlows: both ends of ten thousand flows, with a real
// socket before the service each, that have all carried datagrams both ways.
func TestMemoryOfTenThousandFlows(t *testing.T) {
	const n, mostMB = 10000, 80
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < n+1000 {
		t.Skipf("needs %d open files, the limit is %d: raise it with ulimit -n", n+1000, limit.Cur)
	}
	network := dgram.System(dgram.DefaultOptions())
	service, err := network.ListenUDP(addr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- path.Read(service, func(b dgram.Burst) {
			for d := range b.All() {
				if err := service.Write(dgram.One(b.Addr, d)); err != nil {
					t.Error(err)
				}
			}
		})
	}()
	services := NewServices()
	if err := services.Expose("echo", "udp://"+service.LocalAddr().String()); err != nil {
		t.Fatal(err)
	}
	there, back := new(loop), new(loop)
	swallow := &counting{}
	home := New(Config{Carrier: back, Instance: 22, Services: services, Network: network})
	laptop := New(Config{Carrier: there, Instance: 11, Low: true, Services: NewServices(), Network: swallow})
	there.to, back.to = home, laptop
	runtime.GC()
	before := resident(t)

	d, err := laptop.Listen("echo", addr(dialAddr), 0)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4*1200)
	for round := range 2 {
		for i := range n {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 9)
			d.receive(dgram.Burst{Addr: from, Buf: buf, Size: 1200})
			if i%50 == 49 { // or the service's socket overflows
				want := int64(4 * (round*n + i + 1))
				for deadline := time.Now().Add(5 * time.Second); swallow.n.Load() < want && time.Now().Before(deadline); {
					runtime.Gosched()
				}
			}
		}
	}
	used := resident(t) - before
	if home.Len() != n || laptop.Outgoing() != n {
		t.Errorf("flows: %d and %d", home.Len(), laptop.Outgoing())
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	t.Logf("%d flows: %.1f MB resident more, heap in use %.1f MB, stacks %.1f MB; %d answers", n,
		float64(used)/1e6, float64(stats.HeapInuse)/1e6, float64(stats.StackInuse)/1e6, swallow.n.Load())
	if used > mostMB*1e6 && !raceDetector {
		t.Errorf("%d MB resident for %d flows, want at most %d", used/1e6, n, mostMB)
	}
	laptop.Close()
	home.Close()
	closeConn(service)
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// counting is a Network whose sockets count what is written.
type counting struct {
	sink
	n atomic.Int64
}

func (c *counting) ListenUDP(a netip.AddrPort) (dgram.Conn, error) {
	return &countingSock{c, fakeSock{addr: a, done: make(chan struct{})}}, nil
}

type countingSock struct {
	c *counting
	fakeSock
}

func (s *countingSock) Write(b dgram.Burst) error {
	s.c.n.Add(int64(b.Len()))
	return nil
}

func (s *countingSock) Close() error {
	close(s.done)
	return nil
}
