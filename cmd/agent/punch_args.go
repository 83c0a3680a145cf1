package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// parsePeer reads --peer.
func parsePeer(text string) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, fmt.Errorf("--peer is missing: the outside address of the other side, as --stun shows it there, such as 198.51.100.2:40001")
	}
	at, err := netip.ParseAddrPort(text)
	ip := at.Addr().Unmap()
	if err != nil || at.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() {
		return netip.AddrPort{}, fmt.Errorf("--peer: %q is not IP:PORT of a host, as in 198.51.100.2:40001", text)
	}
	return netip.AddrPortFrom(ip, at.Port()), nil
}

// parseLocal reads --local: an address of the peer's family, all where there is
// none.
func parseLocal(text string, peer netip.AddrPort) (netip.AddrPort, error) {
	whole := text
	if port, ok := strings.CutPrefix(text, ":"); ok {
		whole = "0.0.0.0:" + port
		if peer.Addr().Is6() {
			whole = "[::]:" + port
		}
	}
	at, err := netip.ParseAddrPort(whole)
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("--local: %q is not :PORT or IP:PORT of this host, as in :40000", text)
	case peer.IsValid() && at.Addr().Unmap().Is4() != peer.Addr().Is4():
		return netip.AddrPort{}, fmt.Errorf("--local: %s is not of the peer's family (%s)", text, peer.Addr())
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// lateBy is how long ago the time may have been: who comes late is still waited
// for.
const lateBy = 10 * time.Minute

// parseAt reads --at. A time of the day is the one to come, but for one just
// past.
func parseAt(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return now, nil
	}
	if d, err := time.ParseDuration(strings.TrimPrefix(text, "+")); err == nil && strings.HasPrefix(text, "+") {
		return now.Add(d), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		if now.Sub(at) > lateBy {
			return time.Time{}, fmt.Errorf("--at: %s was %s ago", text, now.Sub(at).Round(time.Second))
		}
		return at, nil
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		clock, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		day := now
		at := time.Date(day.Year(), day.Month(), day.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
		switch {
		case now.Sub(at) > lateBy:
			at = at.AddDate(0, 0, 1)
		case at.Sub(now) > 24*time.Hour-lateBy:
			at = at.AddDate(0, 0, -1) // just past, before midnight
		}
		return at, nil
	}
	return time.Time{}, fmt.Errorf("--at: %q is not a time like +30s, 15:04, 15:04:05 or 2006-01-02T15:04:05Z", text)
}

// cutFile says whether a secret is @FILE.
func cutFile(arg string) (name string, ok bool) { return strings.CutPrefix(arg, "@") }

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(line)
}
