//go:build linux

package debian

import (
	"strings"
)

// Unit is the settings of a unit file, by key; of a key that is there more
// than once all values, in their order.
type Unit map[string][]string

// ReadUnit reads a unit file.
func ReadUnit(text string) Unit {
	u := Unit{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// Get is the first value of a key.
func (u Unit) Get(key string) string {
	if len(u[key]) == 0 {
		return ""
	}
	return u[key][0]
}

// State is the folder that systemd would make for the unit.
func (u Unit) State() string { return "/var/lib/" + u.Get("StateDirectory") }

// Command is what runs the unit's program as systemd would, without its
// sandbox: as its user, with its capabilities and no others.
func (u Unit) Command() []string {
	caps := func(key string) string {
		set := "-all"
		for name := range strings.FieldsSeq(u.Get(key)) {
			set += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
		}
		return set
	}
	ambient := caps("AmbientCapabilities")
	words := []string{"setpriv", "--reuid=" + u.Get("User"), "--regid=" + u.Get("User"), "--clear-groups",
		"--inh-caps=" + ambient, "--ambient-caps=" + ambient, "--bounding-set=" + caps("CapabilityBoundingSet")}
	if u.Get("NoNewPrivileges") == "yes" {
		words = append(words, "--no-new-privs")
	}
	start := strings.ReplaceAll(u.Get("ExecStart"), "${STATE_DIRECTORY}", u.State())
	return append(words, strings.Fields(start)...)
}
