//go:build linux

package debian

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
)

// The coordinator's address on the one host of the lab.
const publicAddr = "203.0.113.10"

// newer is the version that is upgraded to.
const newer = "1.1.0-1"

// ready is how long a service may take until it tells systemd that it is up.
const ready = 15 * time.Second

// Both packages install, run by their units, upgrade, and leave nothing when
// they are purged, in a Debian that has nothing else.
func TestLifeOfPackages(t *testing.T) {
	if why := Lacks(); why != "" {
		t.Skipf("OUR DEBIAN PACKAGES ARE NOT INSTALLED ANYWHERE BY THIS TEST, only looked at: %s", why)
	}
	s := newStay(t)
	before := s.files()

	s.install(built)
	s.verifyUnits()
	s.edit("/etc/rendezvous/rendezvous.yaml", "\npublic_addr: ["+publicAddr+"]\n")
	coordinator := s.up("rendezvous")
	link := strings.TrimSpace(s.run("rendezvous", "invite"))
	s.run("agent", "join", "--name", "home", link)
	s.owned("rendezvous-agent")
	agent := s.up("rendezvous-agent")
	s.connected()
	for _, p := range []*netns.Process{coordinator, agent} {
		if log := p.Log(); strings.Contains(log, "no fake TCP") || strings.Contains(log, "not listening there") {
			t.Errorf("the unit's capabilities don't do:\n%s", log)
		}
	}

	// State and settings outlive an upgrade, and the programs that ran meanwhile.
	upgrade := s.renumbered()
	s.install(upgrade)
	agent.Stop()
	coordinator.Stop()
	coordinator, agent = s.up("rendezvous"), s.up("rendezvous-agent")
	s.connected()
	if !strings.Contains(s.read("/etc/rendezvous/rendezvous.yaml"), publicAddr) {
		t.Error("the upgrade took the settings away")
	}
	agent.Stop()
	coordinator.Stop()

	s.run("dpkg", "--remove", "rendezvous", "rendezvous-agent")
	for _, name := range []string{"etc/rendezvous/agent.yaml", "var/lib/rendezvous-agent/state.json", "var/lib/rendezvous"} {
		if _, err := os.Stat(filepath.Join(s.root.Dir, name)); err != nil {
			t.Errorf("removed, not purged: %v", err)
		}
	}
	s.run("dpkg", "--purge", "rendezvous", "rendezvous-agent")
	s.clean(before)

	// Where there is no systemd, the rest is as it was.
	s.run("dpkg", "--purge", "--force-depends", "systemd")
	before = s.files()
	s.install(built)
	s.owned("rendezvous-agent")
	s.up("rendezvous").Stop()
	s.run("dpkg", "--purge", "rendezvous", "rendezvous-agent")
	s.clean(before)
}

// stay is the Debian root and the host of the lab that its programs run on.
type stay struct {
	t    *testing.T
	root *Root
	host *netns.Host
}

func newStay(t *testing.T) *stay {
	t.Helper()
	lab := netns.New(t)
	begin := time.Now()
	root, err := NewRoot(t.TempDir())
	if errors.Is(err, ErrNoDebian) {
		t.Skipf("OUR DEBIAN PACKAGES ARE NOT INSTALLED ANYWHERE BY THIS TEST, only looked at: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a Debian root after %v", time.Since(begin).Round(time.Second))
	s := &stay{t, root, lab.Host("debian")}
	lab.Wire(s.host, "eth0", lab.Host("street"), "eth0")
	s.host.Address("eth0", publicAddr+"/24")
	return s
}

// run runs a command as root in the Debian root.
func (s *stay) run(args ...string) string {
	s.t.Helper()
	out, err := s.root.Run(s.host, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *stay) read(file string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.root.Dir, file))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func (s *stay) files() map[string]bool {
	s.t.Helper()
	found, err := s.root.Files()
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// install has dpkg install or upgrade packages, which also looks at what they
// depend on.
func (s *stay) install(all []*Deb) {
	s.t.Helper()
	args := []string{"dpkg", "--install"}
	for _, d := range all {
		name := "/tmp/" + filepath.Base(d.File)
		content, err := os.ReadFile(d.File)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.root.Dir, name), content, 0o644)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		args = append(args, name)
	}
	s.run(args...)
	for _, d := range all {
		if got := s.run("dpkg-query", "--show", "--showformat=${Version} ${Status}", d.Name()); got != d.Control["Version"]+" install ok installed" {
			s.t.Errorf("%s: dpkg says %q", d.Name(), got)
		}
	}
}

