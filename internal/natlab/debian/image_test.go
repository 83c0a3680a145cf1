//go:build linux

package debian

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"rendezvous/internal/natlab/netns"
)

// image is what a stage of deploy/Containerfile that begins with nothing says.
type image struct {
	copies            [][2]string // from, to
	user              string
	entrypoint, start []string
}

// readImages reads those stages.
func readImages(t *testing.T) map[string]*image {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(module, "deploy/Containerfile"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*image{}
	at := new(image)
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		_, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch words[0] {
		case "FROM":
			at = new(image)
			if words[1] == "scratch" {
				all[words[len(words)-1]] = at
			}
		case "COPY":
			at.copies = append(at.copies, [2]string{words[len(words)-2], words[len(words)-1]})
		case "USER":
			at.user, _, _ = strings.Cut(words[1], ":")
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &at.entrypoint)
		case "CMD":
			err = json.Unmarshal([]byte(rest), &at.start)
		}
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return all
}

// The programs run in a root that has what the images have and nothing else,
// as their user. (What builds images is not in the lab.)
func TestImages(t *testing.T) {
	if why := Lacks(); strings.Contains(why, "root") {
		t.Skipf("THE IMAGES' PROGRAMS ARE NOT RUN BY THIS TEST: %s", why)
	}
	lab := netns.New(t)
	host := lab.Host("box")
	lab.Wire(host, "eth0", lab.Host("street"), "eth0")
	host.Address("eth0", publicAddr+"/24")
	images := readImages(t)

	coordinator := newBox(t, host, images["rendezvous"])
	coordinator.start("rendezvous", "serving")
	link := strings.TrimSpace(coordinator.run("invite"))
	agent := newBox(t, host, images["agent"])
	agent.run("join", "--name", "home", link)
	agent.start("agent", "registered")
	if out := agent.run("status"); !strings.Contains(out, "home") {
		t.Errorf("the agent's status is %s", out)
	}
}

// box is a folder with what an image has.
type box struct {
	t     *testing.T
	host  *netns.Host
	image *image
	dir   string
}

func newBox(t *testing.T, h *netns.Host, i *image) *box {
	t.Helper()
	b := &box{t, h, i, t.TempDir()}
	if i == nil || i.user == "" || i.user == "0" {
		t.Fatalf("the image is %+v", i)
	}
	for _, c := range i.copies {
		to := filepath.Join(b.dir, c[1])
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if path.Base(c[0]) == "state" {
			h.Run("install", "-d", "-m", "700", "-o", i.user, "-g", i.user, to)
			continue
		}
		if err := os.WriteFile(to, b.source(c[0]), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// source is what is copied: of the repository, or a program of a package,
// which is built alike.
func (b *box) source(name string) []byte {
	b.t.Helper()
	if program, ok := strings.CutPrefix(name, "/out/"); ok {
		for _, d := range built {
			if f := d.Lookup("/usr/bin/" + program); f != nil {
				return f.Content
			}
		}
	}
	content, err := os.ReadFile(filepath.Join(module, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return content
}

func (b *box) command(args []string) []string {
	return append(append([]string{"chroot", fmt.Sprintf("--userspec=%s:%s", b.image.user, b.image.user), b.dir}, b.image.entrypoint...), args...)
}

func (b *box) run(args ...string) string {
	b.t.Helper()
	return b.host.Run(b.command(args)...)
}

// start runs the image as it is, until its log has a word.
func (b *box) start(name, word string) {
	b.t.Helper()
	words := b.command(b.image.start)
	b.host.Sysctl("net.ipv4.ip_unprivileged_port_start=0") // the file's capabilities are not here
	p := b.host.Start(words[0], words[1:]...)
	b.t.Log(name, p.WaitLog(word, ready))
}
