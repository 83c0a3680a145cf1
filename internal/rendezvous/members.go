package rendezvous

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"rendezvous/internal/seal"
	"rendezvous/proto"
)

const (
	maxName        = 63 // a label of the DNS (RFC 1035 section 2.3.4)
	maxMembers     = 1_000_000
	maxRevocations = 10000
)

// member is an agent's entry in the registry.
type member struct {
	Name      string    `json:"name"`
	Key       []byte    `json:"key"`        // Ed25519
	StaticKey []byte    `json:"static_key"` // X25519
	Record    []byte    `json:"record"`     // proto.Signed of a proto.Record
	Founder   bool      `json:"founder"`    // it was the first, and makes the network's secret
	Admitted  bool      `json:"admitted"`   // founder, joined by a member's link, or approved by a member
	Admission []byte    `json:"admission"`  // proto.Admitted that the agent has yet to fetch
	Enrolled  time.Time `json:"enrolled"`
}

// revocation is the entry of a key that was removed.
type revocation struct {
	Name   string    `json:"name"`
	Signed []byte    `json:"signed"` // proto.Signed of a proto.RevocationBody
	At     time.Time `json:"at"`
}

// message is m for other agents.
func (m *member) message(online bool) (*proto.Member, error) {
	record := new(proto.Signed)
	if err := proto.Unmarshal(m.Record, record); err != nil {
		return nil, err
	}
	return &proto.Member{Name: m.Name, Key: m.Key, StaticKey: m.StaticKey, Record: record, Online: online}, nil
}

// nameForm says what isName wants.
const nameForm = "1 to 63 of a-z, 0-9 and -, not beginning or ending with -"

// isName says whether an agent may have that name.
func isName(name string) bool {
	ok := len(name) > 0 && len(name) <= maxName && name[0] != '-' && name[len(name)-1] != '-'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	return ok
}

// CheckName says what is wrong with the name that an agent wants to have.
func CheckName(name string) error {
	if !isName(name) {
		return refusef(proto.Code_CODE_NAME_INVALID, "%.80q is no name for an agent: %s; choose another with --name", name, nameForm)
	}
	return nil
}

// checkRecord says whether key signed the record, and that it says what it
// must. That its author knows the network's secret only members can check.
func checkRecord(key Key, name string, static []byte, record *proto.Signed) error {
	if err := seal.Verify(record, nil, seal.ContextMember, key[:]); err != nil {
		return refusef(proto.Code_CODE_BAD_REQUEST, "the membership record of %q: %v", name, err)
	}
	var r proto.Record
	if err := proto.Unmarshal(record.GetBody(), &r); err != nil {
		return refusef(proto.Code_CODE_BAD_REQUEST, "the membership record of %q can't be read", name)
	}
	if r.GetName() != name || !bytes.Equal(r.GetKey(), key[:]) || !bytes.Equal(r.GetStaticKey(), static) || len(static) != len(key) {
		return refusef(proto.Code_CODE_BAD_REQUEST, "the membership record of %q names another name or key than its sender", name)
	}
	return nil
}

// Enrol makes key a member by an invite. The same key with the same name
// enrols as often as it likes, without an invite's use: its first answer may
// have been lost.
func (r *Registry) Enrol(now time.Time, key Key, e *proto.Enrol) (member, error) {
	if err := CheckName(e.GetName()); err != nil {
		return member{}, err
	}
	if err := checkRecord(key, e.GetName(), e.GetStaticKey(), e.GetRecord()); err != nil {
		return member{}, err
	}
	record, err := proto.Marshal(e.GetRecord())
	if err != nil {
		return member{}, err
	}
	var m member
	err = r.together("a new member", func(tx *bbolt.Tx) error {
		known, err := findKey(tx, key)
		if err == nil {
			m = known
			return again(known, e)
		}
		if code := asCode(err); code.Code != proto.Code_CODE_NOT_ENROLLED {
			return err
		}
		m = member{
			Name: e.GetName(), Key: key[:], StaticKey: e.GetStaticKey(), Record: record, Enrolled: now.UTC(),
		}
		return addMember(tx, now, &m, e.GetToken())
	})
	return m, err
}

