package faketcp

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// resetWatch counts the RSTs that leave from a port of this host, whoever sends
// them. The kernel shows it each packet that leaves the host, so it is for
// tests, and not for always.
type resetWatch struct {
	socket *socket
	n      int
}

func watchResets(from netip.AddrPort) (*resetWatch, error) {
	s, err := newSocket(unix.AF_PACKET, unix.SOCK_DGRAM, 0, "packet socket")
	if err != nil {
		return nil, err
	}
	err = control(s.raw, func(fd int) error {
		if err := attach(fd, resetsFrom(from.Port(), from.Addr().Is6())); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL)})
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch for RSTs from port %d: %w", from.Port(), err), s.close())
	}
	return &resetWatch{socket: s}, nil
}

// count is how many have left by now.
func (w *resetWatch) count() int {
	_ = control(w.socket.raw, func(fd int) error { // closed: no more come
		var packet [64]byte
		for {
			_, _, err := unix.Recvfrom(fd, packet[:], unix.MSG_DONTWAIT)
			switch {
			case err == nil:
				w.n++
			case !errors.Is(err, unix.EINTR):
				return err
			}
		}
	})
	return w.n
}

func (w *resetWatch) close() error { return w.socket.close() }
