package agent

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// door is the coordinator's side of one raw public UDP port as a test wants it:
// told exactly when what happens. The real one is tested beside it.
type door struct {
	middle
	t      *testing.T
	relay  *relay.Server
	conn   dgram.Conn // the legs'
	public dgram.Conn // the clients'
	spares int
	tells  time.Duration // after which PublicClient follows; negative: never
	refuse string

	mu       sync.Mutex
	asks     []*proto.Publish
	released int
	waiting  []proto.Token // promised, the oldest first
	clients  map[netip.AddrPort]*relay.Client
	byID     map[proto.Token]netip.AddrPort
	dropped  int
}

const (
	legsAt   = vpsAddr + ":5000"
	publicAt = vpsAddr + ":51820"
)

func newDoor(w *world, spares int) *door {
	w.t.Helper()
	d := &door{t: w.t, relay: relay.NewServer(relay.Limits{}), spares: spares, tells: -1,
		clients: make(map[netip.AddrPort]*relay.Client), byID: make(map[proto.Token]netip.AddrPort)}
	var err error
	if d.conn, err = w.vps.ListenUDP(netip.MustParseAddrPort(legsAt)); err != nil {
		w.t.Fatal(err)
	}
	if d.public, err = w.vps.ListenUDP(netip.MustParseAddrPort(publicAt)); err != nil {
		w.t.Fatal(err)
	}
	d.asked = d.answers
	var wait sync.WaitGroup
	wait.Go(func() { _ = path.Read(d.conn, func(b dgram.Burst) { d.relay.Receive(d.conn, b) }) })
	wait.Go(func() { _ = path.Read(d.public, d.fromClient) })
	w.t.Cleanup(func() { _, _ = d.conn.Close(), d.public.Close(); wait.Wait() })
	return d
}

// answers stands in for the coordinator where public ports are concerned.
func (d *door) answers(ask *proto.ToCoordinator) *proto.ToAgent {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch m := ask.Body.(type) {
	case *proto.ToCoordinator_Publish:
		d.asks = append(d.asks, m.Publish)
		out := &proto.Published{}
		for _, p := range m.Publish.GetPorts() {
			out.Ports = append(out.Ports, &proto.Publication{Service: p.GetService(), Port: p.GetPort(), Refused: d.refuse,
				Spares: uint32(d.spares), KeepaliveS: p.GetKeepaliveS(), Addrs: []*proto.Endpoint{proto.NewEndpoint(netip.MustParseAddrPort(publicAt))}})
		}
		if d.refuse == "" && len(out.Ports) > 0 {
			go d.topUp()
		}
		return &proto.ToAgent{Body: &proto.ToAgent_Published{Published: out}}
	case *proto.ToCoordinator_Release:
		for _, id := range m.Release.GetIds() {
			d.released++
			d.relay.Release(time.Now(), proto.Token(id))
			delete(d.clients, d.byID[proto.Token(id)])
			d.waiting = slices.DeleteFunc(d.waiting, func(t proto.Token) bool { return t == proto.Token(id) })
		}
		return &proto.ToAgent{}
	}
	return nil
}

// topUp promises as many legs as are missing.
func (d *door) topUp() {
	m := &proto.PublicLegs{}
	d.mu.Lock()
	if len(d.asks) > 0 {
		last := d.asks[len(d.asks)-1].GetPorts()[0]
		m.Service, m.Port = last.GetService(), last.GetPort()
		for len(d.waiting) < d.spares {
			a, err := d.relay.Promise(time.Now(), &relay.Terms{Member: "home", Keepalive: time.Duration(last.GetKeepaliveS()) * time.Second})
			if err != nil {
				d.t.Error(err)
				break
			}
			m.Allocations = append(m.Allocations, &proto.Allocation{Id: a.ID[:], Key: a.Keys[0][:], KeepaliveS: last.GetKeepaliveS(),
				Relay: []*proto.Endpoint{proto.NewEndpoint(netip.MustParseAddrPort(legsAt))}})
			d.waiting = append(d.waiting, a.ID)
		}
	}
	d.mu.Unlock()
	if len(m.Allocations) > 0 {
		d.say(&proto.ToAgent{Body: &proto.ToAgent_PublicLegs{PublicLegs: m}})
	}
}

func (d *door) fromClient(b dgram.Burst) {
	d.mu.Lock()
	c := d.clients[b.Addr]
	if c == nil {
		i := slices.IndexFunc(d.waiting, func(id proto.Token) bool { bound, _ := d.relay.Ready(id); return bound })
		if i < 0 {
			d.dropped += b.Len()
			d.mu.Unlock()
			return
		}
		id := d.waiting[i]
		d.waiting = slices.Delete(d.waiting, i, i+1)
		c = d.relay.Attach(id, d.public, b.Addr)
		d.clients[b.Addr], d.byID[id] = c, b.Addr
		if d.tells >= 0 {
			at := proto.NewEndpoint(b.Addr)
			time.AfterFunc(d.tells, func() {
				d.say(&proto.ToAgent{Body: &proto.ToAgent_PublicClient{PublicClient: &proto.PublicClient{Id: id[:], Addr: at.GetAddr(), Port: at.GetPort()}}})
			})
		}
		go d.topUp()
	}
	d.mu.Unlock()
	c.Forward(time.Now(), b)
}

// served is how many clients have a leg.
func (d *door) served() (clients, spares, released int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.clients), len(d.waiting), d.released
}

// asksSoFar are the questions for ports, the first first.
func (d *door) asksSoFar() []*proto.Publish {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asks)
}

func (d *door) drops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dropped
}
