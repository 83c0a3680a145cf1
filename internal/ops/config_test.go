package ops

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	type inner struct {
		Rate int `yaml:"rate"`
	}
	type config struct {
		Listen string  `yaml:"listen"`
		Limits inner   `yaml:"limits"`
		List   []inner `yaml:"list"`
	}
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"# nothing\n", ""},
		{"listen: :1\nlimits:\n  rate: 3\n", ""},
		{"listen: :1\nlisten_: 2\n", `c.yaml:2: listen_: unknown key; known here: limits, list, listen`},
		{"limits:\n  rats: 3\n", `c.yaml:2: limits.rats: unknown key; known here: rate`},
		{"list:\n- rate: 1\n- rats: 3\n", `c.yaml:3: list.rats: unknown key; known here: rate`},
		{"list: [{rats: 3}, {rats: 4}]\n", `c.yaml:1: list: unknown key; known here: rate`},
		{"a: 1\nb: 2\n", "c.yaml:1: a: unknown key; known here: limits, list, listen\nc.yaml:2: b: unknown key; known here: limits, list, listen"},
		{"limits:\n  rate: many\n", `c.yaml:2: limits.rate: it is "many", and must be a whole number`},
		{"limits: {rate: far too many}\n", `c.yaml:1: limits.rate: it is "far too...", and must be a whole number`},
		{"limits: 7\n", `c.yaml:1: limits: it is "7", and must be lines of KEY: VALUE`},
		{"list: 7\n", `c.yaml:1: list: it is "7", and must be a list`},
		{"listen:\n  - a\n", `c.yaml:2: listen: it is a list, and must be one word`},
		{"list: [{rate: {}}]\n", `c.yaml:1: list: it is lines of KEY: VALUE, and must be a whole number`},
		{"listen: a\nlimits: {}\nlisten: b\n", `c.yaml:3: listen: it stands here a second time, first in line 1`},
		{"- a\n", `c.yaml:1: it is a list, and must be lines of KEY: VALUE`},
		{"listen: [\n", "c.yaml: line 1: did not find expected node content"},
		{"listen: a\n---\nlisten: b\n", "second document"},
	} {
		got := config{Listen: "default"}
		source, err := ParseConfig("c.yaml", []byte(c.text), &got)
		if err == nil {
			err = source.Check(nil)
		}
		if c.want == "" {
			if err != nil {
				t.Errorf("%q gave %v", c.text, err)
			}
			continue
		}
		if ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q gave %v, want %s", c.text, err, c.want)
		}
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none.yaml"), &config{}); ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), "--config") {
		t.Errorf("a missing file gave %v", err)
	}
}

// What reading finds and what the check of values does is one message, in the
// order of lines, each with its place; what a flag says has the flag.
func TestFaultsOfSources(t *testing.T) {
	type config struct {
		Listen string           `yaml:"listen"`
		Limits map[string]int   `yaml:"limits"`
		List   []map[string]int `yaml:"list"`
	}
	var got config
	source, err := ParseConfig("c.yaml", []byte("list:\n- a: 1\n- a: 2\n  b: 3\nlimits: {rate: 4}\nlisten: x\nlists: 7\n"), &got)
	if err != nil {
		t.Fatal(err)
	}
	source.Override("listen", "--listen")
	err = source.Check(errors.Join(Faultf("limits.rate", "%d is much", 4), &UsageError{Err: errors.Join(
		Faultf("list[1].b", "odd"), Faultf("list[1].c", "missing"), Faultf("list[0]", "first"), Faultf("listen", "no address"), Faultf("nowhere", "it is not in the file"))},
		errors.New("at large")))
	want := `--listen: no address
nowhere: it is not in the file
at large
c.yaml:2: list: first
c.yaml:3: list.c: missing
c.yaml:4: list.b: odd
c.yaml:5: limits.rate: 4 is much
c.yaml:7: lists: unknown key; known here: `
	if ExitCode(err) != ExitUsage || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if err := new(Source).Check(nil); err != nil {
		t.Errorf("nothing is wrong: %v", err)
	}
}
