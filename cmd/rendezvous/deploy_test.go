package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"
)

// The example config must stay one that is read, with every key that there is.
func TestExampleConfig(t *testing.T) {
	const example = "../../deploy/rendezvous.yaml"
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	// A line that begins with # and a letter shows a setting without making it,
	// and so do those behind it that begin with # and two blanks.
	all := regexp.MustCompile(`(?m)^#([a-z]\w*:|  )`).ReplaceAll(text, []byte("$1"))
	file := filepath.Join(t.TempDir(), "rendezvous.yaml")
	if err := os.WriteFile(file, all, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{example, file} {
		s := defaultSettings()
		if err := s.read(name); err != nil {
			t.Error(err)
		}
		if _, err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, form := range []reflect.Type{reflect.TypeFor[settings](), reflect.TypeFor[limits](), reflect.TypeFor[striping](), reflect.TypeFor[portSettings](), reflect.TypeFor[publishing]()} {
		for field := range form.Fields() {
			if key := field.Tag.Get("yaml"); !field.Anonymous && !bytes.Contains(all, []byte(key+":")) {
				t.Errorf("%s does not show %s", example, key)
			}
		}
	}
}

// The drop-in gives what nftables takes, and nothing else; what a killed daemon
// left is taken out.
// S2-03
func TestStripeDropIn(t *testing.T) {
	text, err := os.ReadFile("../../deploy/stripe.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"[Service]", "AmbientCapabilities=CAP_NET_ADMIN", "CapabilityBoundingSet=CAP_NET_ADMIN", "ExecStopPost=+/usr/local/bin/rendezvous stripe remove"} {
		if !bytes.Contains(text, []byte("\n"+line+"\n")) {
			t.Errorf("deploy/stripe.conf lacks %s", line)
		}
	}
}
