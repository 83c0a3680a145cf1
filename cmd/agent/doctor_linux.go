package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

func freeSpace(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// checkSystem looks at the kernel.
func checkSystem() []finding {
	list := []finding{
		checkOffload("UDP send offload", unix.UDP_SEGMENT, "4.18"),
		checkOffload("UDP receive offload", unix.UDP_GRO, "5.0"),
		checkBuffer("receive buffer", "rmem_max"),
		checkBuffer("send buffer", "wmem_max"),
		checkFiles(),
	}
	if f, ok := checkPortRange(); ok {
		list = append(list, f)
	}
	return list
}

// checkOffload tries the socket option itself: a sandbox or an old kernel may
// lack it, and then each datagram costs a system call.
func checkOffload(what string, option int, since string) finding {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return finding{what, bad, fmt.Sprintf("open a UDP socket: %v", err), ""}
	}
	defer func() { _ = unix.Close(fd) }() // nothing was sent on it
	if os.Getenv(dgram.EnvNoOffload) == "1" {
		return finding{what, poor, "turned off by " + dgram.EnvNoOffload, "unset " + dgram.EnvNoOffload}
	}
	value := 1
	if option == unix.UDP_SEGMENT {
		value = 1200 // a segment's size; any that fits will do
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, option, value); err != nil {
		return finding{what, poor, fmt.Sprintf("the kernel has none (%v): throughput is a sixth", err), "use Linux " + since + " or later"}
	}
	return finding{what, good, "the kernel has it", ""}
}

// checkBuffer compares what the kernel grants without privilege with what our
// sockets ask for.
func checkBuffer(what, key string) finding {
	name := "net.core." + key
	n, err := readNumber("/proc/sys/net/core/" + key)
	switch {
	case err != nil:
		return finding{what, poor, fmt.Sprintf("%s cannot be read: %v", name, err), ""}
	case n < dgram.DefaultBuffer:
		return finding{what, poor, fmt.Sprintf("%s is %d of %d wanted: fast bursts may be lost", name, n, dgram.DefaultBuffer),
			fmt.Sprintf("sysctl -w %s=%d; and in /etc/sysctl.d/rendezvous.conf to keep it", name, dgram.DefaultBuffer)}
	}
	return finding{what, good, fmt.Sprintf("%s is %d", name, n), ""}
}

// wantFiles are 10,000 flows, each with a socket, and some for ourselves.
const wantFiles = 10_200

func checkFiles() finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return finding{"open files", poor, err.Error(), ""}
	}
	// The Go runtime raises the soft limit to the hard one.
	if l.Max < wantFiles {
		return finding{"open files", poor, fmt.Sprintf("at most %d, so about as many flows", l.Max),
			"LimitNOFILE=65536 in the unit, or ulimit -Hn 65536"}
	}
	return finding{"open files", good, fmt.Sprintf("at most %d", l.Max), ""}
}

func checkPortRange() (finding, bool) {
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	b, err := os.ReadFile(file)
	if err != nil {
		return finding{}, false
	}
	var low, high int
	if _, err := fmt.Sscan(string(b), &low, &high); err != nil {
		return finding{}, false
	}
	if high-low < wantFiles {
		return finding{"local ports", poor, fmt.Sprintf("%d to %d: fewer flows than 10,000 at once", low, high), "sysctl -w net.ipv4.ip_local_port_range='32768 60999'"}, true
	}
	return finding{"local ports", good, fmt.Sprintf("%d to %d", low, high), ""}, true
}

func readNumber(file string) (int, error) {
	b, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
