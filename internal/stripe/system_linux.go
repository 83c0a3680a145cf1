package stripe

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
)

// procNet is this thread's: the host that it is in. ProcSubset=pid of systemd
// hides /proc/net, but not this.
const procNet = "/proc/thread-self/net"

// Listening are the ports that sockets of this host hold at these addresses.
func Listening(addrs []netip.Addr) (Held, error) {
	var all []Socket
	for _, table := range []string{"udp", "udp6", "tcp", "tcp6"} {
		sockets, err := readSockets(filepath.Join(procNet, table), table[:3] == "tcp")
		if err != nil {
			return Held{}, err
		}
		all = append(all, sockets...)
	}
	return HeldBy(all, addrs), nil
}

func readSockets(name string, tcp bool) ([]Socket, error) {
	f, err := os.Open(filepath.Clean(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without IPv6
	}
	if err != nil {
		return nil, fmt.Errorf("list the ports that other programs hold: %w; without it none can be left to them", err)
	}
	sockets, err := parseSockets(f, tcp)
	return sockets, errors.Join(err, f.Close())
}
