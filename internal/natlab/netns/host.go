//go:build linux

package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a network namespace.
type Host struct {
	Name string
	lab  *Lab
	ns   string
}

// commandLimit ends a command that hangs; the slowest here take a second.
const commandLimit = 60 * time.Second

// Host adds a host to the lab, with its loopback up. Keep the name short: it
// becomes part of names of namespaces.
func (l *Lab) Host(name string) *Host {
	l.t.Helper()
	h := &Host{Name: name, lab: l, ns: l.prefix() + name}
	if out, err := exec.Command("ip", "netns", "add", h.ns).CombinedOutput(); err != nil {
		l.t.Fatalf("make the namespace %s: %v: %s", h.ns, err, out)
	}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	h.IP("link set lo up")
	h.watch()
	return h
}

// Namespace is the name by which `ip netns exec` finds the host.
func (h *Host) Namespace() string { return h.ns }

// IP runs lines of `ip` in the host, without the leading "ip".
func (h *Host) IP(lines ...string) {
	h.lab.t.Helper()
	if err := h.batch(lines...); err != nil {
		h.lab.t.Fatalf("%v", err)
	}
}

func (h *Host) batch(lines ...string) error {
	script := strings.Join(lines, "\n") + "\n"
	cmd := exec.Command("ip", "-netns", h.ns, "-batch", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip on %s: %w: %s\n%s", h.Name, err, out, script)
	}
	return nil
}

// Sysctl sets kernel settings of the host, as "net.ipv4.ip_forward=1".
func (h *Host) Sysctl(settings ...string) {
	h.lab.t.Helper()
	h.Run(append([]string{"sysctl", "-q", "-w"}, settings...)...)
}

// Command is a command in the host, for those who want its streams.
func (h *Host) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	return h.commandAs(ctx, Guise{}, args)
}

func (h *Host) commandAs(ctx context.Context, g Guise, args []string) (*exec.Cmd, error) {
	file, err := h.lab.program(args[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "ip", g.command(h.ns, file, args[1:])...)
	cmd.Env = append(os.Environ(), g.Environment...)
	return cmd, nil
}

// Try runs a command in the host to its end and gives what it wrote to
// stdout; the error has stderr in it.
func (h *Host) Try(args ...string) (string, error) {
	return h.TryAs(Guise{}, args...)
}

// TryAs is Try in a guise.
func (h *Host) TryAs(g Guise, args ...string) (string, error) {
	return h.tryFor(commandLimit, g, args)
}

func (h *Host) tryFor(limit time.Duration, g Guise, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd, err := h.commandAs(ctx, g, args)
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s on %s: %w: %s%s", strings.Join(args, " "), h.Name, err, out, stderr.String())
	}
	return string(out), err
}

// Run is Try, and its error ends the test.
func (h *Host) Run(args ...string) string {
	h.lab.t.Helper()
	out, err := h.Try(args...)
	if err != nil {
		h.lab.t.Fatalf("%v", err)
	}
	return out
}

// Overhear runs a command that may never end (turnutils_stunclient waits for
// ever for what a NAT filters), kills it after a time, and gives what it wrote
// to stdout until then.
func (h *Host) Overhear(limit time.Duration, args ...string) string {
	h.lab.t.Helper()
	out, err := h.tryFor(limit, Guise{}, args)
	if out == "" && err != nil {
		h.lab.t.Fatalf("%v", err)
	}
	return out
}

// Do calls f on a thread inside the host's namespace: sockets that f opens
// stay there. Goroutines that f starts don't.
func (h *Host) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the own namespace: %w", err)
	}
	if err = enter(namedPath + h.ns); err == nil {
		err = f()
	}
	// A thread that can't return stays locked and ends with its goroutine.
	back := unix.Setns(home, unix.CLONE_NEWNET)
	if back == nil {
		runtime.UnlockOSThread()
	}
	return errors.Join(err, back, unix.Close(home))
}

func enter(file string) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the namespace %s: %w", file, err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return errors.Join(fmt.Errorf("enter the namespace %s: %w", file, err), unix.Close(fd))
	}
	return unix.Close(fd)
}

// Wire joins two hosts by a veth pair with these interface names.
func (l *Lab) Wire(a *Host, ifA string, b *Host, ifB string) {
	l.t.Helper()
	a.IP(fmt.Sprintf("link add %s type veth peer name %s netns %s", ifA, ifB, b.ns))
	a.IP("link set dev " + ifA + " up")
	b.IP("link set dev " + ifB + " up")
}

// Address adds addresses ("192.168.1.2/24") to an interface.
func (h *Host) Address(iface string, prefixes ...string) {
	h.lab.t.Helper()
	h.IP(addressLines("add", iface, prefixes)...)
}

// Renumber replaces the addresses of an interface, as when a laptop comes to
// another network. Routes through the interface are lost; add them again.
func (h *Host) Renumber(iface string, prefixes ...string) {
	h.lab.t.Helper()
	h.IP("address flush dev " + iface + " scope global")
	h.Address(iface, prefixes...)
}

func addressLines(verb, iface string, prefixes []string) []string {
	lines := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		line := fmt.Sprintf("address %s %s dev %s", verb, p, iface)
		if prefix, err := netip.ParsePrefix(p); err == nil && prefix.Addr().Is6() {
			line += " nodad" // else the address is of no use for its first second
		}
		lines = append(lines, line)
	}
	return lines
}

// DefaultRoute sends everything else to a gateway.
func (h *Host) DefaultRoute(gateway string) {
	h.lab.t.Helper()
	h.IP("route replace default via " + gateway)
}

// LinkDown and LinkUp pull an interface's plug and put it in again. Routes
// through it are lost while it is down.
func (h *Host) LinkDown(iface string) {
	h.lab.t.Helper()
	h.IP("link set dev " + iface + " down")
}

// LinkUp is LinkDown's opposite.
func (h *Host) LinkUp(iface string) {
	h.lab.t.Helper()
	h.IP("link set dev " + iface + " up")
}

// FlushConntrack makes a NAT forget all its mappings.
func (h *Host) FlushConntrack() {
	h.lab.t.Helper()
	h.Run("conntrack", "-F")
}

// Devices are the host's network interfaces but loopback.
func (h *Host) Devices() (names []string) {
	h.lab.t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(h.Run("ip", "-o", "link", "show")), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(fields[1], ":"), "@")
		if name != "lo" {
			names = append(names, name)
		}
	}
	return names
}
