package dgram

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Flags of /proc/net/if_inet6, as in linux/if_addr.h.
const (
	flagFailed     = 0x08 // IFA_F_DADFAILED
	flagDeprecated = 0x20 // IFA_F_DEPRECATED
)

// flagsSix is what is special of this host's IPv6 addresses. Without /proc it is
// empty.
func flagsSix() map[netip.Addr]flags {
	text, err := os.ReadFile("/proc/net/if_inet6")
	if err != nil {
		return nil
	}
	return parseFlags(text)
}

// parseFlags reads lines of address, interface number, prefix length, scope,
// flags and interface, the numbers in hex.
func parseFlags(text []byte) map[netip.Addr]flags {
	all := make(map[netip.Addr]flags)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		raw, err := hex.DecodeString(fields[0])
		addr, ok := netip.AddrFromSlice(raw)
		bits, err2 := strconv.ParseUint(fields[4], 16, 32)
		if err != nil || err2 != nil || !ok || !addr.Is6() {
			continue
		}
		f := flags{unusable: bits&flagFailed != 0, deprecated: bits&flagDeprecated != 0}
		if f != (flags{}) {
			all[addr] = f
		}
	}
	return all
}
