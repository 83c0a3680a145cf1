package rendezvous

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/relay"
	"rendezvous/internal/seal"
	"rendezvous/internal/sources"
	"rendezvous/proto"
)

// publicTable is the clients of a public UDP port, and the spares that stand
// ready for new ones. Each is an allocation of the relay whose leg 0 is the
// agent's; leg 1 becomes a client's address. It locks itself before the relay,
// which calls back with nothing locked.
type publicTable struct {
	publicSetup
	count publicCounts
	doors []*publicDoor

	mu      sync.Mutex // guards what follows, and what doors and clients say
	granted publicGrant
	byLeg   map[proto.Token]*publicClient
	spare   map[proto.Token]*publicSpare
	ready   []proto.Token // of those spares that are bound, the latest last
	line    waitingLine
	idle    [2]list.List // clients to evict: those without an answer so far, and the others; the first first
	rates   publicRates
	news    []proto.Token // clients that the agent is to be told of
	agent   bool          // it is connected
	silent  bool          // it does not answer
	alone   bool          // somebody came while it was not there
	heard   time.Time     // when it bound a leg last
}

// publicSetup is what a table is made of.
type publicSetup struct {
	relay  *relay.Server
	rule   PublishRule
	sealed bool   // datagrams are sealed between us and the agent
	kick   func() // there is something to tell the agent; it must not wait
	doubt  func() // a client waits; nor must this
}

// publicGrant is what an agent was granted for a port.
type publicGrant struct {
	terms  *relay.Terms
	spares int  // that are to stand ready
	tell   bool // the agent wants to know who its clients are
}

// publicDoor is a socket of a public port.
type publicDoor struct {
	table   *publicTable
	conn    dgram.Conn
	clients map[netip.AddrPort]*publicClient // publicTable.mu
}

// publicClient is an address with a leg.
type publicClient struct {
	id    proto.Token
	door  *publicDoor
	addr  netip.AddrPort
	leg   *relay.Client
	codec *seal.Leg // nil on a raw port
	place *list.Element
	used  time.Time // as of when it was put into its place
}

// publicSpare is an allocation without a client.
type publicSpare struct {
	alloc relay.Allocation
	bound bool
}

// publicRates bound new clients, of all and of a source.
type publicRates struct {
	all    sources.Bucket
	source *sources.Buckets // shared by the ports of a rule
}

// forward sends a client's burst to the agent.
func (c *publicClient) forward(now time.Time, b dgram.Burst) {
	if c.codec == nil {
		c.leg.Forward(now, b)
		return
	}
	_ = c.codec.Seal(b, func(sealed dgram.Burst) error { // the relay counts what it drops
		c.leg.Forward(now, sealed)
		return nil
	})
}

// unsealed is a public port's socket towards one client: what the relay writes
// to it is opened first.
type unsealed struct {
	dgram.Conn
	codec *seal.Leg
}

// Write is that of dgram.Conn.
func (u *unsealed) Write(b dgram.Burst) error { return u.codec.Open(time.Now(), b, u.Conn.Write) }

func newPublicTable(setup publicSetup, source *sources.Buckets) *publicTable {
	return &publicTable{
		publicSetup: setup,
		byLeg:       map[proto.Token]*publicClient{},
		spare:       map[proto.Token]*publicSpare{},
		line:        newWaitingLine(),
		rates:       publicRates{source: source},
	}
}

// receive takes what one read of the door brought from one address.
func (t *publicTable) receive(door *publicDoor, b dgram.Burst) {
	now := time.Now()
	t.mu.Lock()
	c := door.clients[b.Addr]
	fresh := c == nil
	if fresh {
		c = t.newcomer(now, door, b)
	}
	t.mu.Unlock()
	if fresh {
		t.doubt()
	}
	if c != nil {
		c.forward(now, b)
	}
}

