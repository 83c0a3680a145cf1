//go:build linux

package programs

import (
	"encoding/binary"
	"os"
)

// Packets are the IP packets of the capture, byte for byte and in order.
func (c *Capture) Packets() [][]byte {
	c.t.Helper()
	b, err := os.ReadFile(c.file)
	if err != nil {
		c.t.Fatalf("read the capture: %v", err)
	}
	// The classic format of pcap-savefile(5), in this machine's byte order.
	const header, record, nanoseconds, microseconds, ethernet, ethernetSize = 24, 16, 0xa1b23c4d, 0xa1b2c3d4, 1, 14
	magic := uint32(0)
	if len(b) >= header {
		magic = binary.NativeEndian.Uint32(b)
	}
	if magic != microseconds && magic != nanoseconds {
		c.t.Fatalf("read the capture %s: it is no pcap file of this machine's", c.file)
	}
	skip := 0
	if binary.NativeEndian.Uint32(b[20:]) == ethernet {
		skip = ethernetSize
	}
	var all [][]byte
	for b = b[header:]; len(b) >= record; {
		n := int(binary.NativeEndian.Uint32(b[8:]))
		if n < skip || len(b) < record+n {
			break
		}
		all = append(all, b[record+skip:record+n])
		b = b[record+n:]
	}
	return all
}
