//go:build linux

package netns

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// startLimit is how long a foreign program may take until it is ready.
const startLimit = 5 * time.Second

// WireGuard is a wireguard-go device on a host.
type WireGuard struct {
	Host      *Host
	Interface string
	PublicKey string
	Process   *Process
}

// wireguardSockets is where wireguard-go and wg find each other. All
// namespaces share the folder, hence names of interfaces that are unique.
const wireguardSockets = "/var/run/wireguard"

// WireGuard starts wireguard-go with an address ("10.9.0.1/24") inside, an MTU
// of 1420 (WireGuard's default), and a UDP port; port 0 picks one.
func (h *Host) WireGuard(address string, port uint16) *WireGuard {
	h.lab.t.Helper()
	l := h.lab
	l.mu.Lock()
	l.counted++
	w := &WireGuard{Host: h, Interface: fmt.Sprintf("wg%s%d", l.id, l.counted)}
	l.mu.Unlock()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		l.t.Fatalf("make a WireGuard key: %v", err)
	}
	w.PublicKey = base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
	keyFile := filepath.Join(l.dir, w.Interface+".key")
	private := base64.StdEncoding.EncodeToString(key.Bytes()) + "\n"
	if err := os.WriteFile(keyFile, []byte(private), 0o600); err != nil {
		l.t.Fatalf("write a WireGuard key: %v", err)
	}
	socket := filepath.Join(wireguardSockets, w.Interface+".sock")
	w.Process = h.Start("wireguard-go", "-f", w.Interface)
	Eventually(l.t, startLimit, "wireguard-go on "+h.Name, func() error {
		if !w.Process.Running() {
			return fmt.Errorf("it has ended: %s", w.Process.Log())
		}
		_, err := os.Stat(socket)
		return err
	})
	h.Run("wg", "set", w.Interface, "listen-port", strconv.Itoa(int(port)), "private-key", keyFile)
	h.Address(w.Interface, address)
	h.IP("link set dev " + w.Interface + " mtu 1420 up")
	return w
}

// SetPeer lets w know another device. endpoint is where w sends to it
// ("127.0.0.1:51821"), empty when the peer comes first; allowed are its
// addresses inside, "10.9.0.2/32" say.
func (w *WireGuard) SetPeer(peer *WireGuard, endpoint, allowed string) {
	w.Host.lab.t.Helper()
	args := []string{"wg", "set", w.Interface, "peer", peer.PublicKey, "allowed-ips", allowed}
	if endpoint != "" {
		args = append(args, "endpoint", endpoint)
	}
	w.Host.Run(args...)
}

// Handshake is when the last handshake with the only peer was, zero if never.
func (w *WireGuard) Handshake() time.Time {
	w.Host.lab.t.Helper()
	fields := strings.Fields(w.Host.Run("wg", "show", w.Interface, "latest-handshakes"))
	if len(fields) != 2 || fields[1] == "0" {
		return time.Time{}
	}
	seconds, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		w.Host.lab.t.Fatalf("read the time of the last handshake: %v", err)
	}
	return time.Unix(seconds, 0)
}

// Iperf3 sends TCP from one host to an address of another for a time, and
// gives what arrived in Mbit/s.
func (l *Lab) Iperf3(client, server *Host, addr string, d time.Duration, options ...string) float64 {
	l.t.Helper()
	return l.Iperf3By(client, server, addr, addr, d, options...)
}

// Iperf3By is Iperf3 where the client knows the server by another address than
// the one that it listens on.
func (l *Lab) Iperf3By(client, server *Host, bind, addr string, d time.Duration, options ...string) float64 {
	l.t.Helper()
	p := server.Start("iperf3", "--server", "--one-off", "--bind", bind, "--forceflush")
	p.WaitLog("Server listening", startLimit)
	seconds := strconv.Itoa(max(1, int(d/time.Second)))
	out := client.Run(append([]string{"iperf3", "--client", addr, "--time", seconds, "--json", "--connect-timeout", "3000"}, options...)...)
	var report struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		l.t.Fatalf("read iperf3's report: %v: %s", err, out)
	}
	p.Wait(startLimit)
	return report.End.Received.Rate / 1e6
}

// Turnserver starts coturn as a STUN server on these addresses; with two of
// them it also answers for behaviour discovery (RFC 5780).
func (h *Host) Turnserver(port uint16, addrs ...string) *Process {
	h.lab.t.Helper()
	return h.turnserver(port, addrs, "--stun-only")
}

// TurnserverRelaying starts coturn as a TURN server for everybody. Beside the
// relay all is as Debian's is where nothing is set.
func (h *Host) TurnserverRelaying(port uint16, addr string) *Process {
	h.lab.t.Helper()
	return h.turnserver(port, []string{addr}, "--no-auth", "--relay-ip", addr, "--min-port", "49152", "--max-port", "49407")
}

func (h *Host) turnserver(port uint16, addrs []string, more ...string) *Process {
	args := []string{"-n", "--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout",
		"--pidfile", filepath.Join(h.lab.dir, h.Name+"-turnserver.pid"), "--listening-port", strconv.Itoa(int(port))}
	for _, a := range addrs {
		args = append(args, "--listening-ip", a)
	}
	p := h.Start("turnserver", append(args, more...)...)
	h.WaitPort("udp", port, startLimit)
	return p
}

// Ping sends echo requests to an address until one is answered, and gives the
// time that this took.
func (h *Host) Ping(addr string, limit time.Duration) time.Duration {
	h.lab.t.Helper()
	begin := time.Now()
	// -W is the wait for one answer, -i the time between requests.
	Eventually(h.lab.t, limit, "an answer of "+addr+" to "+h.Name, func() error {
		_, err := h.Try("ping", "-n", "-c1", "-W1", addr)
		return err
	})
	return time.Since(begin)
}
