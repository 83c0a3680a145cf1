//go:build linux

package programs

import (
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
)

// Capture is tcpdump on an interface of a host, for tshark.
type Capture struct {
	t       netns.T
	host    *netns.Host
	file    string
	process *netns.Process
}

// Listen begins a capture of what matches a filter ("tcp").
func Listen(t netns.T, s *netns.Scene, h *netns.Host, iface, filter string) *Capture {
	t.Helper()
	c := &Capture{t: t, host: h, file: filepath.Join(s.Dir(), h.Name+"-"+iface+".pcap")}
	c.process = h.Start("tcpdump", "-n", "-U", "-Z", "root", "-s", "0", "-i", iface, "-w", c.file, filter)
	c.process.WaitLog("listening on", ready)
	return c
}

// Close ends the capture; what it has can then be read.
func (c *Capture) Close() {
	c.t.Helper()
	time.Sleep(1100 * time.Millisecond) // the kernel hands a capture over when a block is full, or after tcpdump's second
	c.process.Stop()
}

// Count is how many packets match a display filter of tshark's.
func (c *Capture) Count(filter string) int {
	c.t.Helper()
	out := c.tshark("-Y", filter, "-T", "fields", "-e", "frame.number")
	return len(strings.Fields(out))
}

// Show is tshark's lines of the packets that match a display filter.
func (c *Capture) Show(filter string) string {
	c.t.Helper()
	return c.tshark("-Y", filter)
}

// Payloads is how often each UDP payload, in hex, is among the packets that
// match a display filter.
func (c *Capture) Payloads(filter string) map[string]int {
	c.t.Helper()
	out := make(map[string]int)
	for _, p := range strings.Fields(c.tshark("-Y", filter, "-T", "fields", "-e", "udp.payload")) {
		out[p]++
	}
	return out
}

func (c *Capture) tshark(args ...string) string {
	c.t.Helper()
	// What stands in the segments is nobody's protocol that tshark knows, but
	// ports and first bytes make it guess.
	full := []string{"tshark", "-n", "-r", c.file, "-o", "tcp.check_checksum:TRUE", "-o", "tcp.relative_sequence_numbers:FALSE"}
	for _, guess := range []string{"tls", "http", "http2", "stun", "classicstun"} {
		full = append(full, "--disable-protocol", guess)
	}
	return c.host.Run(append(full, args...)...)
}

// Segment is a TCP segment as tshark reads it.
type Segment struct {
	From, To string // address:port
	Flags    int
	Seq, Ack uint32
	Length   int
	Options  string // in hex
	SYN, ACK bool
}

// Segments are the TCP segments of the capture, in order.
func (c *Capture) Segments() []Segment {
	c.t.Helper()
	out := c.tshark("-Y", "tcp", "-T", "fields", "-e", "ip.src", "-e", "tcp.srcport", "-e", "ip.dst", "-e", "tcp.dstport",
		"-e", "tcp.flags", "-e", "tcp.seq_raw", "-e", "tcp.ack_raw", "-e", "tcp.len", "-e", "tcp.options")
	var all []Segment
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) < 9 {
			continue
		}
		s := Segment{From: f[0] + ":" + f[1], To: f[2] + ":" + f[3], Seq: uint32(c.number(f[5])), Ack: uint32(c.number(f[6])), Length: c.number(f[7]), Options: f[8]}
		s.Flags = c.number(f[4])
		s.SYN, s.ACK = s.Flags&2 != 0, s.Flags&16 != 0
		all = append(all, s)
	}
	return all
}

func (c *Capture) number(field string) int {
	c.t.Helper()
	if field == "" {
		return 0
	}
	n, err := strconv.ParseInt(field, 0, 64)
	if err != nil {
		c.t.Fatalf("read tshark's %q: %v", field, err)
	}
	return int(n)
}
