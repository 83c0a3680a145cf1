//go:build linux

package programs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// settingsOf is a block of docs/PHONE.md that begins with a key.
func settingsOf(t *testing.T, key string) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/PHONE.md")
	if err != nil {
		t.Fatal(err)
	}
	var block strings.Builder
	for line := range strings.Lines(string(text)) {
		inside, indented := strings.CutPrefix(line, "    ")
		switch {
		case indented && (block.Len() > 0 || strings.HasPrefix(inside, key)):
			block.WriteString(inside)
		case block.Len() > 0:
			return block.String()
		}
	}
	t.Fatalf("docs/PHONE.md has no block that begins with %s", key)
	return ""
}

// What docs/PHONE.md has one write into the settings leads a phone home, and
// the daemons then say what is said there.
func TestPhoneToHomeAsDocumented(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	file := func(name, text string) string {
		name = filepath.Join(s.Dir(), name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	c := programs.Serve(t, s.VPS, filepath.Join(s.Dir(), "coordinator"), []string{netns.VPSAddr},
		"--config", file("rendezvous.yaml", settingsOf(t, "publish:")))
	home := programs.Join(t, s.Home, s.Dir(), "home", c.Invite())
	home.Up("--config", file("agent.yaml", settingsOf(t, "expose:")))

	server, phone := s.Home.WireGuard("10.9.0.1/24", 51820), s.Laptop.WireGuard("10.9.0.2/32", 0)
	server.SetPeer(phone, "", "10.9.0.2/32")
	phone.SetPeer(server, netns.VPSAddr+":51820", "10.9.0.0/24")
	s.Laptop.IP("route add 10.9.0.0/24 dev " + phone.Interface)
	if took := s.Laptop.Ping("10.9.0.1", 10*time.Second); took > 2*time.Second {
		t.Errorf("the first ping took %v", took)
	}
	for _, tt := range []struct{ of, want string }{
		{home.Do("status"), "wg       203.0.113.10:51820  1        1       4"},
		{c.Do("status"), "public udp 51820: wg of home, 1 client, 4 spares; dropped: nothing"},
		{s.Home.Run("wg", "show"), "endpoint: 127.0.0.1:"},
	} {
		if !strings.Contains(tt.of, tt.want) {
			t.Errorf("nothing says %q in\n%s", tt.want, tt.of)
		}
	}
}
