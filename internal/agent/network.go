package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"

	"rendezvous/internal/dgram"
)

// Fingerprint is that of the network which a host with these addresses is in;
// ignore are patterns of interfaces that don't count.
func Fingerprint(addrs []dgram.HostAddr, ignore []string) string {
	var prefixes []string
	for _, h := range addrs {
		ip := h.Addr.Addr().Unmap()
		if !h.Up || ignored(h.Interface, ignore) || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
			continue
		}
		bits := h.Addr.Bits()
		if ip.Is6() {
			bits = min(bits, 64) // the rest changes by the day (RFC 8981)
		}
		prefixes = append(prefixes, netip.PrefixFrom(ip, bits).Masked().String())
	}
	if len(prefixes) == 0 {
		return ""
	}
	slices.Sort(prefixes)
	hash := sha256.New()
	for _, p := range slices.Compact(prefixes) {
		hash.Write([]byte(p + " "))
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// look forgets what was learned in another network than this one.
func (l *link) look() (network string) {
	now := l.a.fingerprint()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now != l.network {
		l.network = now
		l.reach.udp, l.reach.tls = unknown, nil
	}
	return now
}
