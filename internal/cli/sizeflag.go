package cli

import (
	"github.com/spf13/pflag"

	"github.com/ultravioletrs/cocos/internal/bytesize"
)

// sizeFlag adds a flag for a number of bytes, which may have a unit.
func sizeFlag(f *pflag.FlagSet, to *int64, name, usage string) {
	f.Var((*sizeValue)(to), name, usage)
}

type sizeValue int64

// Type of the value, which help shows.
func (*sizeValue) Type() string { return "SIZE" }

// Set takes what was given.
func (s *sizeValue) Set(text string) error {
	n, err := bytesize.Parse(text)
	*s = sizeValue(n)
	return err
}

// String is the default that help shows: none for zero, which pflag knows by "0".
func (s *sizeValue) String() string { return bytesize.Exact(int64(*s)) }
