//go:build linux

package netns

import (
	"os"
	"strings"
)

// Offload turns on or off, on all wires of the lab, that TCP and UDP cross in
// super-segments which are cut late or never, and that what arrives is joined.
func (l *Lab) Offload(on bool) {
	l.t.Helper()
	state := switched(on)
	l.onWires("tso", state, "gso", state, "gro", "off", "tx-udp-segmentation", state)
}

// UDPSegmentation turns on or off, on all wires of the lab, that UDP crosses in
// super-segments: off, each device cuts them in software.
func (l *Lab) UDPSegmentation(on bool) {
	l.t.Helper()
	l.onWires("tx-udp-segmentation", switched(on))
}

// switched is a feature's state, in ethtool's word.
func switched(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// onWires sets features of all wires, each a name and a state (ethtool -K).
func (l *Lab) onWires(features ...string) {
	l.t.Helper()
	for _, h := range l.Hosts() {
		for _, iface := range h.wires() {
			h.Run(append([]string{"ethtool", "-K", iface}, features...)...)
		}
	}
}

// wires are the host's interfaces that are the end of a veth pair.
func (h *Host) wires() (names []string) {
	var table []byte
	err := h.Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		h.lab.t.Fatalf("list the interfaces of %s: %v", h.Name, err)
	}
	for line := range strings.Lines(string(table)) {
		name, _, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || name == "lo" {
			continue
		}
		if out, err := h.Try("ethtool", "-i", name); err == nil && strings.Contains(out, "driver: veth") {
			names = append(names, name)
		}
	}
	return names
}