// again answers an agent that is enrolled already.
func again(known member, e *proto.Enrol) error {
	if known.Name != e.GetName() || !bytes.Equal(known.StaticKey, e.GetStaticKey()) {
		return refusef(proto.Code_CODE_BAD_REQUEST,
			"this agent is already a member, as %q; join by that name, or as a new agent with an empty state folder", known.Name)
	}
	return nil
}

func addMember(tx *bbolt.Tx, now time.Time, m *member, token []byte) error {
	members, meta := tx.Bucket(bucketMembers), tx.Bucket(bucketMeta)
	if members.Get([]byte(m.Name)) != nil {
		return refusef(proto.Code_CODE_NAME_TAKEN,
			"another agent is called %q; choose another name with --name, or remove the other one with `agent revoke %s`", m.Name, m.Name)
	}
	count := members.Sequence()
	if count >= maxMembers {
		return refusef(proto.Code_CODE_LIMITED, "the coordinator has %d members, its limit", maxMembers)
	}
	by, err := useInvite(tx, now, token)
	if err != nil {
		return err
	}
	m.Founder = meta.Get(metaFounded) == nil
	m.Admitted = m.Founder || by.By != ""
	if m.Founder {
		if err := meta.Put(metaFounded, []byte(m.Name)); err != nil {
			return err
		}
	}
	if err := errors.Join(tx.Bucket(bucketKeys).Put(m.Key, []byte(m.Name)), members.SetSequence(count+1)); err != nil {
		return err
	}
	return put(members, []byte(m.Name), m)
}

// ByKey is the member that has the key. Its refusals are NOT_ENROLLED and
// REVOKED.
func (r *Registry) ByKey(key Key) (m member, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		m, err = findKey(tx, key)
		return err
	})
	return m, err
}

func findKey(tx *bbolt.Tx, key Key) (member, error) {
	if tx.Bucket(bucketRevocations).Get(key[:]) != nil {
		return member{}, refusef(proto.Code_CODE_REVOKED, "this agent was removed from the network; to come back it must join as a new one, with an empty state folder and a new link")
	}
	name := tx.Bucket(bucketKeys).Get(key[:])
	if name == nil {
		return member{}, refusef(proto.Code_CODE_NOT_ENROLLED, "the coordinator does not know this agent; join with a join link first")
	}
	return findName(tx, string(name))
}

// ByName is the member of that name. Its refusal is NO_SUCH_PEER.
func (r *Registry) ByName(name string) (m member, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		m, err = findName(tx, name)
		return err
	})
	return m, err
}

func findName(tx *bbolt.Tx, name string) (member, error) {
	m, ok, err := get[member](tx.Bucket(bucketMembers), []byte(name))
	if err == nil && !ok {
		err = refusef(proto.Code_CODE_NO_SUCH_PEER, "no agent is called %.80q in this network; `agent status` on the other host shows its name", name)
	}
	return m, err
}

// Members are all, by name.
func (r *Registry) Members() (all []member, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMembers)
		return b.ForEach(func(name, _ []byte) error {
			m, _, err := get[member](b, name)
			all = append(all, m)
			return err
		})
	})
	return all, err
}

// recordAge is by how much a record must be newer than the one that is kept, to
// be kept in its place though it says the same.
const recordAge = 24 * time.Hour

// sameRecord says whether two records of a member say the same at about the
// same time. Agents sign theirs anew each time they register.
func sameRecord(kept, fresh *proto.Signed) bool {
	var a, b proto.Record
	if proto.Unmarshal(kept.GetBody(), &a) != nil || proto.Unmarshal(fresh.GetBody(), &b) != nil {
		return false
	}
	apart := time.Duration(b.GetMadeUnix()-a.GetMadeUnix()) * time.Second
	return a.GetName() == b.GetName() && bytes.Equal(a.GetKey(), b.GetKey()) && bytes.Equal(a.GetStaticKey(), b.GetStaticKey()) &&
		apart.Abs() < recordAge && (len(kept.GetMac()) > 0) == (len(fresh.GetMac()) > 0)
}

