package ops

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const dialTimeout = 5 * time.Second

// Client asks the daemon that runs with a state folder.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient is a client of the daemon in dir. It does nothing yet: a daemon
// that isn't there shows in the first call, as ErrNoDaemon.
func NewClient(dir string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout}
		return d.DialContext(ctx, "unix", filepath.Join(dir, SocketName))
	}
	return &Client{dir: dir, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Call sends in as JSON to path ("/status") and decodes the answer into out;
// either may be nil. The daemon's errors keep their exit code.
func (c *Client) Call(ctx context.Context, path string, in, out any) (err error) {
	body, err := c.post(ctx, path, in)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("read the daemon's answer in %s: %w; are command and daemon of one version?", c.dir, err)
	}
	return nil
}

// Stream sends in as JSON to path and hands every value of the answer to line
// as it comes, until the daemon ends the stream, line returns an error, or ctx
// ends.
func (c *Client) Stream(ctx context.Context, path string, in any, line func(json.RawMessage) error) (err error) {
	body, err := c.post(ctx, path, in)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	dec := json.NewDecoder(bufio.NewReader(body))
	for {
		var s streamed
		switch err := dec.Decode(&s); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("the daemon in %s broke off (%w); did it stop? see its log", c.dir, err)
		case s.Failure != nil:
			return s.Failure.err()
		}
		if err := line(s.Value); err != nil {
			return err
		}
	}
}

func (c *Client) post(ctx context.Context, path string, in any) (io.ReadCloser, error) {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://daemon"+path, &body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	var f failure
	err = json.NewDecoder(resp.Body).Decode(&f)
	if e := resp.Body.Close(); e != nil {
		return nil, e
	}
	if err != nil || f.Error == "" {
		return nil, fmt.Errorf("the daemon in %s answered %s to %s; are command and daemon of one version?", c.dir, resp.Status, path)
	}
	return nil, f.err()
}

// explain says what a request that did not reach the daemon means.
func (c *Client) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("ask the daemon in %s: permission denied; run this as the user that the daemon runs as", c.dir)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w with the state folder %s; start it, or name the right folder with --state", ErrNoDaemon, c.dir)
	}
	return fmt.Errorf("ask the daemon in %s: %w", c.dir, err)
}

func (f *failure) err() error {
	switch f.Exit {
	case ExitUsage:
		return &UsageError{Err: errors.New(f.Error)}
	case ExitNoDaemon:
		return fmt.Errorf("%s%w", f.Error, hidden{ErrNoDaemon})
	}
	return errors.New(f.Error)
}

// hidden keeps what an error is without repeating what it says.
type hidden struct{ error }

func (h hidden) Error() string { return "" }
func (h hidden) Unwrap() error { return h.error }
