package forward

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// sink is a Carrier and a Network whose sockets swallow what is written.
type sink struct{ bursts, datagrams atomic.Int64 }

func (s *sink) Send(_ path.Kinds, _ uint16, b dgram.Burst) {
	s.bursts.Add(1)
	s.datagrams.Add(int64(b.Len()))
}
func (s *sink) SendFrame(path.Kinds, *proto.Frame) {}
func (s *sink) Raw(uint16, uint64)                 {}
func (s *sink) Addrs() ([]dgram.HostAddr, error)   { return nil, nil }
func (s *sink) ListenUDP(a netip.AddrPort) (dgram.Conn, error) {
	return &sinkSock{s, fakeSock{addr: a, done: make(chan struct{}), net: newNet()}}, nil
}

type sinkSock struct {
	sink *sink
	fakeSock
}

func (s *sinkSock) Write(b dgram.Burst) error {
	s.sink.bursts.Add(1)
	s.sink.datagrams.Add(int64(b.Len()))
	return nil
}

func (s *sinkSock) Close() error {
	close(s.done)
	return nil
}

// opened is a Flows with one open flow each way: number 1 dialed, 2 exposed.
func openedFlows(t testing.TB, s *sink) (*Flows, *Dial) {
	t.Helper()
	services := NewServices()
	if err := services.Expose("wg", "udp://"+serviceAddr); err != nil {
		t.Fatal(err)
	}
	flows := New(Config{Carrier: s, Instance: 11, Low: true, Services: services, Network: s})
	d, err := flows.Listen("wg", addr(dialAddr), 0)
	if err != nil {
		t.Fatal(err)
	}
	d.receive(dgram.One(client, []byte("first")))
	flows.Frame(&proto.Frame{Body: &proto.Frame_Opened{Opened: &proto.Opened{Flow: 1, Instance: 11}}})
	flows.Frame(&proto.Frame{Body: &proto.Frame_Open{Open: &proto.Open{Flow: 2, Instance: 22, Service: "wg"}}})
	if flows.Len() != 2 {
		t.Fatal("the flows are not open")
	}
	return flows, d
}

var client = addr("127.0.0.1:40000")

func TestNoAllocationPerBurst(t *testing.T) {
	s := new(sink)
	flows, d := openedFlows(t, s)
	defer flows.Close()
	in := flows.find(2)
	b := dgram.Burst{Addr: client, Buf: make([]byte, 16*1400), Size: 1400}
	fromService := dgram.Burst{Addr: addr(serviceAddr), Buf: b.Buf, Size: b.Size}
	for name, do := range map[string]func(){
		"from a client":   func() { d.receive(b) },
		"to a client":     func() { flows.Deliver(1, b) },
		"to a service":    func() { flows.Deliver(2, b) },
		"from a service":  func() { flows.fromService(in, fromService.Addr, fromService) },
		"to no flow":      func() { flows.Deliver(99, b) },
		"from a stranger": func() { flows.fromService(in, fromService.Addr, b) },
	} {
		if name == "to no flow" {
			flows.closes.SetLimit(0)
			flows.closes.SetBurst(0)
		}
		if n := testing.AllocsPerRun(500, do); n != 0 {
			t.Errorf("%s: %v allocations a burst, want 0", name, n)
		}
	}
	if bursts, datagrams := s.bursts.Load(), s.datagrams.Load(); bursts < 2000 || datagrams < 16*2000 {
		t.Errorf("%d bursts of %d datagrams passed", bursts, datagrams)
	}
}

func BenchmarkFromClient(b *testing.B) {
	flows, d := openedFlows(b, new(sink))
	defer flows.Close()
	burst := dgram.Burst{Addr: client, Buf: make([]byte, 16*1400), Size: 1400}
	b.ReportAllocs()
	for b.Loop() {
		d.receive(burst)
	}
}

func BenchmarkDeliver(b *testing.B) {
	flows, _ := openedFlows(b, new(sink))
	defer flows.Close()
	burst := dgram.Burst{Buf: make([]byte, 16*1400), Size: 1400}
	b.ReportAllocs()
	for b.Loop() {
		flows.Deliver(2, burst)
	}
}

// TestManyGoroutines is for the race detector: clients come and go while the
// session changes, frames are repeated and lost, and everything expires.
func TestManyGoroutines(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		small := Limits{Max: 40, Unanswered: 2 * time.Second, Answered: 3 * time.Second}
		p := newPair(t, func(p *pair) {
			p.lapConfig.Limits, p.homeConfig.Limits = small, small
			p.homeConfig.Limits.Max = 30
		})
		rnd := rand.New(rand.NewPCG(5, 6))
		lossy := func(*proto.Frame) bool { return rnd.IntN(5) == 0 }
		p.toHome.losing(lossy)
		p.toLaptop.losing(func(*proto.Frame) bool { return time.Now().UnixNano()%7 == 0 })
		listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		var clients sync.WaitGroup
		for i := range 60 {
			clients.Go(func() {
				c := listen(t, p.laptopNet, "127.0.0.1:0", false)
				for j := range 50 {
					c.send(addr(dialAddr), fmt.Sprintf("%d from %d", j, i))
					time.Sleep(time.Duration(20+i) * time.Millisecond)
				}
			})
		}
		for i := range 5 {
			p.tick(time.Second)
			p.laptop.Reopen()
			p.laptop.Dials()
			p.services.List()
			p.laptop.SetRaw(3, 11, func(path.Kinds, dgram.Burst) bool { return false })
			p.expose("wg", fmt.Sprintf("udp://%s?public=%d", serviceAddr, 1+i))
		}
		clients.Wait()
		p.tick(10 * time.Second)
		settle()
		p.tick(10 * time.Second)
		if p.laptop.Len() != 0 || p.home.Len() != 0 || p.homeNet.open() != 1 {
			t.Errorf("flows: %d, %d; sockets at home: %d", p.laptop.Len(), p.home.Len(), p.homeNet.open())
		}
	})
}

// FuzzFrame: no frame that a peer may send makes a Flows panic, grow beyond its
// limits, or open a socket for what is not exposed.
func FuzzFrame(f *testing.F) {
	open := &proto.Frame{Body: &proto.Frame_Open{Open: &proto.Open{Flow: 3, Service: "wg", Instance: 22, HasPayload: true, Payload: []byte("x")}}}
	for _, frame := range []*proto.Frame{open, closeFrame(1, 0, "x"), closeFrame(1, 11, "x"),
		{Body: &proto.Frame_Opened{Opened: &proto.Opened{Flow: 1, Instance: 11, Refused: "no", Raw: true}}}} {
		b, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b, uint16(3))
	}
	f.Fuzz(func(t *testing.T, first, second []byte, number uint16) {
		flows, d := openedFlows(t, new(sink))
		for _, b := range [][]byte{first, second, first} {
			var frame proto.Frame
			if proto.Unmarshal(b, &frame) == nil {
				flows.Frame(&frame)
			}
			flows.Deliver(number, dgram.One(netip.AddrPort{}, b))
			d.receive(dgram.One(client, b))
		}
		flows.Expire(time.Now().Add(time.Second))
		if n := flows.Len(); n > 5 {
			t.Errorf("%d flows live", n)
		}
		flows.Close()
		if n := flows.Len(); n != 0 {
			t.Errorf("%d flows live after Close", n)
		}
	})
}
