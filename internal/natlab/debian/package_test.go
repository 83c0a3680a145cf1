//go:build linux

package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module  = "../../.."
	version = "1.0.0"
)

// built are the packages, made once for all tests.
var built []*Deb

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		fmt.Fprintln(os.Stderr, "OUR DEBIAN PACKAGES ARE NOT TESTED: dpkg-deb is not here (run make deps)")
		if os.Getenv("CI") == "true" {
			return 1
		}
		return 0
	}
	dir, err := os.MkdirTemp("", "rdv-packages-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if built, err = Build(module, dir, version); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func each(t *testing.T, check func(*testing.T, *Deb)) {
	t.Helper()
	names := make([]string, 0, len(built))
	for _, d := range built {
		names = append(names, d.Name())
		t.Run(d.Name(), func(t *testing.T) { check(t, d) })
	}
	if want := []string{"rendezvous-agent", "rendezvous"}; !slices.Equal(names, want) {
		t.Errorf("the packages are %v, want %v", names, want)
	}
}

// places is where a package may put files; what ends in a slash is a folder.
var places = []string{"/etc/rendezvous/", "/usr/bin/", "/usr/lib/systemd/system/", "/usr/lib/sysctl.d/",
	"/usr/share/doc/NAME/", "/usr/share/doc/NAME/examples/", "/usr/share/man/man1/", "/usr/share/lintian/overrides/NAME"}

// Owner, mode and place of each file, as Debian's policy has them (10.9, 9.1).
func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, d *Deb) {
		for _, f := range d.Files {
			if f.Uid != 0 || f.Gid != 0 {
				t.Errorf("%s is of %d:%d, want root's", f.Path, f.Uid, f.Gid)
			}
			want := int64(0o644)
			if f.Typeflag == tar.TypeDir || strings.HasPrefix(f.Path, "/usr/bin/") {
				want = 0o755
			}
			if f.Mode != want {
				t.Errorf("%s has mode %o, want %o", f.Path, f.Mode, want)
			}
			if !allowed(d.Name(), f) {
				t.Errorf("%s, of type %c, is in a wrong place", f.Path, f.Typeflag)
			}
		}
		sums := strings.Split(strings.TrimSpace(d.Scripts["md5sums"]), "\n")
		for _, line := range sums {
			sum, name, _ := strings.Cut(line, "  ")
			f := d.Lookup(path.Join("/", name))
			if f == nil {
				t.Fatalf("md5sums names %q, which is not there", name)
			}
			if got := md5.Sum(f.Content); hex.EncodeToString(got[:]) != sum {
				t.Errorf("the sum of %s is %x, and md5sums says %s", name, got, sum)
			}
		}
	})
}

func allowed(name string, f File) bool {
	return slices.ContainsFunc(places, func(place string) bool {
		place = strings.ReplaceAll(place, "NAME", name)
		if f.Typeflag == tar.TypeDir {
			return f.Path == "/" || strings.HasPrefix(place, f.Path+"/")
		}
		return f.Typeflag == tar.TypeReg && (f.Path == place || strings.HasSuffix(place, "/") && path.Dir(f.Path)+"/" == place)
	})
}

func TestControl(t *testing.T) {
	each(t, func(t *testing.T, d *Deb) {
		for key, form := range map[string]string{
			"Version":        `^1\.0\.0-1$`,
			"Architecture":   `^(amd64|arm64|armhf|i386)$`,
			"Maintainer":     `^.+ <\S+@\S+>$`,
			"Section":        `^net$`,
			"Priority":       `^optional$`,
			"Installed-Size": `^\d{4,5}$`,
			"Depends":        `\badduser\b`,
			// One line of at most 80 without an article, and more below it (3.4).
			"Description": `^[^AT\n][^\n.]{10,78}\n([^\n]{1,80}\n?){2,}$`,
		} {
			if !regexp.MustCompile(form).MatchString(d.Control[key]) {
				t.Errorf("%s is %q, which is not of the form %s", key, d.Control[key], form)
			}
		}
		var settings []string
		for _, f := range d.Files {
			if strings.HasPrefix(f.Path, "/etc/") && f.Typeflag == tar.TypeReg {
				settings = append(settings, f.Path)
			}
		}
		if got := d.Conffiles(); !slices.Equal(got, settings) || len(got) == 0 {
			t.Errorf("conffiles are %v, and in /etc is %v", got, settings)
		}
	})
}

