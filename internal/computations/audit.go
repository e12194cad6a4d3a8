package computations

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"time"
)

// AuditEntry says who did what. Entries are only ever appended; each has the
// hash of the one before.
type AuditEntry struct {
	// Sequence counts from 1, without gaps, over the whole service.
	Sequence int64
	// At in microseconds, which every database keeps.
	At time.Time
	// Workspace is empty for what concerns the service as a whole.
	Workspace ID
	// Actor is the user; empty for the service itself, and for a sign-in that
	// failed.
	Actor ID
	// Action is an Action, or one of the service's own words such as
	// "sign-in.failed".
	Action string
	// Object is the ID of what it was done to.
	Object ID
	// Detail is more of it, for people and programs; no secrets.
	Detail map[string]string
	// Previous is the Hash of the entry before; zero for the first.
	Previous [32]byte
	Hash     [32]byte
	// Email is the actor's, for lists; not part of the hash.
	Email string
}

// Sum is what Hash must be: SHA-256 over all that the entry says and the hash of
// the one before, each text after its length, so that no two entries have the
// same bytes.
func (e *AuditEntry) Sum() [32]byte {
	b := appendText(nil, "cocos/v1/audit")
	b = append(b, e.Previous[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Sequence))
	b = binary.BigEndian.AppendUint64(b, uint64(e.At.UnixMicro()))
	for _, text := range []string{string(e.Workspace), string(e.Actor), e.Action, string(e.Object)} {
		b = appendText(b, text)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Detail)))
	for _, name := range slices.Sorted(maps.Keys(e.Detail)) {
		b = appendText(appendText(b, name), e.Detail[name])
	}
	return sha256.Sum256(b)
}

func appendText(b []byte, text string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...)
}
