package stripe

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SSHPorts are where sshd is to listen by its settings, and where the session
// that this program runs in came in: whether or not sshd runs just now, whoever
// administers this host must find it. folder is /etc/ssh; what can't be read
// there says nothing, since the listeners are found in any case.
func SSHPorts(folder, connection string) Ports {
	files, _ := filepath.Glob(filepath.Join(folder, "sshd_config.d", "*.conf")) // the pattern is sound
	var ports []uint16
	for _, name := range append(files, filepath.Join(folder, "sshd_config")) {
		if text, err := os.ReadFile(filepath.Clean(name)); err == nil {
			ports = append(ports, sshConfigPorts(string(text))...)
		}
	}
	// SSH_CONNECTION of ssh(1): client's address and port, server's address and port.
	if f := strings.Fields(connection); len(f) == 4 {
		ports = append(ports, portNumber(f[3])...)
	}
	return Single(append(ports, sshPort)...)
}

// sshConfigPorts reads Port and ListenAddress of sshd_config(5).
func sshConfigPorts(text string) (ports []uint16) {
	for line := range strings.Lines(text) {
		f := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n=", r) })
		if len(f) < 2 {
			continue
		}
		switch strings.ToLower(f[0]) {
		case "port":
			ports = append(ports, portNumber(f[1])...)
		case "listenaddress":
			ports = append(ports, listenPort(f[1])...)
		}
	}
	return ports
}

// listenPort is that of HOST:PORT; none where an IPv6 address stands alone.
func listenPort(s string) []uint16 {
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return nil
	}
	return portNumber(s[i+1:])
}

func portNumber(s string) []uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return nil
	}
	return []uint16{uint16(n)}
}
