package scratch

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/hal/verity"
	"github.com/ultravioletrs/cocos/internal/dm"
)

// Sizes of the buffers for writes, in bytes.
const (
	dataBuffer = 512 << 10
	hashBuffer = 64 << 10
)

// Region is a part of the disk. It is written, then sealed, then read; Release can
// come at any time. It belongs to one goroutine at a time.
type Region struct {
	disk     *Disk
	name     string
	at, need int64 // on the disk, with the tree
	bytes    int64

	// While it is written.
	f    *os.File
	tree *verity.Tree
	data *aligned
	hash *aligned
	pos  int64 // where data belongs

	crypt, sealed string // devices; empty: not set up
	mounts        []string
}

func (r *Region) open() (err error) {
	target := r.disk.crypt(r)
	defer clear(target.Params)
	if r.crypt, err = r.disk.mapper.Create(r.name, target); err != nil {
		return err
	}
	if r.f, err = openDirect(r.crypt); err != nil {
		return err
	}
	if r.data, err = newAligned(dataBuffer); err != nil {
		return err
	}
	if r.hash, err = newAligned(hashBuffer); err != nil {
		return err
	}
	var salt [32]byte
	_, _ = rand.Read(salt[:]) // never fails
	r.tree, err = verity.NewTree(treeArea{r}, uint64(r.bytes/BlockSize), salt)
	return err
}

// Write takes the next bytes.
func (r *Region) Write(b []byte) (n int, err error) {
	if r.tree == nil {
		return 0, errors.New("writing to the scratch disk: the region is sealed or released")
	}
	for len(b) > 0 {
		m := copy(r.data.b[len(r.data.b):cap(r.data.b)], b)
		r.data.b = r.data.b[:len(r.data.b)+m]
		n, b = n+m, b[m:]
		if len(r.data.b) == cap(r.data.b) {
			if err := r.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush hashes what the buffer holds and writes it.
func (r *Region) flush() error {
	b := r.data.b
	if _, err := r.tree.Write(b); err != nil {
		return err
	}
	if _, err := r.f.WriteAt(b, r.pos); err != nil {
		return fmt.Errorf("writing to the scratch disk: %w", err)
	}
	r.pos += int64(len(b))
	r.data.b = b[:0]
	return nil
}

// treeArea takes the blocks of a region's tree.
type treeArea struct{ *Region }

func (r treeArea) WriteAt(b []byte, at int64) (int, error) {
	for n := 0; n < len(b); {
		r.hash.b = append(r.hash.b[:0], b[n:min(len(b), n+hashBuffer)]...)
		if _, err := r.f.WriteAt(r.hash.b, at+int64(n)); err != nil {
			return n, fmt.Errorf("writing to the scratch disk: %w", err)
		}
		n += len(r.hash.b)
	}
	return len(b), nil
}

// Seal ends the writing, when all of the region was written. Only what was written
// can be read from now on.
func (r *Region) Seal() (err error) {
	if r.tree == nil {
		return errors.New("sealing a region of the scratch disk: it is sealed or released")
	}
	if len(r.data.b) > 0 {
		if err := r.flush(); err != nil {
			return err
		}
	}
	params, err := r.tree.Finish()
	if err != nil {
		return err
	}
	if err := r.f.Sync(); err != nil {
		return fmt.Errorf("writing to the scratch disk: %w", err)
	}
	if err := r.stopWriting(); err != nil {
		return fmt.Errorf("writing to the scratch disk: %w", err)
	}
	r.sealed, err = r.disk.mapper.Create(r.name+"-sealed", dm.Target{
		Type: "verity", Sectors: params.Sectors(), Params: []byte(params.Target(r.crypt) + " 1 panic_on_error"),
	})
	return err
}

func (r *Region) stopWriting() error {
	var err error
	if r.f != nil {
		err = r.f.Close()
	}
	r.data.free()
	r.hash.free()
	r.f, r.tree, r.data, r.hash = nil, nil, nil, nil
	return err
}

// Open opens a sealed region for reading.
func (r *Region) Open() (*os.File, error) {
	if r.sealed == "" {
		return nil, errors.New("reading a region of the scratch disk: it isn't sealed")
	}
	return os.Open(r.sealed)
}

// Mount mounts the EROFS image that a sealed region holds, read-only.
func (r *Region) Mount(dir string) error {
	if r.sealed == "" {
		return errors.New("mounting a region of the scratch disk: it isn't sealed")
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount(r.sealed, dir, "erofs", flags, ""); err != nil {
		return fmt.Errorf("mounting a region of the scratch disk: %w", err)
	}
	r.mounts = append(r.mounts, dir)
	return nil
}

// Bind shows a file of a mounted region at another place, where there is a file.
func (r *Region) Bind(file, at string) error {
	if err := unix.Mount(file, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding a file of the scratch disk: %w", err)
	}
	r.mounts = append(r.mounts, at)
	return nil
}

// Changed tells whether a block was met, when the region was read, that is not the
// one that was written.
func (r *Region) Changed() (bool, error) {
	if r.sealed == "" {
		return false, nil
	}
	status, err := r.disk.mapper.Status(r.name + "-sealed")
	if err != nil {
		return true, err
	}
	return changed(status)
}

// Release unmounts the region and forgets its key. Its place can be given to another
// one, unless something still holds its devices.
func (r *Region) Release() error {
	err := r.stopWriting()
	for len(r.mounts) > 0 {
		last := r.mounts[len(r.mounts)-1]
		if e := unix.Unmount(last, unix.UMOUNT_NOFOLLOW); e != nil {
			return errors.Join(err, fmt.Errorf("unmounting %s: %w", last, e))
		}
		r.mounts = r.mounts[:len(r.mounts)-1]
	}
	free := true
	for _, d := range []struct {
		device *string
		name   string
	}{{&r.sealed, r.name + "-sealed"}, {&r.crypt, r.name}} {
		if *d.device == "" {
			continue
		}
		gone, e := r.disk.mapper.Remove(d.name)
		if e != nil {
			return errors.Join(err, e)
		}
		*d.device = ""
		free = free && gone
	}
	if free && r.need > 0 {
		r.disk.giveBack(r)
	}
	r.need = 0
	return err
}

// aligned is a buffer whose memory begins at a page, as O_DIRECT wants it.
type aligned struct {
	b    []byte
	page []byte
}

func newAligned(size int) (*aligned, error) {
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("making a buffer: %w", err)
	}
	return &aligned{page[:0:size], page}, nil
}

func (a *aligned) free() {
	if a != nil {
		_ = unix.Munmap(a.page) // can't fail for what Mmap gave
	}
}
