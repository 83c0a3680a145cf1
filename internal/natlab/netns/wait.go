//go:build linux

package netns

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// pollEvery is how often a condition is looked at that nothing announces.
const pollEvery = 20 * time.Millisecond

// Eventually waits until the condition gives nil; what it gave last ends the
// test.
func Eventually(t T, limit time.Duration, what string, condition func() error) {
	t.Helper()
	begin := time.Now()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Since(begin) > limit {
			t.Fatalf("wait for %s: not within %v: %v", what, limit, err)
		}
		time.Sleep(pollEvery)
	}
}

// WaitPort waits until a program on the host listens on a port. The protocol
// is "udp" or "tcp".
func (h *Host) WaitPort(protocol string, port uint16, limit time.Duration) {
	h.lab.t.Helper()
	Eventually(h.lab.t, limit, fmt.Sprintf("a listener on %s port %d of %s", protocol, port, h.Name), func() error {
		ports, err := h.listening(protocol)
		if err != nil {
			return err
		}
		for _, a := range ports {
			if a.Port() == port {
				return nil
			}
		}
		return fmt.Errorf("only %v are open", ports)
	})
}

// listening reads the host's open ports of /proc/net: state 07 is an
// unconnected UDP socket, 0A a TCP listener.
func (h *Host) listening(protocol string) ([]netip.AddrPort, error) {
	state := map[string]string{"udp": "07", "tcp": "0A"}[protocol]
	var found []netip.AddrPort
	err := h.Do(func() error {
		for _, family := range []string{"", "6"} {
			table, err := os.ReadFile("/proc/thread-self/net/" + protocol + family)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(table)) {
				fields := strings.Fields(line)
				if len(fields) < 4 || fields[3] != state {
					continue
				}
				if a, ok := parseProcAddr(fields[1]); ok {
					found = append(found, a)
				}
			}
		}
		return nil
	})
	return found, err
}

// parseProcAddr reads "0100007F:01BB": each 32 bits of the address in the
// machine's byte order (little-endian on all that we run on), then the port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	number, err2 := hex.DecodeString(port)
	if !ok || err != nil || err2 != nil || len(number) != 2 {
		return netip.AddrPort{}, false
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number[0])<<8|uint16(number[1])), ok
}
