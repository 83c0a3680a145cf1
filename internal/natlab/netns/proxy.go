//go:build linux

package netns

import (
	"fmt"
	"os"
	"path/filepath"
)

// Tinyproxy starts an HTTP proxy on the host that grants CONNECT to these
// ports and nothing else, and gives its URL as seen from the LAN side.
func (h *Host) Tinyproxy(addr string, port uint16, connect ...uint16) (string, *Process) {
	h.lab.t.Helper()
	config := fmt.Sprintf("Port %d\nTimeout 600\nMaxClients 100\nLogLevel Info\nDisableViaHeader Yes\n", port)
	for _, c := range connect {
		config += fmt.Sprintf("ConnectPort %d\n", c)
	}
	file := filepath.Join(h.lab.dir, h.Name+"-tinyproxy.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		h.lab.t.Fatalf("write tinyproxy's configuration: %v", err)
	}
	p := h.Start("tinyproxy", "-d", "-c", file)
	h.WaitPort("tcp", port, startLimit)
	return fmt.Sprintf("http://%s:%d", addr, port), p
}
