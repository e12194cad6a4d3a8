// Package archive is the one form in which a folder travels: a tar archive that
// is the same for the same files, so that its SHA-256 names the folder.
//
// The archive is POSIX (USTAR, and PAX records where a name or size needs one).
// Each folder but the top one and each file is an entry, ordered by the bytes of
// its name, where a folder's name ends in "/". Modes are 0755 for folders and
// executable files and 0644 for other files; owners, times and everything else
// are zero. There are no links, devices or sockets: Pack refuses them by name,
// for leaving one out would be a different folder. A Packing leaves out, adds and
// pads what its owner says.
//
// Unpack trusts nothing: it takes this form alone, stays inside its folder
// whatever the names are, counts entries, depth and bytes against limits whose
// zero allows nothing, and leaves nothing behind when it refuses. Pack reads a
// folder that someone hostile may have filled, never follows a link, and needs
// memory for the names of one folder per level, not for the content.
package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	fileMode = 0o644
	execMode = 0o755 // also of folders

	// maxPath bounds an entry's name in bytes; maxElement each part of it.
	maxPath    = 4096
	maxElement = 255
)

// Pack writes dir's archive to w. A file that changes while it is read is an
// error, and then w holds a useless beginning.
func Pack(w io.Writer, dir string) error { return Packing{}.Pack(w, dir) }

type packer struct {
	Packing

	root *os.Root
	tar  *tar.Writer
	// pending are folders around the next file whose entries were not written
	// yet, outermost first; with Keep alone.
	pending []string
}

// folder packs what is in the folder of that name.
func (p *packer) folder(name string) error {
	entries, err := p.readDir(name)
	if err != nil {
		return err
	}
	if name == "." {
		if entries, err = p.withExtra(entries); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if extra, ok := e.(extraEntry); ok {
			if err := p.extra(extra); err != nil {
				return err
			}
			continue
		}
		child := path.Join(name, e.Name())
		if err := checkName(child); err != nil {
			return err
		}
		info, err := p.root.Lstat(child)
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			err = p.enter(child)
		case info.Mode().IsRegular() && p.Keep != nil && !p.Keep(child):
		case info.Mode().IsRegular():
			if err := p.flush(); err != nil {
				return err
			}
			err = p.file(child, info)
		default:
			err = fmt.Errorf("%q is a %s; only files and folders can be packed", child, kindOf(info.Mode()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readDir lists a folder in the archive's order.
func (p *packer) readDir(name string) ([]fs.DirEntry, error) {
	f, err := p.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, byName)
	return entries, nil
}

func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

func (p *packer) header(name string, kind byte, mode, size int64) error {
	return p.tar.WriteHeader(&tar.Header{Name: name, Typeflag: kind, Mode: mode, Size: size})
}

func (p *packer) file(name string, seen fs.FileInfo) error {
	// Not blocking, should the file have become a pipe since it was looked at.
	f, err := p.root.OpenFile(name, os.O_RDONLY|nonBlock, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, seen) || !info.Mode().IsRegular() {
		return fmt.Errorf("%q was replaced while it was packed", name)
	}
	mode := int64(fileMode)
	if info.Mode().Perm()&0o100 != 0 {
		mode = execMode
	}
	if err := p.header(name, tar.TypeReg, mode, info.Size()); err != nil {
		return err
	}
	// One byte more than it should have is enough to see that it grew.
	n, err := copyAhead(p.tar, io.LimitReader(f, info.Size()+1), info.Size())
	if n != info.Size() || errors.Is(err, tar.ErrWriteTooLong) {
		if err == nil || errors.Is(err, tar.ErrWriteTooLong) {
			return fmt.Errorf("%q changed its size while it was packed", name)
		}
	}
	return err
}

func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// checkName takes the path of an entry without a final slash.
func checkName(name string) error {
	switch {
	case name == "" || name == ".":
		return errors.New("an entry has no name")
	case len(name) > maxPath:
		return fmt.Errorf("the name %.60q… has %d bytes; at most %d are allowed", name, len(name), maxPath)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8", name)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("the name %q has a NUL byte", name)
	case name[0] == '/':
		return fmt.Errorf("the name %q is absolute", name)
	}
	for element := range strings.SplitSeq(name, "/") {
		switch {
		case element == "" || element == "." || element == "..":
			return fmt.Errorf("the name %q has a part %q", name, element)
		case len(element) > maxElement:
			return fmt.Errorf("the name %.60q… has a part of %d bytes; at most %d are allowed", name, len(element), maxElement)
		}
	}
	return nil
}
