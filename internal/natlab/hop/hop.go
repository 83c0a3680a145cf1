//go:build linux

// Package hop is an internet in user space for the lab of namespaces: TUN
// devices are its ports, and between each two of them there are a delay, a
// loss, a rate and a few routers that decrement TTL. The lab needs it where
// the kernel has no netem, and because netem has no routers.
package hop

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Link is what happens to packets on their way from one port to another, in
// that direction.
type Link struct {
	Delay time.Duration // one way
	Loss  float64       // the share that is lost at random, 0 to 1
	Rate  int64         // bits per second; 0 is unlimited
	Queue time.Duration // how long a packet may wait for Rate; 0 is 100 ms
	Hops  int           // routers on the way, each decrements TTL
}

// Count is what became of the packets of one direction.
type Count struct {
	Forwarded, Lost, Overrun, Expired, Fragments uint64
	Refused                                      uint64 // by a box
}

const (
	maxPacket      = 2048
	maxWaiting     = 50_000 // packets on their way at once; 100 MB at most
	defaultQueue   = 100 * time.Millisecond
	readsPerWakeup = 64 // so that one busy port can't hold up what is due elsewhere
)

// Internet forwards packets between its ports. New makes one, Attach adds
// ports, Close ends it.
type Internet struct {
	mu      sync.Mutex
	ports   []*port
	links   map[pair]*lane
	base    Link
	due     queue
	pushed  uint64
	free    [][]byte
	random  *rand.Rand
	noRoute uint64
	tap     func(Sighting)
	closed  bool

	wake    int // eventfd
	stopped chan struct{}
}

type pair struct{ from, to *port }

type port struct {
	name     string
	fd       int
	prefixes []netip.Prefix
	boxes    []Box // innermost first
}

// lane is a link and its state.
type lane struct {
	Link
	count Count
	busy  time.Duration // when the last bit of the last packet has left
}

// New starts an internet whose links are like base until SetLink says
// otherwise.
func New(base Link) (*Internet, error) {
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd for the hop: %w", err)
	}
	n := &Internet{
		links:   map[pair]*lane{},
		base:    base,
		random:  rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1)),
		wake:    wake,
		stopped: make(chan struct{}),
	}
	go n.run()
	return n, nil
}

// OpenTUN makes a TUN device in the network namespace of the calling thread.
// The device lives as long as the file descriptor.
func OpenTUN(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun (is the tun module loaded?): %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("make the TUN device %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// Attach adds a port: packets to the prefixes leave through the TUN device of
// fd, which the internet owns from now on.
func (n *Internet) Attach(name string, fd int, prefixes ...netip.Prefix) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports = append(n.ports, &port{name: name, fd: fd, prefixes: prefixes})
	n.signal()
}

// AddPrefix lets a port have another prefix.
func (n *Internet) AddPrefix(name string, prefix netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := n.named(name)
	if err == nil {
		p.prefixes = append(p.prefixes, prefix)
	}
	return err
}

// Sighting is a packet as it entered the internet.
type Sighting struct {
	From, To string        // ports
	At       time.Duration // CLOCK_MONOTONIC
	Packet   []byte        // valid until the tap returns
}

// SetTap has every packet that enters shown to tap, nil ends it. The internet
// stands still meanwhile; tap must not call it.
func (n *Internet) SetTap(tap func(Sighting)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = tap
}

// SetLink replaces the link from one port to another, in that direction.
// Packets that are under way arrive when they would have.
func (n *Internet) SetLink(from, to string, l Link) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	lane, err := n.between(from, to)
	if err == nil {
		lane.Link = l
	}
	return err
}

// Link is the link from one port to another.
func (n *Internet) Link(from, to string) (Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	lane, err := n.between(from, to)
	if err != nil {
		return Link{}, err
	}
	return lane.Link, nil
}

// Count is what became of the packets from one port to another.
func (n *Internet) Count(from, to string) (Count, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	lane, err := n.between(from, to)
	if err != nil {
		return Count{}, err
	}
	return lane.count, nil
}

// Total is what became of all packets.
func (n *Internet) Total() Count {
	n.mu.Lock()
	defer n.mu.Unlock()
	var sum Count
	for _, l := range n.links {
		sum.Forwarded += l.count.Forwarded
		sum.Lost += l.count.Lost
		sum.Overrun += l.count.Overrun
		sum.Expired += l.count.Expired
		sum.Fragments += l.count.Fragments
		sum.Refused += l.count.Refused
	}
	return sum
}

// Unroutable is how many packets had a destination that no port has.
func (n *Internet) Unroutable() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.noRoute
}

// Close ends the forwarding and closes all TUN devices.
func (n *Internet) Close() error {
	n.mu.Lock()
	n.closed = true
	n.signal()
	n.mu.Unlock()
	<-n.stopped

	errs := []error{unix.Close(n.wake)}
	for _, p := range n.ports {
		errs = append(errs, unix.Close(p.fd))
	}
	return errors.Join(errs...)
}

func (n *Internet) between(from, to string) (*lane, error) {
	a, b := n.port(from), n.port(to)
	if a == nil || b == nil {
		return nil, fmt.Errorf("find the link from %s to %s: %w", from, to, os.ErrNotExist)
	}
	return n.lane(a, b), nil
}

func (n *Internet) named(name string) (*port, error) {
	p := n.port(name)
	if p == nil {
		return nil, fmt.Errorf("find the port %s: %w", name, os.ErrNotExist)
	}
	return p, nil
}

func (n *Internet) port(name string) *port {
	for _, p := range n.ports {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (n *Internet) lane(from, to *port) *lane {
	l := n.links[pair{from, to}]
	if l == nil {
		l = &lane{Link: n.base}
		n.links[pair{from, to}] = l
	}
	return l
}

// route finds the port with the longest prefix that contains dst.
func (n *Internet) route(dst netip.Addr) *port {
	var best *port
	bits := -1
	for _, p := range n.ports {
		for _, prefix := range p.prefixes {
			if prefix.Bits() > bits && prefix.Contains(dst) {
				best, bits = p, prefix.Bits()
			}
		}
	}
	return best
}

// signal wakes the loop; an eventfd that is full has woken it already.
func (n *Internet) signal() {
	_, err := unix.Write(n.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		panic(fmt.Sprintf("hop: write to its own eventfd: %v", err))
	}
}
