package collateral

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// Dir is a source without a network: a directory that Fetch filled.
func Dir(dir string) attest.EndorsementSource { return directory(dir) }

type directory string

// Endorse implements attest.EndorsementSource.
func (d directory) Endorse(_ context.Context, e attest.Evidence) (attest.Endorsements, error) {
	items, err := wanted(e)
	if err != nil {
		return attest.Endorsements{}, fmt.Errorf("looking into %s: %w", d, err)
	}
	var all attest.Endorsements
	var lacking []string
	var problems []error
	for _, first := range items {
		var found *entry
		for it := &first; it != nil && found == nil; it = it.or {
			found, err = d.read(*it)
			if err != nil {
				problems = append(problems, err)
			}
		}
		if found == nil {
			lacking = append(lacking, first.file)
			continue
		}
		all = all.With(found.Endorsements)
	}
	if len(lacking) > 0 {
		problems = append(problems, fmt.Errorf("%s has no %s", d, strings.Join(lacking, ", ")))
	}
	return all, errors.Join(problems...)
}

// entry is a file of a cache, read.
type entry struct {
	attest.Endorsements
	written time.Time
	until   time.Time // zero: it does not say
}

// read returns nil where there is no such file.
func (d directory) read(it item) (*entry, error) {
	name := filepath.Join(string(d), it.file)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	e, err := it.open(b)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return &entry{Endorsements: e, written: info.ModTime(), until: until(e)}, nil
}

// open reads a file's content.
func (it *item) open(b []byte) (attest.Endorsements, error) {
	e, err := parse(b)
	if err == nil {
		err = it.check(e)
	}
	return e, err
}

// write puts b in its place at once, so that whoever reads has the old file or
// the new.
func (d directory) write(it item, b []byte, at time.Time) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(string(d), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // once it has its name there is nothing left here
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Chtimes(f.Name(), at, at); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(string(d), it.file))
}
