//go:build linux

package main

import (
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"rendezvous/internal/rendezvous"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// member is who an agent is. It follows from its number, so that no process has
// to tell another.
type member struct {
	number int
	name   string
	id     seal.Identity
	cert   tls.Certificate
}

func newMember(number int) (member, error) {
	seed := sha512.Sum512(binary.BigEndian.AppendUint64([]byte("throng"), uint64(number)))
	m := member{number: number, name: fmt.Sprintf("agent-%d", number)}
	if err := m.id.UnmarshalBinary(seed[:seal.IdentitySize]); err != nil {
		return m, err
	}
	var err error
	m.cert, err = m.id.Certificate()
	m.cert.Leaf = nil // thousands of them are not needed
	return m, err
}

// record is the membership record, signed anew each time, as agents do.
func (m *member) record() (*proto.Signed, error) {
	body, err := proto.Marshal(&proto.Record{Name: m.name, Key: m.id.Key(), StaticKey: m.id.StaticKey(), MadeUnix: time.Now().Unix()})
	if err != nil {
		return nil, err
	}
	var secret seal.Secret // of the network; the coordinator does not know it
	return seal.Sign(m.id, &secret, seal.ContextMember, body), nil
}

func (m *member) enrol(r *rendezvous.Registry, token []byte) error {
	record, err := m.record()
	if err != nil {
		return err
	}
	_, err = r.Enrol(time.Now(), rendezvous.Key(m.id.Key()), &proto.Enrol{Token: token, Name: m.name, StaticKey: m.id.StaticKey(), Record: record})
	return err
}

// enrolAtOnce is how many share a write of the registry's.
const enrolAtOnce = 1000

// enrolAll makes members number 0 to count-1, all but the first by its invites.
func enrolAll(r *rendezvous.Registry, count int) error {
	by := ""
	for from := 0; from < count; {
		to := min(from+rendezvous.MaxUses, count)
		if by == "" {
			to = 1
		}
		token, err := r.CreateInvite(time.Now(), time.Hour, rendezvous.MaxUses, by)
		if err != nil {
			return err
		}
		var tasks errgroup.Group
		tasks.SetLimit(enrolAtOnce)
		for n := from; n < to; n++ {
			tasks.Go(func() error {
				m, err := newMember(n)
				if err != nil {
					return err
				}
				return m.enrol(r, token[:])
			})
		}
		if err := tasks.Wait(); err != nil {
			return err
		}
		from, by = to, "agent-0"
	}
	return nil
}
