package rendezvous

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// RegistryName is the registry's file in the state folder.
const RegistryName = "registry.db"

// The registry's buckets.
var (
	bucketMeta        = []byte("meta")        // see the keys below
	bucketMembers     = []byte("members")     // name: member
	bucketKeys        = []byte("keys")        // Ed25519 key: name
	bucketInvites     = []byte("invites")     // SHA-256 of the token: invite
	bucketRevocations = []byte("revocations") // Ed25519 key: revocation
	bucketSeen        = []byte("seen")        // address of an online agent: time
	bucketPorts       = []byte("ports")       // public port: Ed25519 key of who has it
	allBuckets        = [...][]byte{bucketMeta, bucketMembers, bucketKeys, bucketInvites, bucketRevocations, bucketSeen, bucketPorts}
)

// Keys of bucketMeta.
var (
	metaSchema  = []byte("schema")
	metaSeed    = []byte("seed")    // of the coordinator's Ed25519 key
	metaHost    = []byte("host")    // HOST:PORT of join links
	metaFounded = []byte("founded") // there once was a first member
)

// schema is the form of the registry that this program reads and writes.
const schema = "1"

// lockWait is how long to wait for another process that has the registry open,
// as `invite` has for a moment.
const lockWait = time.Second

// togetherWithin is how long a change that may share a transaction waits for
// others.
const togetherWithin = 2 * time.Millisecond

// ErrRegistryLocked is what errors.Is finds when another process has the
// registry.
var ErrRegistryLocked = errors.New("another process has it open")

// Registry is who the members of the networks are, and who may become one, in
// one file that survives kill -9: each change is one transaction, on disk
// before anybody hears of it. Its methods may be called from many goroutines.
type Registry struct {
	db   *bbolt.DB
	path string
	key  ed25519.PrivateKey
}

// OpenRegistry opens the registry in the state folder, and makes it with a new
// key of the coordinator where there is none.
func OpenRegistry(dir string) (*Registry, error) {
	return openRegistry(dir, bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType})
}

func openRegistry(dir string, options bbolt.Options) (*Registry, error) {
	path := filepath.Join(dir, RegistryName)
	_, missing := os.Stat(path)
	db, err := bbolt.Open(path, 0o600, &options)
	if err != nil && errors.Is(missing, fs.ErrNotExist) {
		_ = os.Remove(path) // half of a new file would be taken for a damaged one
	}
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open the registry %s: %w; is a coordinator running with this state folder?", path, ErrRegistryLocked)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open the registry %s: permission denied; run this as the user that the coordinator runs as", path)
	case errors.Is(err, syscall.ENOSPC):
		return nil, fmt.Errorf("open the registry %s: %w; free some space there", path, err)
	case err != nil:
		return nil, fmt.Errorf("open the registry %s: %w; if the file is damaged, restore it from a backup: without it every agent must join again", path, err)
	}
	db.MaxBatchDelay = togetherWithin
	r := &Registry{db: db, path: path}
	if err := r.prepare(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return r, nil
}

// complete says whether prepare has nothing to write, and loads the key if so:
// each write waits for the disk, and the programs' start for that.
func (r *Registry) complete() (ok bool) {
	err := r.view(func(tx *bbolt.Tx) error {
		for _, name := range allBuckets {
			if tx.Bucket(name) == nil {
				return nil
			}
		}
		meta, members := tx.Bucket(bucketMeta), tx.Bucket(bucketMembers)
		first, _ := members.Cursor().First()
		seed := meta.Get(metaSeed)
		if ok = string(meta.Get(metaSchema)) == schema && len(seed) == ed25519.SeedSize && (members.Sequence() > 0 || first == nil); ok {
			r.key = ed25519.NewKeyFromSeed(seed)
		}
		return nil
	})
	return ok && err == nil
}

