package manifest

import (
	"crypto/sha256"
	"encoding/hex"
)

// Commitment names an input by the SHA-256 of a label, a random salt and the
// input's own SHA-256, so that nobody who has not the salt can try out what the
// input may be. As text it is like a Digest.
type Commitment [sha256.Size]byte

// Salt of a commitment: 32 random bytes; as text, 64 lower-case hexadecimal
// digits.
type Salt [32]byte

const commitmentLabel = "cocos/v1/commitment"

// Commit returns the commitment to an input of the digest. All parts have one
// length, so that they stand without marks between them.
func Commit(salt Salt, input Digest) Commitment {
	b := append([]byte(commitmentLabel), salt[:]...)
	return sha256.Sum256(append(b, input[:]...))
}

func (c Commitment) String() string { return hex.EncodeToString(c[:]) }

// MarshalText is String.
func (c Commitment) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText takes 64 lower-case hexadecimal digits.
func (c *Commitment) UnmarshalText(b []byte) error { return unhex(c[:], b) }

func (s Salt) String() string { return hex.EncodeToString(s[:]) }

// MarshalText is String.
func (s Salt) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes 64 lower-case hexadecimal digits.
func (s *Salt) UnmarshalText(b []byte) error { return unhex(s[:], b) }

// Content is how a manifest names an input: one of the two is not zero.
type Content struct {
	SHA256     Digest
	Commitment Commitment
}

// Content of the algorithm.
func (a *Algorithm) Content() Content { return Content{a.SHA256, a.Commitment} }

// Content of what is uploaded.
func (d *Dataset) Content() Content { return Content{d.SHA256, d.Commitment} }

// Committed tells whether it takes a salt to compare something with it.
func (c Content) Committed() bool { return c.Commitment != (Commitment{}) }

// Is tells whether it names an input of the digest; salt counts where there is a
// commitment.
func (c Content) Is(input Digest, salt Salt) bool {
	if c.Committed() {
		return Commit(salt, input) == c.Commitment
	}
	return input != (Digest{}) && input == c.SHA256
}

func (c Content) String() string {
	if c.Committed() {
		return "commitment " + c.Commitment.String()
	}
	return "sha256 " + c.SHA256.String()
}

func (v *validator) content(path string, c Content) {
	switch {
	case c == (Content{}):
		v.add(path+"/sha256", "is missing or zero; sha256sum prints the right one, or give a /commitment (cocos-cli checksum --commit)")
	case c.SHA256 != (Digest{}) && c.Committed():
		v.add(path+"/commitment", "stands beside sha256; give the one or the other")
	}
}
