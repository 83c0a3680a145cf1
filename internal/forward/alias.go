package forward

import (
	"container/list"
	"errors"
	"hash/fnv"
	"net/netip"
	"sync"
	"time"
)

// AliasRange is where aliases come from. On Linux and Windows all of 127.0.0.0/8
// leads to this host and may be bound without privilege; 127.0.0.1 itself, and
// what distributions put beside it (Debian's 127.0.1.1, systemd-resolved's
// 127.0.0.53), are not in this part of it.
var AliasRange = netip.MustParsePrefix("127.64.0.0/10")

// aliasKept is how long an address stays its client's after the last use, so
// that one who comes back is known again in logs and bans.
const aliasKept = 5 * time.Minute

// maxAliases bounds the clients that have an address or had one lately. Those
// that went longest ago make room; some 200 bytes each.
const maxAliases = 1 << 16

// Client names whose an alias is: a peer's, or that of an address where there is
// no agent.
type Client struct {
	Peer string
	Addr netip.Addr
}

func (c Client) String() string {
	if c.Peer != "" {
		return c.Peer
	}
	return c.Addr.String()
}

// Aliases give each client a loopback address of its own, as the source of its
// connections and datagrams to services on this host: they see clients apart,
// for logs, bans and limits. One table serves all flows of an agent. Its methods
// may be called from many goroutines.
type Aliases struct {
	mu       sync.Mutex
	byClient map[Client]*alias
	byAddr   map[netip.Addr]*alias
	unused   *list.List // of *alias, the longest unused first
}

type alias struct {
	client Client
	addr   netip.Addr
	uses   int
	since  time.Time     // when it was used last
	unused *list.Element // nil while it is used
}

// NewAliases gives nothing yet.
func NewAliases() *Aliases {
	return &Aliases{byClient: make(map[Client]*alias), byAddr: make(map[netip.Addr]*alias), unused: list.New()}
}

// errNoAlias is Take's: more clients are connected at once than may be.
var errNoAlias = errors.New("65536 clients have loopback addresses already; there is none left for one more")

// Take gives the client's address, the same for all its uses at once and for
// those that follow within 5 minutes. Each Take wants a Release.
func (t *Aliases) Take(c Client) (netip.Addr, error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(now)
	a := t.byClient[c]
	if a == nil {
		if len(t.byClient) >= maxAliases {
			return netip.Addr{}, errNoAlias
		}
		a = &alias{client: c, addr: t.free(c)}
		t.byClient[c], t.byAddr[a.addr] = a, a
	}
	if a.unused != nil {
		t.unused.Remove(a.unused)
		a.unused = nil
	}
	a.uses++
	return a.addr, nil
}

// Release ends one use of the client's address.
func (t *Aliases) Release(c Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.byClient[c]
	if a == nil || a.uses == 0 {
		return
	}
	if a.uses--; a.uses == 0 {
		a.since = time.Now()
		a.unused = t.unused.PushBack(a)
	}
}

// Who tells whose an address is; ok is false where it is nobody's.
func (t *Aliases) Who(addr netip.Addr) (c Client, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(time.Now())
	if a := t.byAddr[addr.Unmap()]; a != nil {
		return a.client, true
	}
	return Client{}, false
}

// forget drops who was away too long, and who was away longest where room is
// needed. t.mu is held.
func (t *Aliases) forget(now time.Time) {
	for e := t.unused.Front(); e != nil; e = t.unused.Front() {
		a := e.Value.(*alias)
		if now.Sub(a.since) < aliasKept && len(t.byClient) < maxAliases {
			return
		}
		t.unused.Remove(e)
		delete(t.byClient, a.client)
		delete(t.byAddr, a.addr)
	}
}

// free is an address that nobody has. It follows from the client's name, so that
// a client most often finds its own again after this agent was restarted. t.mu is
// held.
func (t *Aliases) free(c Client) netip.Addr {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.String())) // it has no error to return
	base := AliasRange.Addr().As4()
	mask := uint32(1)<<(32-AliasRange.Bits()) - 1
	for n := h.Sum32(); ; n++ {
		low := n & mask
		addr := netip.AddrFrom4([4]byte{base[0], base[1] | byte(low>>16), byte(low >> 8), byte(low)})
		// .0 and .255 look like networks and broadcasts to many programs' rules.
		if last := byte(low); last != 0 && last != 255 && t.byAddr[addr] == nil {
			return addr
		}
	}
}