func (s *stay) renumbered() []*Deb {
	s.t.Helper()
	var all []*Deb
	for _, d := range built {
		n, err := d.Renumbered(s.t.TempDir(), newer)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// edit adds to a settings file, as an administrator does.
func (s *stay) edit(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.root.Dir, file), []byte(s.read(file)+text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// verifyUnits has the systemd of the root read our units. It says nothing when
// all is well.
func (s *stay) verifyUnits() {
	s.t.Helper()
	s.run("sh", "-c", "cp /usr/share/doc/rendezvous-agent/examples/*.service /etc/systemd/system/")
	if out := s.run("sh", "-c", "systemd-analyze verify --man=no rendezvous-tun.service 2>&1; rm /etc/systemd/system/rendezvous-tun.service"); out != "" {
		s.t.Errorf("systemd-analyze verify rendezvous-tun says %s", out)
	}
	for _, d := range built {
		if out := s.run("sh", "-c", "systemd-analyze verify --man=no $0 2>&1", d.Name()+".service"); out != "" {
			s.t.Errorf("systemd-analyze verify %s says %s", d.Name(), out)
		}
		if out := s.run("systemctl", "is-enabled", d.Name()); strings.TrimSpace(out) != "enabled" {
			s.t.Errorf("%s.service is %s", d.Name(), out)
		}
	}
}

// up starts a unit's program as systemd would, and waits until it says that it
// is ready.
func (s *stay) up(name string) *netns.Process {
	s.t.Helper()
	unit := ReadUnit(s.read("/usr/lib/systemd/system/" + name + ".service"))
	if file := unit.Get("ConditionPathExists"); file != "" {
		s.read(file)
	}
	notify := filepath.Join(s.root.Dir, "run", name+".notify")
	if err := os.RemoveAll(notify); err != nil {
		s.t.Fatal(err)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { socket.Close() }) // it is told of the end too
	if err := errors.Join(os.Chmod(notify, 0o666), socket.SetReadDeadline(time.Now().Add(ready))); err != nil {
		s.t.Fatal(err)
	}
	command := s.root.Command(unit.Command()...)
	g := netns.Guise{Environment: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET=/run/" + name + ".notify", "STATE_DIRECTORY=" + unit.State()}}
	p := s.host.StartAs(g, command[0], command[1:]...)
	said := make([]byte, 4096)
	for {
		n, err := socket.Read(said)
		if err != nil {
			s.t.Fatalf("%s does not say that it is ready: %v\n%s", name, err, p.Log())
		}
		if strings.Contains(string(said[:n]), "READY=1") {
			return p
		}
	}
}

// connected waits until the agent is registered at the coordinator.
func (s *stay) connected() {
	s.t.Helper()
	netns.Eventually(s.t, ready, "the agent to be connected", func() error {
		out, err := s.root.Run(s.host, "agent", "status", "--json")
		if err != nil {
			return err
		}
		var status struct {
			Version     string `json:"version"`
			Coordinator struct {
				Connected bool `json:"connected"`
			} `json:"coordinator"`
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return err
		}
		if status.Version != version {
			return fmt.Errorf("the agent's version is %q", status.Version)
		}
		if !status.Coordinator.Connected {
			return errors.New("it is not")
		}
		return nil
	})
}

// owned checks that a state folder and what root's commands put there is the
// service's user's, and nobody else's.
func (s *stay) owned(name string) {
	s.t.Helper()
	user := strings.TrimSpace(s.run("id", "-u", name))
	dir := filepath.Join(s.root.Dir, "var/lib", name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	files := []string{dir}
	for _, e := range entries {
		files = append(files, filepath.Join(dir, e.Name()))
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			s.t.Fatal(err)
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok || fmt.Sprint(owner.Uid) != user || info.Mode().Perm()&0o077 != 0 {
			s.t.Errorf("%s is of user %v with mode %v, want %s's alone", file, owner.Uid, info.Mode(), user)
		}
	}
}

// clean checks that a purge left nothing.
func (s *stay) clean(before map[string]bool) {
	s.t.Helper()
	for name := range s.files() {
		// What adduser keeps of the files that it changes ends so.
		if !before[name] && !strings.HasSuffix(name, "-") {
			s.t.Errorf("purged, and /%s is left", name)
		}
	}
	for _, file := range []string{"/etc/passwd", "/etc/group", "/etc/shadow"} {
		if strings.Contains(s.read(file), "rendezvous") {
			s.t.Errorf("purged, and %s has a user of ours", file)
		}
	}
}
