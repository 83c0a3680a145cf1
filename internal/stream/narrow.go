package stream

import "rendezvous/internal/path"

// rule is the kinds of path that may carry the connection.
func (c *conn) rule() path.Kinds {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.request.Only
}

// narrow has a connection that never was try again under the rule of the
// service that refused it, and says whether it does. Nothing is lost: none of
// what the client said was acknowledged.
func (c *conn) narrow(why *RefusedError) bool {
	c.mu.Lock()
	only, ok := c.request.Only.Narrow(why.Only)
	if !ok || why.Only == 0 || only == c.request.Only || c.dialing == nil || c.dialing.known || c.state != running {
		c.mu.Unlock()
		return false
	}
	c.request.Only = only
	r := c.request
	c.detach()
	c.mu.Unlock()
	if c.of.cfg.Narrowed != nil {
		c.of.cfg.Narrowed(r)
	}
	c.dialing.look()
	return true
}
