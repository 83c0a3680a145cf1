package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

func TestRefusedService(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.dial("nas")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		for range 100 { // one second
			client.send(addr(dialAddr), "x")
			time.Sleep(10 * time.Millisecond)
		}
		opens, _, _ := p.toHome.frames()
		if opens != 1 && opens != 2 { // the second while the answer was under way
			t.Errorf("%d opens", opens)
		}
		if d := p.laptop.Dials(); d[0].Error != `no service "nas" is exposed here` {
			t.Errorf("dial: %+v", d)
		}
		if n := p.laptop.Drops()["refused"]; n < 95 {
			t.Errorf("%d datagrams counted as refused", n)
		}

		service := listen(t, p.homeNet, "127.0.0.1:2049", true)
		p.expose("nas", "udp://127.0.0.1:2049")
		time.Sleep(refusedFor)
		client.send(addr(dialAddr), "now")
		settle()
		service.want("now")
		client.want("echo now")
		if d := p.laptop.Dials(); d[0].Error != "" {
			t.Errorf("dial: %+v", d)
		}
	})
}

func TestNoSocketForAFlowIsARefusal(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.homeNet.failing(errors.New("too many open files"))
		p.dial("wg")
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x")
		settle()
		if d := p.laptop.Dials(); !strings.Contains(d[0].Error, "too many open files") {
			t.Errorf("dial: %+v", d)
		}
		if p.home.Len() != 0 {
			t.Error("the flow lives")
		}
		if _, err := p.home.Listen("x", addr("127.0.0.1:9"), 0); err == nil || !strings.Contains(err.Error(), "127.0.0.1:9") {
			t.Errorf("listen: %v", err)
		}
	})
}

// S3-15
func TestRawService(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.expose("wg", "udp://"+serviceAddr+"?raw")
		service := listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "sealed")
		settle()
		if len(p.toHome.raws) != 1 || p.toHome.raws[0] != 1 || len(p.toLaptop.raws) != 0 {
			t.Fatalf("raw was wanted for %v and %v", p.toHome.raws, p.toLaptop.raws)
		}
		if !p.laptop.IsRaw(1, 11) || !p.home.IsRaw(1, 11) || p.home.IsRaw(1, 12) || p.home.IsRaw(2, 11) {
			t.Error("IsRaw is wrong")
		}
		var there, back int
		works := true
		p.laptop.SetRaw(1, 11, func(_ path.Kinds, b dgram.Burst) bool {
			if works {
				there++
				p.home.Deliver(1, b)
			}
			return works
		})
		p.home.SetRaw(1, 11, func(_ path.Kinds, b dgram.Burst) bool {
			back++
			p.laptop.Deliver(1, b)
			return true
		})
		p.home.SetRaw(1, 99, nil) // of another instance: nothing
		sealed := len(p.toHome.data)
		client.send(addr(dialAddr), "raw")
		synctest.Wait()
		service.want("sealed", "raw")
		client.want("echo sealed", "echo raw")
		if there != 1 || back != 1 || len(p.toHome.data) != sealed {
			t.Errorf("raw: %d there, %d back; %d sealed", there, back, len(p.toHome.data)-sealed)
		}
		works = false
		client.send(addr(dialAddr), "sealed again")
		settle()
		p.laptop.SetRaw(1, 11, nil)
		p.home.SetRaw(1, 11, nil)
		client.send(addr(dialAddr), "and again")
		settle()
		service.want("sealed again", "and again")
		client.want("echo sealed again", "echo and again")
		if there != 1 || back != 2 {
			t.Errorf("raw: %d there, %d back", there, back)
		}
		p.laptop.Reopen()
		settle()
		if len(p.toHome.raws) != 2 {
			t.Errorf("raw was wanted %d times", len(p.toHome.raws))
		}
	})
}

