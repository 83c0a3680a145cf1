package stripe

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// Socket is one that a program of this host, or its kernel, has bound.
type Socket struct {
	TCP    bool
	Local  netip.AddrPort
	Listen bool // TCP: it takes connections
}

// holds says whether the socket would miss what comes to its port at one of
// these addresses: not, when it is bound to another, such as a resolver's on
// loopback.
func (s Socket) holds(addrs []netip.Addr) bool {
	a := s.Local.Addr().Unmap()
	if s.Local.Port() == 0 || s.TCP && !s.Listen {
		return false
	}
	return a.IsUnspecified() || slices.Contains(addrs, a)
}

// HeldBy are the ports that sockets hold at these addresses: those of TCP's
// listeners, and of all bound sockets of UDP. A connected UDP socket, or one on
// an ephemeral port, is among them since what it waits for may come after
// connection tracking has forgotten what it sent.
func HeldBy(sockets []Socket, addrs []netip.Addr) Held {
	var udp, tcp []uint16
	for _, s := range sockets {
		switch {
		case !s.holds(addrs):
		case s.TCP:
			tcp = append(tcp, s.Local.Port())
		default:
			udp = append(udp, s.Local.Port())
		}
	}
	return Held{Single(udp...), Single(tcp...)}
}

// stateListen is TCP_LISTEN of the kernel's tcp_states.h, in /proc/net/tcp.
const stateListen = "0A"

// parseSockets reads /proc/net/udp, tcp, udp6 or tcp6 (proc_net_tcp of the
// kernel's documentation): after a line of titles one line a socket, in which
// the second word is the local address and the fourth the state.
func parseSockets(r io.Reader, tcp bool) ([]Socket, error) {
	var out []Socket
	lines := bufio.NewScanner(r)
	lines.Scan() // the titles
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 {
			return nil, fmt.Errorf("read the host's sockets: %q has no state", lines.Text())
		}
		local, err := parseSocketAddr(f[1])
		if err != nil {
			return nil, fmt.Errorf("read the host's sockets: %w", err)
		}
		out = append(out, Socket{TCP: tcp, Local: local, Listen: tcp && f[3] == stateListen})
	}
	return out, lines.Err()
}

// parseSocketAddr reads "0100007F:01BB": each 32 bits of the address as a
// number of the machine's byte order, then the port.
func parseSocketAddr(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	number, err2 := hex.DecodeString(port)
	if err != nil || err2 != nil || len(raw) != 4 && len(raw) != 16 || len(number) != 2 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", s)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(number)), nil
}