// prepare makes what a new registry lacks, and loads the key.
func (r *Registry) prepare() error {
	if r.complete() {
		return nil
	}
	return r.update("prepare it", func(tx *bbolt.Tx) error {
		for _, name := range allBuckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		// How many there are is kept as the bucket's sequence: to count them
		// takes a walk through all.
		if members := tx.Bucket(bucketMembers); members.Sequence() == 0 {
			if err := members.SetSequence(uint64(members.Stats().KeyN)); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if have := meta.Get(metaSchema); have != nil && string(have) != schema {
			return fmt.Errorf("it was written by a newer version (form %s, this reads %s); run that version", have, schema)
		}
		seed := meta.Get(metaSeed)
		if seed == nil {
			seed = make([]byte, ed25519.SeedSize)
			rand.Read(seed)
			if err := errors.Join(meta.Put(metaSchema, []byte(schema)), meta.Put(metaSeed, seed)); err != nil {
				return err
			}
		}
		if len(seed) != ed25519.SeedSize {
			return fmt.Errorf("the coordinator's key in it has %d bytes, not %d; restore it from a backup", len(seed), ed25519.SeedSize)
		}
		r.key = ed25519.NewKeyFromSeed(seed)
		return nil
	})
}

// Close lets go of the file.
func (r *Registry) Close() error { return r.db.Close() }

// Pin is the pin of the coordinator's key.
func (r *Registry) Pin() ([32]byte, error) { return Pin(r.key.Public().(ed25519.PublicKey)) }

// Host is the HOST:PORT that join links name, empty before SetHost.
func (r *Registry) Host() (host string, err error) {
	err = r.view(func(tx *bbolt.Tx) error {
		host = string(tx.Bucket(bucketMeta).Get(metaHost))
		return nil
	})
	return host, err
}

// SetHost keeps the HOST:PORT that join links name, for `invite` without a
// running coordinator.
func (r *Registry) SetHost(host string) error {
	if have, err := r.Host(); err == nil && have == host {
		return nil
	}
	return r.update("keep the host of join links", func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(metaHost, []byte(host))
	})
}

// StorageError says that the registry could not be written; nothing of the
// change was done.
type StorageError struct {
	Path, What string
	Err        error
}

func (e *StorageError) Error() string {
	return fmt.Sprintf("write the registry %s (%s): %v; is the disk full or read-only?", e.Path, e.What, e.Err)
}

// Unwrap gives the cause.
func (e *StorageError) Unwrap() error { return e.Err }

// update runs change in one transaction. Refusals pass as they are; all else
// is a StorageError, and then nothing was changed.
func (r *Registry) update(what string, change func(*bbolt.Tx) error) error {
	return r.explained(what, r.db.Update(change))
}

// together is update for what many may want at once: they share a transaction,
// and so a write to the disk. change may be called more than once.
func (r *Registry) together(what string, change func(*bbolt.Tx) error) error {
	return r.explained(what, r.db.Batch(change))
}

func (r *Registry) explained(what string, err error) error {
	var refusal *CodeError
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	return &StorageError{Path: r.path, What: what, Err: err}
}

func (r *Registry) view(read func(*bbolt.Tx) error) error {
	err := r.db.View(read)
	var refusal *CodeError
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	return fmt.Errorf("read the registry %s: %w", r.path, err)
}

// get decodes what stands under key; false where nothing does.
func get[T any](b *bbolt.Bucket, key []byte) (v T, ok bool, err error) {
	raw := b.Get(key)
	if raw == nil {
		return v, false, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, false, fmt.Errorf("the entry of %q: %w", key, err)
	}
	return v, true, nil
}

func put(b *bbolt.Bucket, key []byte, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}

// Check says whether the registry can be read, for health checks.
func (r *Registry) Check() error {
	if _, err := os.Stat(r.path); err != nil {
		return fmt.Errorf("the registry is gone: %w", err)
	}
	return r.view(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketMeta).Get(metaSeed) == nil {
			return errors.New("the coordinator's key is gone")
		}
		return nil
	})
}
