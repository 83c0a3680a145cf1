//go:build !linux

package dgram

import "net/netip"

// gathering: each socket has a reader of its own here.
type gathering struct{}

func (gathering) listen(s system, addr netip.AddrPort) (Conn, error) { return s.ListenUDP(addr) }

func (gathering) end() {}