func TestScripts(t *testing.T) {
	each(t, func(t *testing.T, d *Deb) {
		for _, name := range []string{"postinst", "prerm", "postrm"} {
			text := d.Scripts[name]
			if !strings.HasPrefix(text, "#!/bin/sh\n") || !strings.Contains(text, "\nset -e\n") || strings.Contains(text, "@name@") {
				t.Errorf("%s is %q", name, text)
			}
			check := exec.CommandContext(t.Context(), "sh", "-n")
			check.Stdin = strings.NewReader(text)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", name, err, out)
			}
		}
	})
}

func TestDocuments(t *testing.T) {
	each(t, func(t *testing.T, d *Deb) {
		doc := "/usr/share/doc/" + d.Name() + "/"
		if f := d.Lookup(doc + "copyright"); f == nil || !bytes.Contains(f.Content, []byte("License: ")) {
			t.Errorf("there is no copyright")
		}
		if text := plain(t, d, doc+"changelog.Debian.gz"); !strings.HasPrefix(text, d.Name()+" (1.0.0-1) ") || !strings.Contains(text, "\n -- ") {
			t.Errorf("changelog.Debian.gz is %q", text)
		}
		if text := plain(t, d, doc+"changelog.gz"); !strings.HasPrefix(text, "# Changelog") {
			t.Errorf("changelog.gz begins with %.80q", text)
		}
		// What is linked in has licences that ask to be shown.
		text := plain(t, d, doc+"third-party.gz")
		for _, name := range []string{"Go go1.", "github.com/quic-go/quic-go", "golang.org/x/crypto"} {
			if !strings.Contains(text, "\n"+name) && !strings.HasPrefix(text, name) {
				t.Errorf("third-party.gz has no licence of %s", name)
			}
		}
		for _, f := range d.Files {
			if name, ok := strings.CutPrefix(f.Path, "/usr/bin/"); ok {
				page := plain(t, d, "/usr/share/man/man1/"+name+".1.gz")
				for _, want := range []string{".TH ", ".SH NAME\n" + name + ` \- `, ".SS " + name + " status\n", ".SH EXIT STATUS\n"} {
					if !strings.Contains(page, want) {
						t.Errorf("the page of %s lacks %q", name, want)
					}
				}
			}
		}
	})
}

func plain(t *testing.T, d *Deb, file string) string {
	t.Helper()
	f := d.Lookup(file)
	if f == nil {
		t.Errorf("there is no %s", file)
		return ""
	}
	// gzip -n: without the time, or each build would differ.
	r, err := gzip.NewReader(bytes.NewReader(f.Content))
	if err != nil || !r.ModTime.IsZero() {
		t.Fatalf("%s: %v, time %v", file, err, r.ModTime)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return string(text)
}

// The unit runs a program of its package with settings of its package, as a
// user that stays and that postinst makes.
func TestUnits(t *testing.T) {
	each(t, func(t *testing.T, d *Deb) {
		u := unitOf(t, d)
		words := strings.Fields(u.Get("ExecStart"))
		if d.Lookup(words[0]) == nil || !strings.HasPrefix(words[0], "/usr/bin/") {
			t.Errorf("ExecStart is %q, and the package has no such program", words)
		}
		if i := slices.Index(words, "--config"); i < 0 || !slices.Contains(d.Conffiles(), words[i+1]) {
			t.Errorf("ExecStart is %q, and its settings are not in the package", words)
		}
		if u.Get("User") != d.Name() || u.Get("StateDirectory") != d.Name() || u.Get("DynamicUser") != "" {
			t.Errorf("user %q, dynamic %q, state folder %q; want %s", u.Get("User"), u.Get("DynamicUser"), u.Get("StateDirectory"), d.Name())
		}
		if u.Get("WantedBy") != "multi-user.target" {
			t.Errorf("WantedBy is %q", u.Get("WantedBy"))
		}
	})
}

func unitOf(t *testing.T, d *Deb) Unit {
	t.Helper()
	f := d.Lookup("/usr/lib/systemd/system/" + d.Name() + ".service")
	if f == nil {
		t.Fatalf("%s has no unit", d.Name())
	}
	return ReadUnit(string(f.Content))
}

// A program that needs no library runs on any Debian.
func TestStatic(t *testing.T) {
	each(t, func(t *testing.T, d *Deb) {
		for _, f := range d.Files {
			if !strings.HasPrefix(f.Path, "/usr/bin/") || f.Typeflag != tar.TypeReg {
				continue
			}
			program, err := elf.NewFile(bytes.NewReader(f.Content))
			if err != nil {
				t.Fatal(err)
			}
			if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 {
				t.Errorf("%s is linked to %v (%v)", f.Path, libraries, err)
			}
			if program.Section(".symtab") != nil {
				t.Errorf("%s is not stripped", f.Path)
			}
		}
	})
}
