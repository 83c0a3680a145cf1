//go:build linux

package netns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	namePrefix = "rdv-"
	namedPath  = "/run/netns/"
)

// A run claims its id by an abstract unix socket: it vanishes with the
// process and leaves no file, so a claim that can be had belongs to a dead run.
func claimID(id string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a unix socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + namePrefix + id}); err != nil {
		return -1, errors.Join(fmt.Errorf("claim the lab's id %s: %w", id, err), unix.Close(fd))
	}
	return fd, nil
}

func closeClaim(fd int) error { return unix.Close(fd) }

// sweep removes the namespaces of runs that are no more.
func sweep() error {
	entries, err := os.ReadDir(namedPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), namePrefix)
		id, _, named := strings.Cut(rest, "-")
		if !ok || !named {
			continue
		}
		claim, err := claimID(id)
		if err != nil {
			continue // its run is alive
		}
		errs = append(errs, removeNamespace(e.Name()), removeSockets(id), closeClaim(claim))
	}
	return errors.Join(errs...)
}

// removeNamespace kills what still runs in a namespace and removes it.
func removeNamespace(name string) error {
	if _, err := os.Stat(namedPath + name); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	out, err := exec.Command("ip", "netns", "pids", name).Output()
	if err != nil {
		return fmt.Errorf("list the processes in namespace %s: %w", name, err)
	}
	for _, field := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			// The process may have ended meanwhile; either way it is gone.
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
		return fmt.Errorf("remove the namespace %s: %w: %s", name, err, out)
	}
	return nil
}

// removeSockets removes what a wireguard-go that was killed leaves.
func removeSockets(id string) error {
	files, err := filepath.Glob(filepath.Join(wireguardSockets, "wg"+id+"*.sock"))
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}

// reaper is a process that outlives this one by a moment and removes the lab,
// whatever ended us: a panic, SIGINT or SIGKILL.
type reaper struct {
	cmd   *exec.Cmd
	alive io.WriteCloser
}

// The script sleeps in cat until our end of the pipe is closed.
const reaperScript = `cat >/dev/null
for ns in $(ls /run/netns); do
  case $ns in "rdv-$1-"*)
    for pid in $(ip netns pids "$ns"); do kill -9 "$pid"; done
    ip netns delete "$ns" ;;
  esac
done
rm -f /var/run/wireguard/wg"$1"*.sock`

func startReaper(id string) (*reaper, error) {
	cmd := exec.Command("sh", "-c", reaperScript, "natlab-reaper", id)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of reach of the terminal's ^C
	alive, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the lab's reaper: %w", err)
	}
	return &reaper{cmd: cmd, alive: alive}, nil
}

// stop ends the reaper; by then it finds nothing to do.
func (r *reaper) stop() error {
	return errors.Join(r.alive.Close(), r.cmd.Wait())
}

// require says why no lab can run here: the test is skipped then, or fails
// where CI=true, so that no build passes without it.
func require(t T) {
	t.Helper()
	err := usable()
	if err == nil {
		return
	}
	skipper, ok := t.(interface{ Skipf(string, ...any) })
	if !ok || os.Getenv("CI") == "true" {
		t.Fatalf("THE LAB OF NETWORK NAMESPACES CAN'T RUN: %v", err)
		return
	}
	skipper.Skipf("SKIPPED, THE LAB OF NETWORK NAMESPACES CAN'T RUN: %v", err)
}

// Require skips a test where no lab can run, and says why; with CI=true the
// test fails instead. New does it too.
func Require(t T) {
	t.Helper()
	require(t)
}

func usable() (err error) {
	var missing []string
	for _, tool := range []string{"ip", "nft", "conntrack"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("there is no %s here; make deps installs it", strings.Join(missing, ", no "))
	}
	if os.Geteuid() != 0 {
		return errors.New("it needs root; scripts/as-root runs a command in a user namespace where that is allowed")
	}
	id := randomID()
	claim, err := claimID(id) // or another run's sweep takes it for a dead one's
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClaim(claim)) }()
	probe := namePrefix + id + "-probe"
	if out, err := exec.Command("ip", "netns", "add", probe).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns add: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return removeNamespace(probe)
}

// Leftovers are the namespaces with this lab's names that exist now.
func (l *Lab) Leftovers() []string {
	entries, err := os.ReadDir(namedPath)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), l.prefix()) {
			names = append(names, e.Name())
		}
	}
	return slices.Clip(names)
}
