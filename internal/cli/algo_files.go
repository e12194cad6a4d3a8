package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/manifest"
)

// beside is a file or folder that is brought with an algorithm.
type beside struct {
	input
	name string // in the manifest; empty: not yet found
}

// openBeside takes the flags --file and --file-salt.
func openBeside(m *manifest.Algorithm, files, salts []string, skip bool) ([]beside, error) {
	saltOf := map[string]string{}
	for _, s := range salts {
		name, file, ok := strings.Cut(s, "=")
		if !ok || name == "" || file == "" {
			return nil, usagef("write NAME=FILE, with the name that the manifest has in /algorithm/files", "--file-salt %q has no name", s)
		}
		saltOf[name] = file
	}
	var all []beside
	for _, s := range files {
		b, path := beside{}, s
		// A name is one of the manifest's: a path may have a '=', too.
		if name, rest, ok := strings.Cut(s, "="); ok {
			if _, known := m.File(name); known {
				b.name, path = name, rest
			}
		}
		var err error
		if b.input, err = openInput(path); err != nil {
			return nil, advise(fmt.Errorf("bringing a file beside the algorithm: %w", err), "write --file PATH or --file NAME=PATH; the manifest has: %s", fileNames(m.Files))
		}
		if err := b.takeSalt(saltOf[b.name]); err != nil {
			return nil, err
		}
		switch f, _ := m.File(b.name); {
		case b.name == "" && skip:
			return nil, usagef("write --file NAME=PATH: only a digest finds it in the manifest", "--file %s has no name beside --skip-check", s)
		case b.name == "":
		default:
			if err := b.fitsSalt("the file "+b.name, f.Content()); err != nil {
				return nil, err
			}
			if slices.ContainsFunc(all, func(o beside) bool { return o.name == b.name }) {
				return nil, usagef("give each file once", "--file %s= is given twice", b.name)
			}
		}
		all = append(all, b)
	}
	for name := range saltOf {
		if !slices.ContainsFunc(all, func(b beside) bool { return b.name == name }) {
			return nil, usagef("write --file "+name+"=PATH, too", "--file-salt is of %q, and no --file has that name", name)
		}
	}
	return all, nil
}

// checkBeside compares files with the manifest, and finds there those that have no
// name yet.
func (a *app) checkBeside(ctx context.Context, m *manifest.Algorithm, all []beside) error {
	for i := range all {
		b := &all[i]
		if f, ok := m.File(b.name); ok {
			if err := a.measure(ctx, &b.input, &f.Size); err != nil {
				return err
			}
			if err := same(&b.input, "the file "+b.name, f.Content(), f.Size); err != nil {
				return err
			}
			continue
		}
		if err := a.measure(ctx, &b.input, nil); err != nil {
			return err
		}
		if err := b.find(m); err != nil {
			return err
		}
	}
	for i, b := range all {
		if slices.ContainsFunc(all[:i], func(o beside) bool { return o.name == b.name }) {
			return usagef("give each file once", "%s is the file %s of the manifest, which another --file is, too", b.path, b.name)
		}
	}
	return nil
}

// find sets the name that the manifest has for a digest.
func (b *beside) find(m *manifest.Algorithm) error {
	var found []manifest.File
	for _, f := range m.Files {
		if b.is(f.Content()) {
			found = append(found, f)
		}
	}
	switch len(found) {
	case 1:
		b.name = found[0].Name
		return same(&b.input, "the file "+b.name, found[0].Content(), found[0].Size)
	case 0:
		return &problem{reason: reasonDigest, field: "/algorithm/files", err: fmt.Errorf("%s has the sha256 %s, and the manifest has no such file beside the algorithm", b.path, b.digest),
			hint: "nothing was sent. Where it has a commitment, write --file NAME=PATH --file-salt NAME=FILE. It has: " + fileExpectations(m.Files)}
	}
	return advise(fmt.Errorf("the manifest has %s as %d files: %s", b.path, len(found), fileNames(found)), "say which, for each: --file NAME=%s", b.path)
}

// notGiven lists the files of the manifest that are not among those given.
func notGiven(m *manifest.Algorithm, given []beside) string {
	return fileNames(slices.DeleteFunc(slices.Clone(m.Files), func(f manifest.File) bool {
		return slices.ContainsFunc(given, func(b beside) bool { return b.name == f.Name })
	}))
}

func fileNames(fs []manifest.File) string {
	s := make([]string, len(fs))
	for i, f := range fs {
		s[i] = f.Name
	}
	return strings.Join(s, ", ")
}

func fileExpectations(fs []manifest.File) string {
	s := make([]string, len(fs))
	for i, f := range fs {
		s[i] = fmt.Sprintf("%s: %s, %d bytes", f.Name, f.Content(), f.Size)
	}
	return strings.Join(s, "; ")
}