func TestServiceByName(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var fail error
		p := newPair(t, func(p *pair) {
			p.homeConfig.Resolve = func(ctx context.Context, host string) (netip.Addr, error) {
				select {
				case <-time.After(500 * time.Millisecond):
				case <-ctx.Done():
				}
				if host != "nas.lan" {
					return netip.Addr{}, errors.New("no such host")
				}
				return netip.MustParseAddr("192.0.2.9"), fail
			}
		})
		p.expose("nas", "udp://nas.lan:2049")
		service := listen(t, p.homeNet, "192.0.2.9:2049", true)
		p.dial("nas")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		var want, echoes []string
		for i := range 30 {
			d := fmt.Sprint("datagram ", i)
			if i < holdDatagrams {
				want, echoes = append(want, d), append(echoes, "echo "+d)
			}
			client.send(addr(dialAddr), d)
		}
		p.tick(time.Second)
		service.want(want...)
		client.want(echoes...)
		p.wantDrops(p.home, heldOver, 30-holdDatagrams)

		fail = errors.New("server misbehaving")
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x")
		p.tick(time.Second)
		settle()
		if d := p.laptop.Dials(); !strings.Contains(d[0].Error, "server misbehaving") || p.home.Len() != 1 {
			t.Errorf("dial: %+v, flows: %d", d, p.home.Len())
		}
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x") // and stop in the middle
		settle()
	})
}

func TestWithdrawnAndReplacedService(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		old, next := listen(t, p.homeNet, serviceAddr, false), listen(t, p.homeNet, "127.0.0.1:9999", false)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "one")
		settle()
		old.want("one")
		p.expose("wg", "udp://127.0.0.1:9999")
		p.tick(2 * time.Second)
		client.send(addr(dialAddr), "two")
		settle()
		next.want("two")
		if s := p.services.List(); s[0].Flows != 1 {
			t.Errorf("services: %+v", s)
		}

		if err := p.services.Unexpose("wg"); err != nil {
			t.Fatal(err)
		}
		if p.home.Withdraw("wg"); p.home.Len() != 0 {
			t.Error("the flow lives")
		}
		settle()
		client.send(addr(dialAddr), "three")
		settle()
		next.want()
		if d := p.laptop.Dials(); d[0].Error == "" {
			t.Error("the dial does not say why")
		}
		if err := p.services.Unexpose("wg"); err == nil || !strings.Contains(err.Error(), "none") {
			t.Errorf("unexpose twice: %v", err)
		}
	})
}

func TestStrangersAtAFlowsSocket(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, false)
		stranger := listen(t, p.homeNet, "127.0.0.1:666", false)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "x")
		settle()
		_, from := service.take()
		stranger.send(from[0], "spoof")
		service.send(from[0], "genuine")
		settle()
		client.want("genuine")
		p.wantDrops(p.home, notFromTarget, 1)
	})
}

func TestHangup(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		listen(t, p.homeNet, serviceAddr, true)
		d := p.dial("wg")
		again, err := p.laptop.Listen("wg", addr(dialAddr), 0)
		if err != nil || again != d || d.Addr() != addr(dialAddr) {
			t.Errorf("listening twice: %v", err)
		}
		listen(t, p.laptopNet, "127.0.0.1:0", false).send(addr(dialAddr), "x")
		settle()
		if err := p.laptop.Hangup("nas", addr(dialAddr)); err == nil || !strings.Contains(err.Error(), "wg") {
			t.Errorf("hang up what is not dialed: %v", err)
		}
		if err := p.laptop.Hangup("wg", addr(dialAddr)); err != nil {
			t.Error(err)
		}
		settle()
		if p.laptop.Len() != 0 || p.home.Len() != 0 || len(p.laptop.Dials()) != 0 || p.laptopNet.open() != 1 {
			t.Errorf("flows: %d, %d; dials: %v", p.laptop.Len(), p.home.Len(), p.laptop.Dials())
		}
		d.receive(dgram.One(addr("127.0.0.1:5"), []byte("what its reader still had")))
		if p.laptop.Len() != 0 {
			t.Error("a flow was made on a closed dial")
		}
		p.dial("wg") // the port is free
	})
}

func TestBothSidesDialWithTheSameNumber(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, true)
		p.dial("wg")
		// The laptop has used up its half and begins at the other's far end,
		// where home has a flow by now.
		p.laptop.numbers.own = p.laptop.numbers.ownEnd
		p.home.numbers.own = proto.MaxFlow
		if _, err := p.home.Listen("wg", addr(dialAddr), 0); err != nil {
			t.Fatal(err)
		}
		listen(t, p.homeNet, "127.0.0.1:0", false).send(addr(dialAddr), "home's")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "refused")
		settle()
		client.send(addr(dialAddr), "takes another")
		settle()
		service.want("takes another")
		client.want("echo takes another")
	})
}

