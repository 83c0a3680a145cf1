package rendezvous

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// environmentProxy says through which proxy to connect: HTTPS_PROXY and
// NO_PROXY, as curl and Go's own client read them; nil for none.
func environmentProxy(at string) (*url.URL, error) {
	said := httpproxy.FromEnvironment()
	proxy, err := said.ProxyFunc()(&url.URL{Scheme: "https", Host: at})
	if err == nil && proxy == nil && said.HTTPSProxy != "" {
		// The package takes what can't be read for none.
		if _, err = url.Parse(said.HTTPSProxy); err != nil {
			_, err = url.Parse("http://" + said.HTTPSProxy)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read HTTPS_PROXY: %w; it is http://HOST:PORT", err)
	}
	return proxy, nil
}

// proxyAt is the proxy's HOST:PORT.
func proxyAt(proxy *url.URL) string {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"https": "443"}[proxy.Scheme]
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}

// proxyError is what a proxy did, or did not do.
type proxyError struct {
	where   string // HOST:PORT
	between string
	err     error
}

func (e *proxyError) Error() string { return "proxy " + e.where + e.between + e.err.Error() }

func (e *proxyError) Unwrap() error { return e.err }

// Proxy says which proxy, and what it did.
func (e *proxyError) Proxy() (where string, err error) { return e.where, e.err }

// connectThrough asks a proxy for a tunnel to at (CONNECT, RFC 9110 section
// 9.3.6), by the name as it was given: the proxy may know names that we don't.
func connectThrough(ctx context.Context, dial dialFunc, proxy *url.URL, at string) (net.Conn, error) {
	where := proxyAt(proxy)
	if proxy.Scheme != "http" && proxy.Scheme != "https" {
		return nil, fmt.Errorf("proxy %s: its scheme is %q, but only http and https proxies can be used; correct HTTPS_PROXY", where, proxy.Scheme)
	}
	conn, err := dial(ctx, "tcp", where)
	if err != nil {
		return nil, &proxyError{where, ": ", fmt.Errorf("%w; is HTTPS_PROXY right?", err)}
	}
	tuneTCP(conn)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if proxy.Scheme == "https" {
		over := tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
		if err := over.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(&proxyError{where, ": ", fmt.Errorf("TLS with it: %w", err)}, conn.Close())
		}
		conn = over
	}
	tunnel, err := askTunnel(conn, proxy, at)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("it did not answer CONNECT %s: %w", at, ctx.Err())
		}
		return nil, errors.Join(&proxyError{where, " ", err}, conn.Close())
	}
	return tunnel, nil
}

// answerMost bounds a proxy's answer, in bytes of headers.
const answerMost = 64 << 10

func askTunnel(conn net.Conn, proxy *url.URL, at string) (net.Conn, error) {
	ask := "CONNECT " + at + " HTTP/1.1\r\nHost: " + at + "\r\n"
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		ask += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, ask+"\r\n"); err != nil {
		return nil, fmt.Errorf("took no CONNECT %s: %w", at, err)
	}
	bounded := &io.LimitedReader{R: conn, N: answerMost}
	r := bufio.NewReader(bounded)
	answer, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("did not answer CONNECT %s as HTTP: %w", at, err)
	}
	_ = answer.Body.Close() // there is none to CONNECT
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusProxyAuthRequired:
		return nil, fmt.Errorf("answered %s to CONNECT %s; it wants a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@%s", answer.Status, at, proxyAt(proxy))
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		return nil, fmt.Errorf("answered %s to CONNECT %s; it may only allow some hosts, or only port 443", answer.Status, at)
	default:
		return nil, fmt.Errorf("answered %s to CONNECT %s; can it reach that?", answer.Status, at)
	}
	if n := r.Buffered(); n > 0 {
		// TLS's client speaks first, so this is not the coordinator.
		return nil, fmt.Errorf("answered %s to CONNECT %s, and %d bytes that nobody asked for", strings.TrimSpace(answer.Status), at, n)
	}
	return conn, nil
}
