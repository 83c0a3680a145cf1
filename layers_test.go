// Package rendezvous_test looks at the tree as a whole.
package rendezvous_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "rendezvous/"

// layers says who may import whom: a package may import what stands in a lower
// layer, and nothing of its own layer or above. A folder stands for all that
// is below it.
var layers = map[string]int{
	"proto":             0,
	"internal/checksum": 0,
	"internal/dgram":    0,
	"internal/sources":  0,

	"internal/icmp":    1,
	"internal/lean":    1,
	"internal/path":    1,
	"internal/seal":    1,
	"internal/stun":    1,
	"internal/portmap": 1,
	"internal/ops":     1,
	"internal/veil":    1,
	natlab:             1,

	"internal/punch":    2,
	"internal/simopen":  2,
	"internal/faketcp":  2,
	"internal/fastpath": 2,
	"internal/relay":    2,
	"internal/ladder":   2,
	"internal/session":  2,
	"internal/forward":  2,
	"internal/stripe":   2,
	"internal/stream":   2,
	"internal/quicflow": 2,
	"internal/share":    2,
	"internal/tun":      2,

	"internal/agent":      3,
	"internal/meet":       3,
	"internal/rendezvous": 3,

	"cmd":  4,
	pairs:  4,
	throng: 4,
}

// natlab is for tests alone: any test may import it, and no program that we
// ship may. Its own parts may import each other.
const natlab = "internal/natlab"

// pairs is the part of it that runs whole agents.
const pairs = natlab + "/pairs"

// throng is the part of it that is thousands of control connections.
const throng = natlab + "/throng"

func forTests(place string) bool { return place == natlab || place == pairs || place == throng }

// fault says what is wrong with one package's import of another, both without
// the module's name; "" when nothing is.
func fault(importer, imported string, test bool) string {
	from, ok := place(importer)
	if !ok {
		return "has no layer; give it one in layers_test.go"
	}
	to, ok := place(imported)
	switch {
	case !ok:
		return "imports " + imported + ", which has no layer"
	case importer == imported:
		return "" // a test from outside of its own package
	case forTests(to) && (forTests(from) || test):
		return ""
	case forTests(to):
		return "imports " + imported + ", which is for tests alone"
	case test && layers[from] == layers[to] && from == "internal/agent":
		return "" // agents are tested against a coordinator
	case layers[to] >= layers[from]:
		return "imports " + imported + ", which is not below it: layer " + strconv.Itoa(layers[from]) + " imports layer " + strconv.Itoa(layers[to])
	}
	return ""
}

// place finds a package's entry, or that of a folder above it.
func place(pkg string) (string, bool) {
	for ; pkg != "."; pkg = path.Dir(pkg) {
		if _, ok := layers[pkg]; ok {
			return pkg, true
		}
	}
	return "", false
}

// TestLayers parses the files instead of asking `go list`: the test cache knows
// which files a test has opened, but not what another program has read.
func TestLayers(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case path.Ext(name) != ".go" || filepath.Dir(name) == ".":
			return nil
		}
		files++
		return checkFile(t, filepath.ToSlash(name))
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Error("there was no file to look at")
	}
}

func checkFile(t *testing.T, name string) error {
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
	if err != nil {
		return err
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if own, ok := strings.CutPrefix(imported, module); ok {
			if what := fault(path.Dir(name), own, strings.HasSuffix(name, "_test.go")); what != "" {
				t.Errorf("%s %s", name, what)
			}
		}
	}
	return nil
}

func TestFault(t *testing.T) {
	tests := []struct {
		importer, imported string
		test, ok           bool
	}{
		{"internal/seal", "proto", false, true},
		{"proto", "internal/dgram", false, false},
		{"internal/relay", "internal/seal", false, true},
		{"internal/relay", "internal/punch", false, false},
		{"internal/relay", "internal/agent", true, false},
		{"internal/agent", "internal/relay", false, true},
		{"internal/agent", "internal/rendezvous", false, false},
		{"internal/agent", "internal/agent", true, true},
		{"cmd/agent", "internal/agent", false, true},
		{"internal/session", "internal/natlab", true, true},
		{"internal/session", "internal/natlab", false, false},
		{"cmd/agent", "internal/natlab/netns", false, false},
		{"internal/natlab/netns", "internal/natlab/hop", false, true},
		{"internal/natlab", "internal/path", false, false},
		{"internal/natlab", "internal/dgram", false, true},
		{"internal/natlab", "internal/agent", false, false},
		{"internal/natlab/pairs", "internal/agent", false, true},
		{"internal/natlab/matrix", "internal/natlab/pairs", false, true},
		{"cmd/agent", "internal/natlab/pairs", false, false},
		{"internal/natlab/throng", "internal/rendezvous", false, true},
		{"internal/natlab/bench", "internal/natlab/throng/orders", false, true},
		{"internal/tunnel", "proto", false, false},
		{"cmd/agent", "internal/tunnel", false, false},
	}
	for _, test := range tests {
		got := fault(test.importer, test.imported, test.test)
		if ok := got == ""; ok != test.ok {
			t.Errorf("%s imports %s (in a test: %v): %q", test.importer, test.imported, test.test, got)
		}
	}
}