func TestNumberThatIsUsedAgainForAnotherService(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		listen(t, p.homeNet, serviceAddr, false)
		dns := listen(t, p.homeNet, "127.0.0.1:53", false)
		p.expose("dns", "udp://127.0.0.1:53")
		open := func(service string) *proto.Frame {
			return &proto.Frame{Body: &proto.Frame_Open{Open: &proto.Open{Flow: 7, Service: service, Instance: 11, HasPayload: true, Payload: []byte(service)}}}
		}
		p.home.Frame(open("wg"))
		p.home.Frame(open("dns"))
		settle()
		dns.want("dns")
		if p.home.Len() != 1 || p.homeNet.open() != 3 {
			t.Errorf("flows: %d, sockets: %d", p.home.Len(), p.homeNet.open())
		}
	})
}

func TestUnknownFlowsAreAnsweredAtALimitedRate(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		for i := range 10 * closesBurst {
			p.home.Deliver(uint16(1+i), dgram.Burst{Buf: make([]byte, 30), Size: 10})
		}
		p.home.Deliver(0, dgram.One(netip.AddrPort{}, nil))
		p.home.Deliver(proto.MaxFlow+1, dgram.One(netip.AddrPort{}, nil))
		if _, _, closes := p.toLaptop.frames(); closes != closesBurst {
			t.Errorf("%d closes", closes)
		}
		p.wantDrops(p.home, unknownFlow, 30*closesBurst+2)
	})
}

func TestServiceThatAnswersAFlowLongGone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		service := listen(t, p.homeNet, serviceAddr, false)
		p.dial("wg")
		client := listen(t, p.laptopNet, "127.0.0.1:0", false)
		client.send(addr(dialAddr), "x")
		settle()
		_, from := service.take()
		p.toHome.losing(func(f *proto.Frame) bool { return true }) // so is the Close of the hung up dial
		if err := p.laptop.Hangup("wg", addr(dialAddr)); err != nil {
			t.Fatal(err)
		}
		settle()
		p.toHome.losing(nil)
		service.send(from[0], "anybody there?")
		settle()
		if p.home.Len() != 0 {
			t.Error("the far side keeps a flow that its client has left")
		}
	})
}

// errConn refuses every write.
type errConn struct {
	fakeSock
	err error
}

func (c *errConn) Write(dgram.Burst) error { return c.err }

func TestWriteErrorsAreCounted(t *testing.T) {
	p := &pair{t: t}
	flows := New(Config{})
	b := dgram.Burst{Buf: make([]byte, 25), Size: 10}
	for err, why := range map[error]reason{
		dgram.ErrTooLarge: tooLarge, syscall.ECONNREFUSED: serviceAbsent, errors.New("no route"): writeError,
		&dgram.Error{Err: syscall.ECONNREFUSED}: serviceAbsent,
	} {
		before := flows.Drops()[reasonNames[why]]
		flows.count.write(&errConn{err: err}, b)
		p.wantDrops(flows, why, before+3)
	}
}

func TestFramesOfNoUse(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t)
		frames := []*proto.Frame{
			nil, {}, {Body: &proto.Frame_Bye{Bye: &proto.Bye{}}}, {Body: &proto.Frame_Open{}},
			{Body: &proto.Frame_Open{Open: &proto.Open{Flow: 0, Service: "wg", Instance: 1}}},
			{Body: &proto.Frame_Open{Open: &proto.Open{Flow: 1 << 16, Service: "wg", Instance: 1}}},
			{Body: &proto.Frame_Open{Open: &proto.Open{Flow: 1, Service: "wg"}}},
			{Body: &proto.Frame_Opened{Opened: &proto.Opened{Flow: 1, Instance: 22}}},
			{Body: &proto.Frame_Opened{}},
			closeFrame(1, 22, "x"), {Body: &proto.Frame_Close{Close: &proto.Close{Flow: 1 << 16}}},
		}
		for _, f := range frames {
			p.home.Frame(f)
		}
		if p.home.Len() != 0 {
			t.Error("a flow was made")
		}
		p.wantDrops(p.home, badFrame, 6)
		p.home.Frame(&proto.Frame{Body: &proto.Frame_Open{Open: &proto.Open{Flow: 1, Service: "\x1b[31m\u202e", Instance: 1}}})
		settle()
		p.toLaptop.mu.Lock()
		defer p.toLaptop.mu.Unlock()
		if got := p.toLaptop.sent[0].GetOpened().GetRefused(); got != `no service "?[31m?" is exposed here` {
			t.Errorf("refusal: %q", got)
		}
	})
}
