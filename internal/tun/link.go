package tun

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// Config is what a Link is made of.
type Config struct {
	// Device reads and writes one packet a call, each behind its struct
	// virtio_net_hdr. A read that waits ends when it is closed.
	Device io.ReadWriteCloser
	// Own are the device's addresses, at most one a family: where what comes
	// in goes.
	Own   []netip.Addr
	Conns []dgram.Conn
	Peers Peers
	Now   func() time.Time
}

// Link carries packets between a device and its peers.
type Link struct {
	cfg  Config
	own  [2]netip.Addr
	room atomic.Int64 // the device's MTU, in bytes
	counters
}

// NewLink makes a Link; mtu is the longest packet that crosses, in bytes.
func NewLink(cfg Config, mtu int) *Link {
	l := &Link{cfg: cfg}
	for _, a := range cfg.Own {
		l.own[family(a)] = a
	}
	l.SetMTU(mtu)
	return l
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// SetMTU says how long a packet that crosses may be, in bytes. The sender of a
// longer one is told.
func (l *Link) SetMTU(mtu int) { l.room.Store(int64(mtu)) }

// Stats are what was carried and dropped so far.
func (l *Link) Stats() Stats { return l.stats() }

// Run carries until ctx ends or the device fails. It closes device and conns.
func (l *Link) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		// Nothing waits to be written, so closing has no error that matters.
		_ = l.cfg.Device.Close()
		for _, c := range l.cfg.Conns {
			_ = c.Close()
		}
	})
	defer stop()
	var readers sync.WaitGroup
	for _, c := range l.cfg.Conns {
		j := &joiner{write: l.write}
		readers.Go(func() {
			// No deadline is ever set, so Read has no error to return.
			_ = path.Read(c, func(b dgram.Burst) { l.receive(j, c, b) })
		})
	}
	err := l.send(ctx)
	cancel()
	readers.Wait()
	return err
}

// send reads the device until it is closed.
func (l *Link) send(ctx context.Context) error {
	buf := make([]byte, vnetSize+maxPacket+1)
	out := new(sending)
	for {
		n, err := l.cfg.Device.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read the TUN device: %w; was it removed?", err)
		case n < vnetSize:
			l.drop(BadLength, 1)
			continue
		}
		if why := l.carry(out, buf[:n]); why != Carried {
			l.drop(why, 1)
		}
	}
}

// sending is what the device's reader needs from packet to packet.
type sending struct {
	cutter
	icmp []byte
	n    uint64 // segments of this packet that left
	lost int    // and that did not
	err  error
}

// carry sends one packet of the device.
func (l *Link) carry(out *sending, b []byte) Reason {
	var h vnetHeader
	h.read(b)
	raw := b[vnetSize:]
	p, why := parse(raw)
	if why != Carried {
		return why
	}
	if size := largest(p, h); size == 0 {
		return BadLength
	} else if mtu := int(l.room.Load()); p.frozen && ipSize(p.from)+size > mtu {
		l.tellTooBig(out, p, raw, mtu)
		return TooLarge
	}
	way, ok := l.cfg.Peers.Route(l.cfg.Now(), p.to)
	if !ok {
		return Unknown
	}
	out.n, out.lost = 0, 0
	why = out.cut(p, h, func(segments []byte, size int) {
		burst := dgram.Burst{Addr: way.Addr, Buf: segments, Size: size}
		if err := way.Conn.Write(burst); err != nil {
			out.lost, out.err = out.lost+burst.Len(), err
			return
		}
		out.n += uint64(burst.Len())
	})
	l.sent.Add(out.n)
	if out.lost > 0 && dgram.IsTooLarge(out.err) {
		l.drop(TooLarge, out.lost)
	} else if out.lost > 0 {
		l.drop(Unsent, out.lost)
	}
	return why
}

// tellTooBig answers a packet that does not cross, by the device.
func (l *Link) tellTooBig(out *sending, p packet, raw []byte, mtu int) {
	out.icmp = append(out.icmp[:0], make([]byte, vnetSize)...)
	out.icmp = appendTooBig(out.icmp, p, raw, mtu)
	l.write(out.icmp)
}

// write hands the device a packet.
func (l *Link) write(packet []byte) {
	if _, err := l.cfg.Device.Write(packet); err != nil {
		l.drop(Refused, 1)
	}
}

// receive hands the device what a conn received.
func (l *Link) receive(j *joiner, conn dgram.Conn, b dgram.Burst) {
	way, now := path.Path{Conn: conn, Addr: b.Addr}, l.cfg.Now()
	for n := b.Len(); n > 0; n-- { // only the last may be shorter than the others
		last := b.Buf[(n-1)*b.Size:]
		if len(last) >= minSegment {
			break
		}
		if !l.cfg.Peers.Tell(now, way, last) {
			l.drop(NotSegment, 1)
		}
		if b.Buf = b.Buf[:(n-1)*b.Size]; n == 1 {
			return
		}
	}
	if !anySegment(b) { // before it costs an inside address
		l.drop(NotSegment, b.Len())
		return
	}
	from, ok := l.cfg.Peers.Source(now, way)
	if !ok || !l.own[family(from)].IsValid() {
		l.drop(Stranger, b.Len())
		return
	}
	bad := j.join(b, from, l.own[family(from)])
	l.received.Add(uint64(b.Len() - bad))
	if bad > 0 {
		l.drop(NotSegment, bad)
	}
}

func anySegment(b dgram.Burst) bool {
	for d := range b.All() {
		if headerSize(d) > 0 {
			return true
		}
	}
	return false
}
