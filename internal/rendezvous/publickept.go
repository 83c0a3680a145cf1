package rendezvous

import (
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// keptPorts is who had which port before the coordinator started: for a while
// nobody else gets it, or a restart would hand a port to whoever asks first.
// publicPorts.changing guards it.
type keptPorts struct {
	until  time.Time
	owners map[publicKey]Key
}

// restore reads who had which port; now is when the coordinator started.
func (p *publicPorts) restore(now time.Time) {
	p.changing.Lock()
	defer p.changing.Unlock()
	owners, err := p.server.registry.portOwners()
	if err != nil {
		p.server.log.Error().Err(err).Msg("public ports of before the restart; they go to who asks first")
	}
	p.kept = keptPorts{now.Add(publicGrace), owners}
}

// keptFor says why the port is not the member's to have, if it waits for
// another one. publicPorts.changing is held.
func (p *publicPorts) keptFor(now time.Time, port publicKey, asks Key) error {
	owner, ok := p.kept.owners[port]
	if !ok || owner == asks || !now.Before(p.kept.until) {
		return nil
	}
	had, err := p.server.registry.ByKey(owner)
	if err != nil {
		return nil // it is no member any more
	}
	return fmt.Errorf("%v is kept for %q, who had it before the coordinator was restarted; choose another port, or wait %v", port, had.Name, publicGrace)
}

// keep writes down whose the port is, if that is new; nil: nobody's.
// publicPorts.changing is held.
func (p *publicPorts) keep(port publicKey, owner *Key) {
	had, ok := p.kept.owners[port]
	if owner == nil && !ok || owner != nil && ok && *owner == had {
		return
	}
	if owner == nil {
		delete(p.kept.owners, port)
	} else {
		p.kept.owners[port] = *owner
	}
	if err := p.server.registry.keepPort(port, owner); err != nil {
		p.server.log.Error().Err(err).Stringer("port", port).Msg("write down whose a public port is; after a restart it goes to who asks first")
	}
}

// forgetKept frees the ports of those who did not come back in time.
func (p *publicPorts) forgetKept(now time.Time) {
	p.changing.Lock()
	defer p.changing.Unlock()
	if p.kept.until.IsZero() || now.Before(p.kept.until) || p.closed {
		return
	}
	p.kept.until = time.Time{}
	p.mu.Lock()
	var gone []publicKey
	for key := range p.kept.owners {
		if p.ports[key] == nil {
			gone = append(gone, key)
		}
	}
	p.mu.Unlock()
	for _, key := range gone {
		p.keep(key, nil)
	}
}

// keepPort writes whose a public port is; nil: nobody's.
func (r *Registry) keepPort(port publicKey, owner *Key) error {
	return r.update("whose a public port is", func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketPorts)
		if owner == nil {
			return b.Delete([]byte(port.String()))
		}
		return b.Put([]byte(port.String()), owner[:])
	})
}

// portOwners gives whose public ports are.
func (r *Registry) portOwners() (map[publicKey]Key, error) {
	owners := map[publicKey]Key{}
	err := r.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketPorts).ForEach(func(k, v []byte) error {
			var transport string
			var port publicKey
			if _, err := fmt.Sscanf(string(k), "%s %d", &transport, &port.number); err != nil || len(v) != len(Key{}) {
				return nil // of a later version
			}
			port.tcp = transport == "TCP"
			owners[port] = Key(v)
			return nil
		})
	})
	return owners, err
}
