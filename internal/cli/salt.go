package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/ultravioletrs/cocos/manifest"
)

// maxSaltFile is more than a salt's digits and a line end, in bytes.
const maxSaltFile = 128

// saltFlag is for those whose input is named by a commitment.
func saltFlag(f *pflag.FlagSet, file *string) {
	f.StringVar(file, "salt", "", "`FILE` with the salt of the commitment by which the manifest names it")
}

// readSalt reads what writeSalt wrote.
func readSalt(file string) (*manifest.Salt, error) {
	b, err := readSmall(file, maxSaltFile)
	if err != nil {
		return nil, fmt.Errorf("reading the salt: %w", err)
	}
	s := new(manifest.Salt)
	if err := s.UnmarshalText([]byte(strings.TrimSpace(string(b)))); err != nil {
		return nil, advise(fmt.Errorf("the salt in %s %w", file, err), "give the very file that cocos-cli checksum --commit wrote")
	}
	return s, nil
}

// newSalt makes a salt and keeps it in a file for its owner alone, or reads the
// one that is there: an input that is committed to again is the same input.
func newSalt(file string) (s *manifest.Salt, made bool, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		s, err = readSalt(file)
		return s, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("writing the salt: %w", err)
	}
	s = new(manifest.Salt)
	_, _ = rand.Read(s[:]) // never fails
	_, err = fmt.Fprintln(f, s)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, false, fmt.Errorf("writing the salt: %w", err)
	}
	return s, true, nil
}

// takeSalt reads the salt of a flag; without one there is none.
func (in *input) takeSalt(file string) (err error) {
	if file != "" {
		in.salt, err = readSalt(file)
	}
	return err
}

// fitsSalt wants a salt where the manifest has a commitment, and nowhere else.
func (in *input) fitsSalt(what string, c manifest.Content) error {
	switch {
	case c.Committed() && in.salt == nil:
		return usagef("give the file that cocos-cli checksum --commit wrote beside it", "the manifest names %s by a commitment, and --salt is missing", what)
	case !c.Committed() && in.salt != nil:
		return usagef("leave --salt out", "the manifest names %s by its sha256: there is no salt", what)
	}
	return nil
}

// is tells whether the manifest means in.
func (in *input) is(c manifest.Content) bool {
	if c.Committed() != (in.salt != nil) {
		return false
	}
	return c.Is(in.digest, in.saltValue())
}

func (in *input) saltValue() (s manifest.Salt) {
	if in.salt != nil {
		s = *in.salt
	}
	return s
}

// saltBytes is what travels.
func (in *input) saltBytes() []byte {
	if in.salt == nil {
		return nil
	}
	return in.salt[:]
}
