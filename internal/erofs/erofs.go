// Package erofs writes EROFS images: read-only file systems that Linux mounts
// (kernel: Documentation/filesystems/erofs.rst).
//
// An image is planned first, from the names, modes and sizes of its files, and then
// written from its first byte to its last, without a look back: superblock, inodes,
// folders, and the files' content in the order in which they were planned. So a
// writer needs memory for names, not for content, and the size of an image is known
// before its first byte.
//
// There is one form: blocks of 4096 bytes, extended inodes, everything uncompressed
// in whole blocks, no extended attributes, owners and times zero. The same plan and
// content make the same bytes.
package erofs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
)

// BlockSize is that of an image, in bytes; its size is a multiple of it.
const BlockSize = 4096

const (
	blockBits       = 12
	magic           = 0xe0f5e1e2
	superOffset     = 1024
	superSize       = 128
	inodeSize       = 64 // of an extended inode
	inodeUnit       = 32 // what inodes are numbered by
	direntSize      = 12
	maxName         = 255
	extendedFlat    = 1 // i_format: an extended inode, its data in whole blocks
	typeFile        = 1
	typeFolder      = 2
	modeFile        = 0o100000
	modeFolder      = 0o040000
	inodesOffset    = superOffset + superSize
	firstNID        = inodesOffset / inodeUnit
	noBlock         = math.MaxUint32 // of a file without content
	maxImageBlocks  = math.MaxUint32
	maxFilesPlanned = 1 << 24
)

// Plan is what an image holds. Its zero value is an empty folder. Entries are added
// with their folder before them; then Size and Write can be called.
type Plan struct {
	root    *node
	nodes   []*node          // in the order of their inodes
	folders map[string]*node // by path
	blocks  int64            // of all files' content
	laidOut bool
	total   int64 // blocks of the image
}

type node struct {
	name    string
	parent  *node
	index   int   // of the inode
	size    int64 // in bytes
	mode    uint16
	folder  bool
	entries []*node // of a folder
	block   int64   // where the content begins; of a file, counted from the first file's
}

func (n *node) nid() uint64 { return firstNID + uint64(n.index)*(inodeSize/inodeUnit) }

func (p *Plan) init() {
	if p.root == nil {
		p.root = &node{mode: modeFolder | 0o755, folder: true}
		p.root.parent = p.root
		p.nodes, p.folders = []*node{p.root}, map[string]*node{".": p.root}
	}
}

// Folder adds a folder by its path, such as "a/b", with mode 0755.
func (p *Plan) Folder(name string) error {
	n, err := p.add(name)
	if err != nil {
		return err
	}
	n.folder, n.mode = true, modeFolder|0o755
	p.folders[name] = n
	return nil
}

// File adds a file by its path, with its permission bits and its size in bytes.
func (p *Plan) File(name string, perm fs.FileMode, size int64) error {
	blocks := (size + BlockSize - 1) / BlockSize
	if size < 0 || blocks > maxImageBlocks-p.blocks {
		return fmt.Errorf("planning an image: file %q has an impossible size, %d bytes", name, size)
	}
	n, err := p.add(name)
	if err != nil {
		return err
	}
	n.mode, n.size, n.block = modeFile|uint16(perm.Perm()), size, p.blocks
	p.blocks += blocks
	return nil
}

func (p *Plan) add(name string) (*node, error) {
	p.init()
	base := path.Base(name)
	parent := p.folders[path.Dir(name)]
	switch {
	case p.laidOut:
		return nil, fmt.Errorf("planning an image: %q comes when the plan is done", name)
	case parent == nil || path.Clean(name) != name || base == "." || base == ".." || base == "/":
		return nil, fmt.Errorf("planning an image: the name %q is not the path of an entry in a folder that is there", name)
	case len(base) > maxName || strings.ContainsRune(base, 0):
		return nil, fmt.Errorf("planning an image: the name %.60q… can't be one of a file: at most %d bytes, and no NUL", base, maxName)
	case len(p.nodes) == maxFilesPlanned:
		return nil, fmt.Errorf("planning an image: there are more than %d files and folders", maxFilesPlanned)
	}
	// A copy: base is a part of name, all of which it would keep.
	n := &node{name: strings.Clone(base), parent: parent, index: len(p.nodes)}
	p.nodes = append(p.nodes, n)
	parent.entries = append(parent.entries, n)
	return n, nil
}

