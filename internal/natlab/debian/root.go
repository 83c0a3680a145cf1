//go:build linux

package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"rendezvous/internal/natlab/netns"
)

// more is what the root has beyond Debian's smallest: systemd for its view of
// the units, and what the packages depend on.
const more = "systemd,adduser"

// Lacks says what is missing for a Debian root of one's own, "" if nothing is.
func Lacks() string {
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err.Error()
	}
	// In a user namespace no device can be made, nor a file of another user.
	if os.Geteuid() != 0 || !slices.Equal(strings.Fields(string(users)), []string{"0", "0", "4294967295"}) {
		return "it takes root"
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return "it takes debootstrap (run make deps)"
	}
	return ""
}

// ErrNoDebian is the error of NewRoot where no Debian is to be had here, such as
// for want of its mirror or of a right that debootstrap needs.
var ErrNoDebian = errors.New("debootstrap makes no Debian here")

// Root is a folder with a Debian in it, whose programs see no other.
type Root struct {
	Dir string
}

// NewRoot makes a Debian of the release that runs here, from where apt gets
// its packages. What debootstrap makes is kept for the next time.
func NewRoot(dir string) (*Root, error) {
	from, err := mirror("/etc")
	if err != nil {
		return nil, err
	}
	kept, err := cache("debian-" + from.suite + "-" + strings.ReplaceAll(more, ",", "-") + ".tar")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(kept); errors.Is(err, fs.ErrNotExist) {
		if err := bootstrap(from, kept); err != nil {
			return nil, err
		}
	}
	if out, err := exec.Command("tar", "-C", dir, "-xpf", kept).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("unpack %s: %w: %s; remove it to have it made anew", kept, err, out)
	}
	return &Root{dir}, nil
}

// cache is a file's name in a folder that is nobody else's.
func cache(name string) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = "/var/cache"
	}
	dir = filepath.Join(dir, "rendezvous-lab")
	return filepath.Join(dir, name), os.MkdirAll(dir, 0o700)
}

// bootstrap makes a root and keeps it in a file.
func bootstrap(from source, kept string) error {
	dir, err := os.MkdirTemp("", "rdv-debian-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root := filepath.Join(dir, "root")
	args := []string{"--variant=minbase", "--include=" + more}
	if from.keyring != "" {
		args = append(args, "--keyring="+from.keyring)
	}
	if out, err := exec.Command("debootstrap", append(args, from.suite, root, from.uri)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s: %w: %s", ErrNoDebian, from.suite, err, out)
	}
	file := filepath.Join(dir, "root.tar")
	args = []string{"-C", root, "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./proc/*", "--exclude=./sys/*", "-cf", file, "."}
	if out, err := exec.Command("tar", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("keep the root that debootstrap made: %w: %s", err, out)
	}
	// Not by rename alone: the cache may be on another disk.
	if out, err := exec.Command("sh", "-c", `cp "$1" "$2.new" && mv "$2.new" "$2"`, "sh", file, kept).CombinedOutput(); err != nil {
		return fmt.Errorf("keep the root that debootstrap made: %w: %s", err, out)
	}
	return nil
}

// source is where apt gets packages from.
type source struct{ uri, suite, keyring string }

// mirror reads apt's sources, in both their forms, for the release that runs.
func mirror(etc string) (source, error) {
	release, err := os.ReadFile(filepath.Join(etc, "os-release"))
	if err != nil {
		return source{}, err
	}
	suite := ""
	for line := range strings.Lines(string(release)) {
		if v, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			suite = strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	if suite == "" {
		return source{}, errors.New("find the Debian release in os-release: it names none")
	}
	files, err := filepath.Glob(filepath.Join(etc, "apt/sources.list.d/*"))
	if err != nil {
		return source{}, err
	}
	for _, file := range append([]string{filepath.Join(etc, "apt/sources.list")}, files...) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // one of the two forms is not there
		}
		if s, ok := findSource(string(text), suite, strings.HasSuffix(file, ".sources")); ok {
			return s, nil
		}
	}
	return source{}, fmt.Errorf("find Debian %s in apt's sources: none has it", suite)
}

func findSource(text, suite string, stanzas bool) (source, bool) {
	if !stanzas {
		return findLine(text, suite)
	}
	for stanza := range strings.SplitSeq(text, "\n\n") {
		fields := map[string]string{}
		for lines := bufio.NewScanner(strings.NewReader(stanza)); lines.Scan(); {
			if key, value, ok := strings.Cut(lines.Text(), ":"); ok && !strings.HasPrefix(key, "#") {
				fields[key] = strings.TrimSpace(value)
			}
		}
		uris := strings.Fields(fields["URIs"])
		if len(uris) > 0 && slices.Contains(strings.Fields(fields["Suites"]), suite) && slices.Contains(strings.Fields(fields["Types"]), "deb") {
			s := source{uris[0], suite, fields["Signed-By"]}
			if !filepath.IsAbs(s.keyring) {
				s.keyring = ""
			}
			return s, true
		}
	}
	return source{}, false
}

// findLine looks for "deb [options] URI SUITE COMPONENTS".
func findLine(text, suite string) (source, bool) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "deb" {
			continue
		}
		if i := slices.IndexFunc(words, func(w string) bool { return strings.HasSuffix(w, "]") }); i > 0 {
			words = slices.Delete(words, 1, i+1)
		}
		if len(words) > 3 && words[2] == suite {
			return source{uri: words[1], suite: suite}, true
		}
	}
	return source{}, false
}

// Command is what runs a command with the root as its own, and /proc in it for
// as long as it runs.
func (r *Root) Command(args ...string) []string {
	const enter = `mount -t proc proc "$0/proc" && exec chroot "$0" "$@"`
	return append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", enter, r.Dir}, args...)
}

// Run runs a command in the root on a host of the lab.
func (r *Root) Run(h *netns.Host, args ...string) (string, error) {
	g := netns.Guise{Environment: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}}
	return h.TryAs(g, r.Command(args...)...)
}

// Files are all files of the root, but for those that tell what was installed
// when, and folders of the kernel's.
func (r *Root) Files() (map[string]bool, error) {
	passing := []string{"proc", "sys", "dev", "run", "tmp", "var/lib/dpkg", "var/log", "var/cache"}
	found := map[string]bool{}
	err := filepath.WalkDir(r.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(r.Dir, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains(passing, name) {
			return filepath.SkipDir
		}
		found[name] = true
		return nil
	})
	return found, err
}
