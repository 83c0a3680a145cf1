package rendezvous

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"time"

	"go.etcd.io/bbolt"

	"rendezvous/proto"
)

// Bounds of invites. A member may do less than who runs the coordinator.
const (
	DefaultExpiry   = 24 * time.Hour
	MinExpiry       = time.Minute
	MaxExpiry       = 30 * 24 * time.Hour
	MaxUses         = 10000
	maxMemberUses   = 100
	maxMemberExpiry = 7 * 24 * time.Hour
	maxInvites      = 10000
)

// invite is an enrolment token's entry. The token itself is nowhere: who
// reads the file can't enrol with it.
type invite struct {
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"` // left
	By      string    `json:"by"`   // the member who made it; empty: the coordinator
}

// CreateInvite makes a token with which uses agents can enrol until it
// expires. by is the member who asks, empty when the coordinator's operator
// does. Who holds a member's link has the network's secret too, so they are
// admitted at once; who holds a coordinator's link must be approved.
func (r *Registry) CreateInvite(now time.Time, expires time.Duration, uses int, by string) (token [16]byte, err error) {
	rand.Read(token[:])
	hash := sha256.Sum256(token[:])
	err = r.update("an invite", func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketInvites)
		if err := dropExpired(b, now); err != nil {
			return err
		}
		if b.Stats().KeyN >= maxInvites {
			return refusef(proto.Code_CODE_LIMITED, "there are %d open invites, the limit; wait until some expire", maxInvites)
		}
		return put(b, hash[:], invite{Expires: now.Add(expires), Uses: uses, By: by})
	})
	return token, err
}

// dropExpired forgets invites that have been expired for a while. In the
// meantime their holders read "expired" instead of "unknown".
func dropExpired(b *bbolt.Bucket, now time.Time) error {
	var old [][]byte
	err := b.ForEach(func(hash, _ []byte) error {
		v, _, err := get[invite](b, hash)
		if err == nil && now.Sub(v.Expires) > MaxExpiry {
			old = append(old, bytes.Clone(hash))
		}
		return err
	})
	for _, hash := range old {
		if err == nil {
			err = b.Delete(hash)
		}
	}
	return err
}

// useInvite takes one use of the token.
func useInvite(tx *bbolt.Tx, now time.Time, token []byte) (invite, error) {
	b := tx.Bucket(bucketInvites)
	hash := sha256.Sum256(token)
	v, ok, err := get[invite](b, hash[:])
	switch {
	case err != nil:
		return v, err
	case !ok:
		return v, refusef(proto.Code_CODE_INVITE_UNKNOWN, "the coordinator does not know this invite; ask for a new join link")
	case !now.Before(v.Expires):
		return v, refusef(proto.Code_CODE_INVITE_EXPIRED, "this invite expired at %s; ask for a new join link", v.Expires.UTC().Format(time.RFC3339))
	case v.Uses <= 0:
		return v, refusef(proto.Code_CODE_INVITE_USED_UP, "this invite has been used as often as it may be; ask for a new join link")
	}
	v.Uses--
	return v, put(b, hash[:], v)
}