// KeepRecord keeps a newer record of a member, and forgets the admission that
// waited for it once the record shows that the secret has arrived. What is on
// disk serves for members that are offline, so not each registration is worth a
// write: after a restart of the coordinator all come at once.
func (r *Registry) KeepRecord(m member, record *proto.Signed) error {
	raw, err := proto.Marshal(record)
	if err != nil {
		return err
	}
	arrived := m.Admission != nil && len(record.GetMac()) > 0
	kept := new(proto.Signed)
	if !arrived && proto.Unmarshal(m.Record, kept) == nil && sameRecord(kept, record) {
		return nil
	}
	return r.together("the record of "+m.Name, func(tx *bbolt.Tx) error {
		now, err := findName(tx, m.Name)
		if err != nil || !bytes.Equal(now.Key, m.Key) {
			return err // removed meanwhile
		}
		now.Record = raw
		if len(record.GetMac()) > 0 {
			now.Admission = nil
		}
		return put(tx.Bucket(bucketMembers), []byte(now.Name), now)
	})
}

// Approve admits a pending member; admission is kept until its agent shows
// that it has it.
func (r *Registry) Approve(by member, name string, key []byte, admission *proto.Admitted) error {
	raw, err := proto.Marshal(admission)
	if err != nil {
		return err
	}
	return r.update("the approval of "+name, func(tx *bbolt.Tx) error {
		if err := mustBeAdmitted(tx, by); err != nil {
			return err
		}
		m, err := findName(tx, name)
		if err != nil {
			return err
		}
		if !bytes.Equal(m.Key, key) {
			return refusef(proto.Code_CODE_KEY_CHANGED, "%q has another key now than the one approved; look at `agent pending` again", name)
		}
		m.Admitted, m.Admission = true, raw
		return put(tx.Bucket(bucketMembers), []byte(name), m)
	})
}

// mustBeAdmitted looks again inside the transaction: by may be gone by now.
func mustBeAdmitted(tx *bbolt.Tx, by member) error {
	m, err := findName(tx, by.Name)
	if err != nil {
		return err
	}
	if !bytes.Equal(m.Key, by.Key) || !m.Admitted {
		return refusef(proto.Code_CODE_BAD_REQUEST, "%q waits to be approved itself; ask another member", by.Name)
	}
	return nil
}

// Revoke removes the member that the revocation names. Doing it twice is fine.
func (r *Registry) Revoke(now time.Time, by member, signed *proto.Signed, body *proto.RevocationBody) error {
	raw, err := proto.Marshal(signed)
	if err != nil {
		return err
	}
	return r.update("the revocation of "+body.GetName(), func(tx *bbolt.Tx) error {
		if err := mustBeAdmitted(tx, by); err != nil {
			return err
		}
		revoked := tx.Bucket(bucketRevocations)
		if revoked.Get(body.GetKey()) != nil {
			return nil
		}
		m, err := findName(tx, body.GetName())
		if err != nil {
			return err
		}
		if !bytes.Equal(m.Key, body.GetKey()) {
			return refusef(proto.Code_CODE_KEY_CHANGED, "%q has another key than the one to be removed", m.Name)
		}
		if revoked.Stats().KeyN >= maxRevocations {
			return refusef(proto.Code_CODE_LIMITED, "the coordinator has %d revocations, its limit", maxRevocations)
		}
		members := tx.Bucket(bucketMembers)
		if err := errors.Join(members.Delete([]byte(m.Name)), members.SetSequence(members.Sequence()-1)); err != nil {
			return err
		}
		if err := tx.Bucket(bucketKeys).Delete(m.Key); err != nil {
			return err
		}
		return put(revoked, m.Key, revocation{Name: m.Name, Signed: raw, At: now.UTC()})
	})
}

// Revocations are all, oldest first.
func (r *Registry) Revocations() ([]*proto.Revocation, error) {
	var all []revocation
	err := r.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRevocations)
		return b.ForEach(func(key, _ []byte) error {
			v, _, err := get[revocation](b, key)
			all = append(all, v)
			return err
		})
	})
	// Oldest first: who revoked another may have been revoked since.
	slices.SortStableFunc(all, func(a, b revocation) int { return a.At.Compare(b.At) })
	out := make([]*proto.Revocation, 0, len(all))
	for _, v := range all {
		signed := new(proto.Signed)
		if err := proto.Unmarshal(v.Signed, signed); err == nil {
			out = append(out, &proto.Revocation{Signed: signed})
		}
	}
	return out, err
}
