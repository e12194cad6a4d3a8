package computations

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// What secrets begin with: people and scanners see by it what they have found.
const (
	sessionPrefix    = "cs_"
	tokenPrefix      = "ct_"
	linkPrefix       = "cl_"
	invitationPrefix = "ci_"
	enrolPrefix      = "ce_"
)

const secretBytes = 32

// HashSecret is what is kept of a secret. Secrets are random, so that one round
// of SHA-256 is enough.
func HashSecret(secret string) [32]byte { return sha256.Sum256([]byte(secret)) }

func newSecret(prefix string) (secret string, hash [32]byte) {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	secret = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, HashSecret(secret)
}

// secretOf tells whether a text can be a secret of this kind at all.
func secretOf(prefix, text string) (hash [32]byte, ok bool) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok || len(rest) != base64.RawURLEncoding.EncodedLen(secretBytes) {
		return hash, false
	}
	return HashSecret(text), true
}
