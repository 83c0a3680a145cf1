package rendezvous

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// Variables by which this test's binary runs as the client of another run.
const (
	suiteAt   = "RENDEZVOUS_TEST_SUITE_AT"
	suiteCert = "RENDEZVOUS_TEST_SUITE_CERT"
)

// Clients that offer one cipher suite alone are all served on one port, which is
// shared with other programs besides: over TLS by OpenSSL, and over QUIC where
// the processor seems to lack AES, which makes a client put ChaCha20 first.
// S2-11
func TestCipherSuitesOnOnePort(t *testing.T) {
	if at := os.Getenv(suiteAt); at != "" {
		fmt.Println("suite:", suiteOverQUIC(t, at, os.Getenv(suiteCert)))
		return
	}
	c := sharedCoordinator(t, nil)
	cert := writeCertificate(t, newGuest(t, "home").certificate())
	for debug, want := range map[string]string{
		"": "TLS_AES_128_GCM_SHA256", "cpu.aes=off,cpu.pclmulqdq=off": "TLS_CHACHA20_POLY1305_SHA256",
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCipherSuitesOnOnePort$", "-test.v")
		cmd.Env = append(os.Environ(), suiteAt+"="+c.Addrs()[0].String(), suiteCert+"="+cert, "GODEBUG="+debug)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "suite: "+want) {
			t.Errorf("QUIC with GODEBUG=%s: %v: %s; want %s", debug, err, out, want)
		}
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		lacks(t, "openssl is not installed")
	}
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		out, err := exec.CommandContext(ctx, "openssl", "s_client", "-connect", c.tcp(t), "-alpn", ALPNStreams,
			"-ciphersuites", suite, "-cert", cert, "-key", cert, "-servername", "www.example.org").CombinedOutput()
		cancel()
		if !strings.Contains(string(out), "Cipher is "+suite) || !strings.Contains(string(out), "ALPN protocol: "+ALPNStreams) {
			t.Errorf("TLS with %s: %v: %s", suite, err, out)
		}
	}
}

// suiteOverQUIC is what a control connection was sealed with.
func suiteOverQUIC(t *testing.T, at, file string) string {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := quic.DialAddr(t.Context(), at, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPN}, Certificates: []tls.Certificate{cert}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseWithError(0, "") }()
	return tls.CipherSuiteName(conn.ConnectionState().TLS.CipherSuite)
}

// writeCertificate writes certificate and key into one file.
func writeCertificate(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file := filepath.Join(t.TempDir(), "client.pem")
	if err := os.WriteFile(file, both, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
