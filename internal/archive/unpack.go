package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
)

const nonBlock = syscall.O_NONBLOCK

// Limits of an Unpack. A zero allows nothing.
type Limits struct {
	// Entries is the number of files and folders.
	Entries int
	// Depth of the deepest entry; an entry at the top has depth 1.
	Depth int
	// FileBytes bounds one file, TotalBytes all together; in bytes.
	FileBytes  int64
	TotalBytes int64
	// Padding: zeros may follow the archive, at most so many bytes.
	Padding int64
}

// Unpack makes the folder dir, which must not exist, of an archive that Pack
// wrote. After an error there is no dir.
func Unpack(r io.Reader, dir string, limits Limits) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("unpacking into %s: %w", dir, err), os.RemoveAll(dir))
		}
	}()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := Walk(r, limits, func(e Entry, content io.Reader) error { return unpack(root, e, content) }); err != nil {
		return err
	}
	return os.Chmod(dir, execMode)
}

// Entry is a file or folder in an archive.
type Entry struct {
	// Name is its path, without a slash at the end.
	Name string
	// Folder: it is a folder, with mode 0755; its own folder came before it.
	Folder bool
	// Mode is 0644 or 0755, Size in bytes; of a file.
	Mode os.FileMode
	Size int64
}

// Walk hands each entry of an archive that Pack wrote to visit, with the content
// of a file, after all that Unpack checks of it. What r is may be sought over where
// visit does not read it. Whoever visits has to forget everything after an error,
// for that may come behind the last entry.
func Walk(r io.Reader, limits Limits, visit func(e Entry, content io.Reader) error) error {
	u := walker{visit: visit, limits: limits}
	return u.all(r)
}

func unpack(root *os.Root, e Entry, content io.Reader) error {
	if e.Folder {
		if err := root.Mkdir(e.Name, 0o700); err != nil {
			return err
		}
		return root.Chmod(e.Name, execMode)
	}
	f, err := root.OpenFile(e.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return fmt.Errorf("entry %q: %w", e.Name, err)
	}
	if err := f.Chmod(e.Mode); err != nil {
		return err
	}
	return f.Close()
}

type walker struct {
	visit   func(e Entry, content io.Reader) error
	limits  Limits
	entries int
	bytes   int64
	last    string   // name of the entry before
	open    []string // folders that the next entry may be in, outermost first
}

func (u *walker) all(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return u.atEnd(r)
		case err != nil:
			return fmt.Errorf("reading the archive after %q: %w", u.last, err)
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
}

// atEnd refuses bytes after the archive but padding: they would be part of its
// digest and of nothing else.
func (u *walker) atEnd(r io.Reader) error {
	left := u.limits.Padding
	b := make([]byte, min(left, readSize)+1)
	zero := make([]byte, len(b))
	for {
		n, err := r.Read(b)
		if left -= int64(n); left < 0 || !bytes.Equal(b[:n], zero[:n]) {
			return errors.New("there are bytes after the end of the archive")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the end of the archive: %w", err)
		}
	}
}

func (u *walker) entry(h *tar.Header, content io.Reader) error {
	name, isDir := strings.CutSuffix(h.Name, "/")
	if err := checkName(name); err != nil {
		return err
	}
	if err := checkForm(h, isDir); err != nil {
		return fmt.Errorf("entry %q %w", h.Name, err)
	}
	if h.Name <= u.last {
		return fmt.Errorf("entry %q comes after %q: the names are not in order, or one is there twice", h.Name, u.last)
	}
	u.last = h.Name
	if err := u.count(h, name); err != nil {
		return err
	}
	if err := u.inOpenFolder(name); err != nil {
		return err
	}
	if isDir {
		u.open = append(u.open, name)
	}
	return u.visit(Entry{Name: name, Folder: isDir, Mode: os.FileMode(h.Mode), Size: h.Size}, content)
}

// count charges the entry before anything is made of it.
func (u *walker) count(h *tar.Header, name string) error {
	u.entries++
	switch depth := strings.Count(name, "/") + 1; {
	case u.entries > u.limits.Entries:
		return fmt.Errorf("there are more than the allowed %d entries", u.limits.Entries)
	case depth > u.limits.Depth:
		return fmt.Errorf("entry %.60q is %d folders deep; at most %d are allowed", name, depth, u.limits.Depth)
	case h.Size > u.limits.FileBytes:
		return fmt.Errorf("entry %q has %d bytes; at most %d are allowed in a file", name, h.Size, u.limits.FileBytes)
	case h.Size > u.limits.TotalBytes-u.bytes:
		return fmt.Errorf("with entry %q there are more than the allowed %d bytes", name, u.limits.TotalBytes)
	}
	u.bytes += h.Size
	return nil
}

// inOpenFolder wants the entry's folder to have come before it, as its order
// makes it: then nothing is created that is not an entry.
func (u *walker) inOpenFolder(name string) error {
	parent := path.Dir(name)
	for len(u.open) > 0 && u.open[len(u.open)-1] != parent {
		u.open = u.open[:len(u.open)-1]
	}
	if parent != "." && len(u.open) == 0 {
		return fmt.Errorf("entry %q is in a folder that has no entry", name)
	}
	return nil
}

// checkForm refuses all that Pack does not write.
func checkForm(h *tar.Header, isDir bool) error {
	switch {
	case h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir:
		return fmt.Errorf("is of type %q; only files and folders can be unpacked", h.Typeflag)
	case isDir != (h.Typeflag == tar.TypeDir):
		return errors.New("has a name that does not fit its type")
	case h.Format != tar.FormatUSTAR && h.Format != tar.FormatPAX:
		return fmt.Errorf("is in the format %v; make the archive with cocos-cli", h.Format)
	case h.Mode != execMode && (isDir || h.Mode != fileMode):
		return fmt.Errorf("has the mode %#o; only 0644 and 0755 are allowed", h.Mode)
	case h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 0 ||
		h.Devmajor != 0 || h.Devminor != 0 || h.Linkname != "" || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero():
		return errors.New("has an owner, a time or a link; make the archive with cocos-cli")
	case isDir && h.Size != 0, h.Size < 0:
		return errors.New("has an impossible size")
	}
	for record := range h.PAXRecords {
		if record != "path" && record != "size" {
			return fmt.Errorf("has a PAX record %q; make the archive with cocos-cli", record)
		}
	}
	return nil
}