// newcomer gives an address a leg, or keeps its datagrams until there is one,
// or drops them. publicTable.mu is held.
func (t *publicTable) newcomer(now time.Time, door *publicDoor, b dgram.Burst) *publicClient {
	if w := t.line.find(door, b.Addr); w != nil {
		t.count.drop(publicHeld, t.line.hold(w, b))
		return nil
	}
	if t.silent || !t.agent && len(t.ready) == 0 {
		t.count.drop(publicNoAgent, b.Len())
		t.alone = true
		return nil
	}
	if why, ok := t.admit(now, b.Addr.Addr()); !ok {
		t.count.drop(why, b.Len())
		return nil
	}
	if c := t.attach(now, door, b.Addr); c != nil {
		door.clients[b.Addr] = c
		t.kick()
		return c
	}
	if !t.line.join(now, door, b) {
		t.count.drop(publicWaiting, b.Len())
		return nil
	}
	t.kick()
	return nil
}

// admit says whether one more client may come. publicTable.mu is held.
func (t *publicTable) admit(now time.Time, from netip.Addr) (publicReason, bool) {
	if !t.rates.source.Take(now, from, perSecond(t.rule.NewClientsSource)) {
		return publicSourceRate, false
	}
	if !t.rates.all.Take(now, perSecond(t.rule.NewClients)) {
		return publicRate, false
	}
	for len(t.byLeg)+t.line.len() >= t.rule.MaxClients {
		if !t.evict(now) {
			return publicFull, false
		}
	}
	return 0, true
}

// attach gives a client the spare that was bound last: its way is the freshest.
// publicTable.mu is held.
func (t *publicTable) attach(now time.Time, door *publicDoor, addr netip.AddrPort) *publicClient {
	for len(t.ready) > 0 {
		last := len(t.ready) - 1
		id := t.ready[last]
		t.ready = t.ready[:last]
		s := t.spare[id]
		delete(t.spare, id)
		c := &publicClient{id: id, door: door, addr: addr, used: now}
		conn := door.conn
		if t.sealed {
			c.codec = seal.NewLeg(s.alloc.Keys[0], true)
			conn = &unsealed{door.conn, c.codec}
		}
		if c.leg = t.relay.Attach(id, conn, addr); c.leg == nil {
			continue // it has just ended
		}
		t.byLeg[id] = c
		c.place = t.idle[0].PushBack(c)
		t.count.started.Add(1)
		if t.granted.tell {
			t.news = append(t.news, id)
			t.kick()
		}
		return c
	}
	return nil
}

// A client that the service answers makes room for another only when it has
// been silent for so long: a flood of forged sources must not push out those
// who are there.
const evictAfter = 15 * time.Second

// evictLooks bounds how many clients one look for room may pass over.
const evictLooks = 64

// evict makes room: of the clients that the service did not answer, the one
// that has been silent for the longest goes, else one of the others.
// publicTable.mu is held.
func (t *publicTable) evict(now time.Time) bool {
	for answered := range t.idle {
		for range evictLooks {
			front := t.idle[answered].Front()
			if front == nil {
				break
			}
			c := front.Value.(*publicClient)
			client, service := c.leg.Used()
			class, used := 0, client
			if !service.IsZero() {
				class = 1
			}
			if service.After(used) {
				used = service
			}
			if class == answered && !used.After(c.used) {
				if class == 1 && now.Sub(used) < evictAfter {
					return false // the others were used since
				}
				t.forget(c)
				t.relay.Release(now, c.id)
				t.count.evicted.Add(1)
				return true
			}
			// It was used since it was put here: it gets another turn.
			c.used = used
			t.idle[answered].Remove(front)
			c.place = t.idle[class].PushBack(c)
		}
	}
	return false
}

// forget takes a client off. publicTable.mu is held.
func (t *publicTable) forget(c *publicClient) {
	delete(t.byLeg, c.id)
	if c.door.clients[c.addr] == c {
		delete(c.door.clients, c.addr)
	}
	t.idle[0].Remove(c.place)
	t.idle[1].Remove(c.place)
	if c.codec != nil {
		t.count.drop(publicForged, int(c.codec.Dropped()))
		t.count.drop(publicIncomplete, int(c.codec.Incomplete(time.Now())))
		t.count.split.Add(c.codec.Split())
	}
}
