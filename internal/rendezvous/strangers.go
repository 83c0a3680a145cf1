package rendezvous

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"
)

// strangers get a page by HTTP, whatever they came with, and are sent away.
type strangers struct {
	server *http.Server
	conns  *handed
}

// Bounds for strangers.
const (
	pageWithin  = 10 * time.Second
	pageHeaders = 8 << 10
)

func newStrangers() *strangers {
	s := &strangers{conns: &handed{next: make(chan net.Conn), done: make(chan struct{})}}
	s.server = &http.Server{
		Handler:           http.HandlerFunc(page),
		ReadHeaderTimeout: pageWithin,
		ReadTimeout:       pageWithin,
		WriteTimeout:      pageWithin,
		IdleTimeout:       pageWithin,
		MaxHeaderBytes:    pageHeaders,
		ErrorLog:          log.New(io.Discard, "", 0), // what strangers do wrong fills no log
	}
	s.server.SetKeepAlivesEnabled(false)
	return s
}

// page is all that a browser sees of a coordinator.
func page(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, "<!doctype html><title>It works</title><p>It works.</p>\n") // the browser is gone, if anything
}

// run serves until close.
func (s *strangers) run() { _ = s.server.Serve(s.conns) }

// serve answers on conn and returns when it is closed.
func (s *strangers) serve(conn net.Conn) {
	c := &handedConn{Conn: conn, closed: make(chan struct{})}
	select {
	case s.conns.next <- c:
		<-c.closed // the server's timeouts bound that
	case <-s.conns.done:
	}
}

func (s *strangers) close() {
	_ = s.conns.Close()
	_ = s.server.Close()
}

// handed is a listener whose connections were accepted elsewhere.
type handed struct {
	next chan net.Conn
	done chan struct{}
	once sync.Once
}

// Accept is that of net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.next:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close is that of net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr is that of net.Listener.
func (h *handed) Addr() net.Addr { return &net.TCPAddr{} }

// handedConn tells when it is closed.
type handedConn struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

// Close is that of net.Conn.
func (c *handedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

// pageCertificate is one for browsers, which only ask whether to trust it.
func pageCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key for browsers: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.Unix()),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    now.AddDate(0, -1, 0),
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign a certificate for browsers: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
