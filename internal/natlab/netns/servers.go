//go:build linux

package netns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Certificate makes a self-signed certificate for names, good for servers and
// clients, and gives the files of it and of its key.
func (l *Lab) Certificate(names ...string) (cert, key string) {
	l.t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.t.Fatalf("make a key: %v", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pair.Public(), pair)
	if err != nil {
		l.t.Fatalf("sign a certificate: %v", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		l.t.Fatalf("write a key: %v", err)
	}
	cert = l.file(names[0]+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = l.file(names[0]+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return cert, key
}

// file writes a file that only its owner may read, into the lab's folder.
func (l *Lab) file(name string, content []byte) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		l.t.Fatalf("write a file of the lab: %v", err)
	}
	return path
}

// Nginx starts a web server for TLS at an address. It answers with the client's
// address, which it takes from a PROXY header where that is expected.
func (h *Host) Nginx(at string, proxy bool, name string) *Process {
	h.lab.t.Helper()
	dir := filepath.Join(h.lab.dir, h.Name+"-nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.lab.t.Fatalf("make a folder for nginx: %v", err)
	}
	cert, key := h.lab.Certificate(name)
	option, client := "", "$remote_addr"
	if proxy {
		option, client = " proxy_protocol", "$proxy_protocol_addr"
	}
	conf := h.lab.file(h.Name+"-nginx.conf", fmt.Appendf(nil, `daemon off; user root; pid %[1]s/pid; error_log stderr; worker_processes 1;
events { worker_connections 256; }
http {
 access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy;
 fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
 server {
  listen %[2]s ssl http2%[3]s; ssl_certificate %[4]s; ssl_certificate_key %[5]s;
  location / { default_type text/plain; return 200 "website %[6]s\n"; }
 }
}
`, dir, at, option, cert, key, client))
	p := h.Start("nginx", "-p", dir, "-c", conf)
	h.WaitPort("tcp", netip.MustParseAddrPort(at).Port(), startLimit)
	return p
}

// SSHD starts OpenSSH's server at an address, and gives the options by which
// ssh enters there as root: a key, and nothing that asks.
func (h *Host) SSHD(at string) (p *Process, options []string) {
	h.lab.t.Helper()
	dir := h.lab.dir
	host, user := filepath.Join(dir, h.Name+"-sshd.host"), filepath.Join(dir, h.Name+"-sshd.user")
	for _, f := range []string{host, user} {
		h.Run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // compiled into Debian's
		h.lab.t.Fatalf("make sshd's folder: %v", err)
	}
	conf := h.lab.file(h.Name+"-sshd.conf", fmt.Appendf(nil, `ListenAddress %s
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp internal-sftp
`, at, host, user))
	p = h.Start("/usr/sbin/sshd", "-D", "-e", "-f", conf)
	h.WaitPort("tcp", netip.MustParseAddrPort(at).Port(), startLimit)
	return p, []string{"-i", user, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"}
}

// VPN is one OpenVPN between two ends, with a pair of addresses of its own.
type VPN struct {
	Server, Client string // addresses in it
	args           []string
	proto          string
	lab            *Lab
}

// OpenVPN prepares a tunnel over "udp" or "tcp": its number chooses the
// addresses; crypt says whether its control channel goes by --tls-crypt.
func (l *Lab) OpenVPN(number int, proto string, crypt bool) *VPN {
	l.t.Helper()
	name := fmt.Sprintf("vpn%d", number)
	cert, key := l.Certificate(name)
	v := &VPN{Server: fmt.Sprintf("10.77.%d.1", number), Client: fmt.Sprintf("10.77.%d.2", number), proto: proto, lab: l}
	v.args = []string{"--dev", fmt.Sprintf("tun%d", number), "--dev-type", "tun", "--ca", cert, "--cert", cert, "--key", key,
		"--cipher", "AES-256-GCM", "--auth", "SHA256", "--verb", "3", "--connect-retry", "1", "--hand-window", "20",
		"--ping", "2", "--ping-restart", "20"}
	if crypt {
		file := filepath.Join(l.dir, name+".tls-crypt")
		if len(l.hosts) == 0 {
			l.t.Fatalf("a VPN wants hosts")
		}
		l.hosts[0].Run("openvpn", "--genkey", "secret", file)
		v.args = append(v.args, "--tls-crypt", file)
	}
	return v
}

// Serve starts the server's end at an address.
func (v *VPN) Serve(h *Host, at netip.AddrPort) *Process {
	v.lab.t.Helper()
	args := append([]string{"--tls-server", "--dh", "none", "--ifconfig", v.Server, v.Client,
		"--local", at.Addr().String(), "--lport", fmt.Sprint(at.Port())}, v.args...)
	proto := v.proto
	if proto == "tcp" {
		proto = "tcp-server"
	}
	p := h.Start("openvpn", append(args, "--proto", proto)...)
	h.WaitPort(v.proto, at.Port(), startLimit)
	return p
}

// Dial starts the client's end, and waits until both ends have agreed.
func (v *VPN) Dial(h *Host, to netip.AddrPort) *Process {
	v.lab.t.Helper()
	p := v.Start(h, to)
	p.WaitLog("Initialization Sequence Completed", 4*startLimit)
	return p
}

// Start is Dial without the waiting.
func (v *VPN) Start(h *Host, to netip.AddrPort) *Process {
	v.lab.t.Helper()
	args := append([]string{"--tls-client", "--nobind", "--ifconfig", v.Client, v.Server,
		"--remote", to.Addr().String(), fmt.Sprint(to.Port())}, v.args...)
	proto := v.proto
	if proto == "tcp" {
		proto = "tcp-client"
	}
	return h.Start("openvpn", append(args, "--proto", proto)...)
}
