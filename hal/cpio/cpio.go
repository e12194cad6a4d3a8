// Package cpio writes initial RAM disks: cpio archives of the kernel's format
// (Documentation/driver-api/early-userspace/buffer-format.rst, "newc").
//
// The same entries give the same bytes: they are sorted by name, inode numbers
// count up, owners and times are zero. What the kernel would unpack wrongly or
// silently drop is refused: names that are not clean and relative, names that
// come twice, entries whose folder is not in the archive.
package cpio

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
)

// Entry is one file. Mode's type bits are those of a regular file, fs.ModeDir,
// fs.ModeSymlink (Data is the target) or fs.ModeDevice|fs.ModeCharDevice.
type Entry struct {
	Name         string // clean, relative, with slashes
	Mode         fs.FileMode
	Data         []byte
	Major, Minor uint32 // of a device
}

const trailer = "TRAILER!!!"

// Write writes the archive with its trailer.
func Write(w io.Writer, entries []Entry) error {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	if err := check(entries); err != nil {
		return fmt.Errorf("writing a cpio archive: %w", err)
	}
	b := bufio.NewWriter(w)
	offset := 0
	for i, e := range entries {
		mode, _ := unixMode(e.Mode)
		nlink := 1
		if e.Mode.IsDir() {
			nlink = 2
		}
		offset += writeEntry(b, header{ino: i + 1, mode: mode, nlink: nlink, major: e.Major, minor: e.Minor}, e.Name, e.Data)
	}
	offset += writeEntry(b, header{nlink: 1}, trailer, nil)
	// Archives may be concatenated, also behind compressed ones: end on a
	// 512-byte boundary, as other writers do.
	pad(b, offset, 512)
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing a cpio archive: %w", err)
	}
	return nil
}

func check(sorted []Entry) error {
	dirs := map[string]bool{".": true}
	for i, e := range sorted {
		switch {
		case !fs.ValidPath(e.Name) || e.Name == ".":
			return fmt.Errorf("name %q: want a clean relative path", e.Name)
		case e.Name == trailer:
			return fmt.Errorf("name %q: it marks the end of an archive", e.Name)
		case slices.Contains([]byte(e.Name), 0):
			return fmt.Errorf("name %q: contains NUL", e.Name)
		case i > 0 && sorted[i-1].Name == e.Name:
			return fmt.Errorf("name %q: twice", e.Name)
		case !dirs[path.Dir(e.Name)]:
			return fmt.Errorf("name %q: its folder is not in the archive", e.Name)
		case int64(len(e.Data)) > math.MaxUint32:
			return fmt.Errorf("name %q: larger than 4 GiB", e.Name)
		}
		if _, err := unixMode(e.Mode); err != nil {
			return fmt.Errorf("name %q: %w", e.Name, err)
		}
		if e.Mode&fs.ModeType != 0 && e.Mode&fs.ModeType != fs.ModeSymlink && len(e.Data) > 0 {
			return fmt.Errorf("name %q: only files and links have data", e.Name)
		}
		if e.Mode.IsDir() {
			dirs[e.Name] = true
		}
	}
	return nil
}

func unixMode(m fs.FileMode) (uint32, error) {
	perm := uint32(m.Perm())
	if m&fs.ModeSticky != 0 {
		perm |= 0o1000
	}
	switch m.Type() {
	case 0:
		return 0o100000 | perm, nil
	case fs.ModeDir:
		return 0o040000 | perm, nil
	case fs.ModeSymlink:
		return 0o120000 | perm, nil
	case fs.ModeDevice | fs.ModeCharDevice:
		return 0o020000 | perm, nil
	}
	return 0, fmt.Errorf("mode %v: this type is not supported", m)
}

type header struct {
	ino          int
	mode         uint32
	nlink        int
	major, minor uint32
}

// writeEntry returns how many bytes it wrote; the writer keeps the error.
func writeEntry(w *bufio.Writer, h header, name string, data []byte) int {
	// magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor
	// rdevminor namesize check
	n, _ := fmt.Fprintf(w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		h.ino, h.mode, 0, 0, h.nlink, 0, len(data), 0, 0, h.major, h.minor, len(name)+1, 0, name)
	n += pad(w, n, 4)
	w.Write(data)
	n += len(data)
	return n + pad(w, n, 4)
}

func pad(w *bufio.Writer, n, to int) int {
	k := (to - n%to) % to
	for range k {
		w.WriteByte(0)
	}
	return k
}