// dirent is an entry of a folder as it is stored.
type dirent struct {
	name string
	to   *node
}

// dirents are a folder's entries in the order that the kernel looks them up in.
func (n *node) dirents() []dirent {
	all := []dirent{{".", n}, {"..", n.parent}}
	for _, e := range n.entries {
		all = append(all, dirent{e.name, e})
	}
	slices.SortFunc(all, func(a, b dirent) int { return cmp.Compare(a.name, b.name) })
	return all
}

// blocksOf divides entries into blocks: in each come the records first and then
// the names.
func blocksOf(all []dirent) (blocks [][]dirent, size int64) {
	used, from := 0, 0
	for i, d := range all {
		need := direntSize + len(d.name)
		if used+need > BlockSize {
			blocks, from, used = append(blocks, all[from:i]), i, 0
		}
		used += need
	}
	return append(blocks, all[from:]), int64(len(blocks))*BlockSize + int64(used)
}

// layOut gives every folder and file its blocks.
func (p *Plan) layOut() error {
	if p.laidOut {
		return nil
	}
	p.init()
	at := blocksFor(inodesOffset + int64(len(p.nodes))*inodeSize)
	for _, n := range p.nodes {
		if !n.folder {
			continue
		}
		slices.SortFunc(n.entries, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
		for i, e := range n.entries[min(1, len(n.entries)):] {
			if e.name == n.entries[i].name {
				return fmt.Errorf("planning an image: the name %q is there twice in a folder", e.name)
			}
		}
		_, n.size = blocksOf(n.dirents())
		n.block = at
		at += blocksFor(n.size)
	}
	for _, n := range p.nodes {
		if !n.folder {
			n.block += at
		}
	}
	p.total = at + p.blocks
	if p.total > maxImageBlocks {
		return fmt.Errorf("planning an image: it would have %d blocks; at most %d are possible", p.total, int64(maxImageBlocks))
	}
	p.laidOut = true
	return nil
}

func blocksFor(bytes int64) int64 { return (bytes + BlockSize - 1) / BlockSize }

// Size of the image in bytes. Nothing can be added any more.
func (p *Plan) Size() (int64, error) {
	if err := p.layOut(); err != nil {
		return 0, err
	}
	return p.total * BlockSize, nil
}

// Write writes the image up to the files' content to w, and returns what takes the
// content: of one file after another, in the order in which they were planned. Close
// must be called in the end.
func (p *Plan) Write(w io.Writer) (*Writer, error) {
	if err := p.layOut(); err != nil {
		return nil, err
	}
	out := &Writer{w: w}
	for _, n := range p.nodes {
		if !n.folder && n.size > 0 {
			out.sizes = append(out.sizes, n.size)
		}
	}
	if err := p.writeMeta(w); err != nil {
		return nil, fmt.Errorf("writing an image: %w", err)
	}
	return out, nil
}

// Writer takes the content of an image's files.
type Writer struct {
	w     io.Writer
	sizes []int64 // of the files that are not complete
	at    int64   // in the first of them
}

// Write takes the next bytes of the content of all files together.
func (w *Writer) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if len(w.sizes) == 0 {
			return n, errors.New("writing an image: there is more content than was planned")
		}
		part := b[:min(int64(len(b)), w.sizes[0]-w.at)]
		m, err := w.w.Write(part)
		n, w.at, b = n+m, w.at+int64(m), b[m:]
		if err != nil {
			return n, err
		}
		if w.at < w.sizes[0] {
			continue
		}
		if pad := -w.at & (BlockSize - 1); pad > 0 {
			if _, err := w.w.Write(make([]byte, pad)); err != nil {
				return n, err
			}
		}
		w.sizes, w.at = w.sizes[1:], 0
	}
	return n, nil
}

// Close tells whether the image is complete. It does not close the underlying writer.
func (w *Writer) Close() error {
	if len(w.sizes) > 0 {
		return fmt.Errorf("writing an image: the content of %d files is missing", len(w.sizes))
	}
	return nil
}

var order = binary.LittleEndian
