package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rendezvous/internal/agent"
)

const deploy = "../../deploy"

// setting is a line of an example that shows a setting without making it.
var setting = regexp.MustCompile(`(?m)^#([a-z]\w*:)`)

// The example config must stay one that is read, with every key that there is.
func TestExampleConfig(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(deploy, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.LoadConfig(filepath.Join(deploy, "agent.yaml")); err != nil {
		t.Error(err)
	}
	// With a key that there isn't, the error names all that there are.
	file := filepath.Join(t.TempDir(), "agent.yaml")
	all := setting.ReplaceAll(text, []byte("$1"))
	write(t, file, all)
	if _, err := agent.LoadConfig(file); err != nil {
		t.Error(err)
	}
	write(t, file, append(all, "\nno-such-key: 1\n"...))
	_, err = agent.LoadConfig(file)
	if err == nil {
		t.Fatal("an unknown key is read")
	}
	_, known, found := strings.Cut(err.Error(), "known here: ")
	if !found {
		t.Fatal(err)
	}
	for key := range strings.SplitSeq(strings.TrimSpace(known), ", ") {
		if !bytes.Contains(all, []byte("\n"+key+":")) {
			t.Errorf("agent.yaml does not show %s", key)
		}
	}
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// unit is the settings of a unit file, in their order.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deploy, name))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]string)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok && !strings.HasPrefix(key, "#") {
			all[key] = append(all[key], value)
		}
	}
	return all
}

// What a change of the units must not lose.
func TestUnits(t *testing.T) {
	tests := []struct{ name, command, capabilities string }{
		{"rendezvous.service", "/usr/local/bin/rendezvous serve ", "CAP_NET_BIND_SERVICE CAP_NET_RAW"},
		{"rendezvous-agent.service", "/usr/local/bin/agent up ", "CAP_NET_RAW CAP_NET_BIND_SERVICE"},
		{"rendezvous-tun.service", "/usr/local/bin/agent tun ", "CAP_NET_ADMIN"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := unit(t, tt.name)
			for key, want := range map[string]string{
				"Type": "notify", "DynamicUser": "yes", "StateDirectoryMode": "0700", "NoNewPrivileges": "yes",
				"ProtectSystem": "strict", "MemoryDenyWriteExecute": "yes", "RestartPreventExitStatus": "2",
				"AmbientCapabilities": tt.capabilities, "CapabilityBoundingSet": tt.capabilities,
			} {
				if !slices.Equal(got[key], []string{want}) {
					t.Errorf("%s is %q, want %q", key, got[key], want)
				}
			}
			if tt.name != "rendezvous-tun.service" && !slices.Equal(got["WatchdogSec"], []string{"30"}) {
				t.Errorf("WatchdogSec is %q, want 30", got["WatchdogSec"])
			}
			if start := got["ExecStart"]; len(start) != 1 || !strings.HasPrefix(start[0], tt.command) {
				t.Errorf("ExecStart is %q", start)
			}
		})
	}
}

// The drop-in gives what programs at interfaces take.
func TestFastPathDropIn(t *testing.T) {
	got := unit(t, "fastpath.conf")
	for key, want := range map[string]string{
		"AmbientCapabilities": "CAP_BPF CAP_NET_ADMIN", "CapabilityBoundingSet": "CAP_BPF CAP_NET_ADMIN", "SystemCallFilter": "bpf",
	} {
		if !slices.Equal(got[key], []string{want}) {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
}

// maxExposure is of systemd's own scale, times ten, where 100 is no sandbox.
const maxExposure = "20"

func TestUnitsBySystemd(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here; TestUnits stands in for it")
	}
	for _, name := range []string{"rendezvous.service", "rendezvous-agent.service", "rendezvous-tun.service"} {
		text, err := os.ReadFile(filepath.Join(deploy, name))
		if err != nil {
			t.Fatal(err)
		}
		// It looks for the program, which need not be installed here.
		file := filepath.Join(t.TempDir(), name)
		write(t, file, regexp.MustCompile(`ExecStart=\S+`).ReplaceAll(text, []byte("ExecStart=/bin/true")))
		for _, args := range [][]string{
			{"verify", file},
			{"security", "--offline=true", "--threshold=" + maxExposure, file},
		} {
			out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
			if err != nil || args[0] == "verify" && len(out) > 0 {
				t.Errorf("systemd-analyze %s %s: %v\n%s", args[0], name, err, out)
			}
		}
	}
}
