package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// Packing says what of a folder is packed, and with what. Its zero value is Pack.
type Packing struct {
	// Keep tells whether a file is packed, by its name below the folder with "/"
	// between the parts. Then folders are packed that lead to one. Nil: all is.
	Keep func(name string) bool
	// Extra are files at the top that the folder does not have; content by name.
	Extra map[string][]byte
	// Size, if it is not 0, is what the archive is padded to, in bytes: zeros
	// follow its end, which a reader of tar passes over. A larger one is an error.
	Size int64
}

// Pack writes the archive to w; see the function Pack.
func (c Packing) Pack(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("packing %s: %w", dir, err)
	}
	defer root.Close()
	var size counter
	p := packer{Packing: c, root: root, tar: tar.NewWriter(io.MultiWriter(w, &size))}
	if err := p.folder("."); err != nil {
		return fmt.Errorf("packing %s: %w", dir, err)
	}
	if err := p.tar.Close(); err != nil {
		return fmt.Errorf("packing %s: %w", dir, err)
	}
	if c.Size == 0 {
		return nil
	}
	if int64(size) > c.Size {
		return fmt.Errorf("packing %s: the archive has %d bytes, and is to be padded to %d", dir, size, c.Size)
	}
	if _, err := io.CopyBuffer(w, io.LimitReader(zeros{}, c.Size-int64(size)), make([]byte, readSize)); err != nil {
		return fmt.Errorf("padding the archive of %s: %w", dir, err)
	}
	return nil
}

// enter packs a folder below the top. Where Keep decides, its entry waits for
// the first file in it.
func (p *packer) enter(name string) error {
	if p.Keep == nil {
		if err := p.header(name+"/", tar.TypeDir, execMode, 0); err != nil {
			return err
		}
		return p.folder(name)
	}
	before := len(p.pending)
	p.pending = append(p.pending, name)
	err := p.folder(name)
	p.pending = p.pending[:min(before, len(p.pending))]
	return err
}

// flush writes the entries of the folders that lead to a file.
func (p *packer) flush() error {
	for _, name := range p.pending {
		if err := p.header(name+"/", tar.TypeDir, execMode, 0); err != nil {
			return err
		}
	}
	p.pending = p.pending[:0]
	return nil
}

// withExtra adds the extra files to the entries of the top, in their order.
func (p *packer) withExtra(entries []fs.DirEntry) ([]fs.DirEntry, error) {
	for name, content := range p.Extra {
		if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name }) {
			return nil, fmt.Errorf("%q is there already", name)
		}
		if err := checkName(name); err != nil {
			return nil, err
		}
		entries = append(entries, extraEntry{name, content})
	}
	slices.SortFunc(entries, byName)
	return entries, nil
}

func byName(a, b fs.DirEntry) int { return strings.Compare(sortName(a), sortName(b)) }

func (p *packer) extra(e extraEntry) error {
	if err := p.header(e.name, tar.TypeReg, fileMode, e.Size()); err != nil {
		return err
	}
	_, err := p.tar.Write(e.content)
	return err
}

// extraEntry is a file that the folder does not have.
type extraEntry struct {
	name    string
	content []byte
}

func (e extraEntry) Name() string               { return e.name }
func (e extraEntry) Size() int64                { return int64(len(e.content)) }
func (e extraEntry) IsDir() bool                { return false }
func (e extraEntry) Type() fs.FileMode          { return 0 }
func (e extraEntry) Mode() fs.FileMode          { return fileMode }
func (e extraEntry) ModTime() time.Time         { return time.Time{} }
func (e extraEntry) Sys() any                   { return nil }
func (e extraEntry) Info() (fs.FileInfo, error) { return e, nil }

// zeros is an endless run of them.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
