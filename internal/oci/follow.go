package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Follow returns where a name leads in an unpacked image: a path without
// symbolic links below root, empty for root itself. Links are followed as by a
// process whose root it is; ".." at the top stays there.
func Follow(root *os.Root, name string) (string, error) { return follow(root, name, nil) }

// MakeFolder is Follow, and makes the folders that are missing.
func MakeFolder(root *os.Root, name string) (string, error) {
	return follow(root, name, func(name string) error {
		if err := root.Mkdir(name, 0o700); err != nil {
			return err
		}
		return root.Chmod(name, 0o755) // whatever the umask is
	})
}

// follow calls missing, if there is one, for each folder that is not there.
func follow(root *os.Root, name string, missing func(string) error) (string, error) {
	at, rest, links := "", name, 0
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			at = parent(at)
			continue
		}
		next := path.Join(at, part)
		info, err := root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && missing != nil:
			if err := missing(next); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		case info.Mode().Type() == fs.ModeSymlink:
			if links++; links > maxLinks {
				return "", fmt.Errorf("%q leads through more than %d symbolic links", name, maxLinks)
			}
			target, err := root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = ""
			}
			rest = target + "/" + rest
			continue
		case !info.IsDir() && (rest != "" || missing != nil):
			return "", fmt.Errorf("%q in it is not a folder", next)
		}
		at = next
	}
	return at, nil
}

// parent of a path below root; the top is its own.
func parent(at string) string {
	return strings.TrimSuffix(path.Dir("/" + at)[1:], "/")
}

// orTop is a path for os.Root, which has another word for its top.
func orTop(at string) string {
	if at == "" {
		return "."
	}
	return at
}
