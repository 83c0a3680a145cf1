package agent

import (
	"context"
	"time"

	"rendezvous/internal/ops"
)

// Client asks the agent that runs with a state folder. Its errors are those of
// ops.Client; ops.ErrNoDaemon is one of them.
type Client struct{ ops *ops.Client }

// NewClient is a client of the agent that runs with the state folder dir.
func NewClient(dir string) *Client { return &Client{ops.NewClient(dir)} }

// Status asks how things are.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.ops.Call(ctx, apiStatus, nil, &s)
	return s, err
}

// Ping asks for one probe. That the peer did not answer is in the line's Error.
func (c *Client) Ping(ctx context.Context, peer string) (line PingLine, err error) {
	err = c.ops.Call(ctx, apiPing, peerRequest{peer}, &line)
	return line, err
}

// Explain asks what was tried to reach a peer.
func (c *Client) Explain(ctx context.Context, peer string) (e Explain, err error) {
	err = c.ops.Call(ctx, apiExplain, peerRequest{peer}, &e)
	return e, err
}

// Expose offers a service.
func (c *Client) Expose(ctx context.Context, s Service) error {
	return c.ops.Call(ctx, apiExpose, serviceRequest{Service: s.Name, URL: s.URL()}, nil)
}

// Unexpose takes a service back.
func (c *Client) Unexpose(ctx context.Context, name string) error {
	return c.ops.Call(ctx, apiUnexpose, serviceRequest{Service: name}, nil)
}

// Dial listens for clients of a peer's service.
func (c *Client) Dial(ctx context.Context, d Dial) error {
	return c.ops.Call(ctx, apiDial, serviceRequest{Peer: d.Peer, Service: d.Service, URL: d.URL()}, nil)
}

// Hangup ends a dial: the one at the URL, or the only one where that is empty.
func (c *Client) Hangup(ctx context.Context, peer, service, url string) error {
	return c.ops.Call(ctx, apiHangup, serviceRequest{Peer: peer, Service: service, URL: url}, nil)
}

// Invite makes a join link.
func (c *Client) Invite(ctx context.Context, expires time.Duration) (link string, err error) {
	var answer inviteAnswer
	err = c.ops.Call(ctx, apiInvite, inviteRequest{expires}, &answer)
	return answer.Link, err
}

// Pending lists who waits to be admitted.
func (c *Client) Pending(ctx context.Context) (list []PendingMember, err error) {
	err = c.ops.Call(ctx, apiPending, nil, &list)
	return list, err
}

// Approve admits a member whose key has this fingerprint.
func (c *Client) Approve(ctx context.Context, name, fingerprint string) error {
	return c.ops.Call(ctx, apiApprove, memberRequest{name, fingerprint}, nil)
}

// Revoke removes a member.
func (c *Client) Revoke(ctx context.Context, name string) error {
	return c.ops.Call(ctx, apiRevoke, memberRequest{Name: name}, nil)
}
