// Package scratch keeps inputs on a disk that belongs to the host, so that the host
// neither reads them nor changes what is read of them.
//
// The disk is divided into regions, one for each thing that is kept. A region is
// written once, from its first byte to its last, through dm-crypt (AES-256-XTS) with
// a random key of its own, which is in the kernel's memory alone once it is set up.
// While the bytes pass by, a hash tree over them is built in memory and written
// behind them: nothing is ever read back for it. Its root and its random salt never
// leave memory.
//
// Sealed, a region can be read through dm-verity alone: the kernel checks each block
// that it takes from the disk against the root. A block that was changed, and an old
// one that was put back, whether of this region or of another at the same place, is
// an error when it is read (EIO), and Changed says from then on that there was one.
//
// Writes go past the page cache (O_DIRECT) and to the disk before a region is
// sealed; what is read comes through dm-verity, whose devices take no page of the
// ones below. So no block in memory stands in for one that the host has. Where the
// disk itself gives an error instead of a block, the kernel ends the VM
// (panic_on_error): a program that takes an error for the end of a file would go on.
package scratch

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/ultravioletrs/cocos/hal/verity"
	"github.com/ultravioletrs/cocos/internal/dm"
)

// BlockSize is what a region's size is a multiple of, in bytes.
const BlockSize = verity.BlockSize

const sectorSize = 512

// keySize of AES-256-XTS, in bytes: two keys.
const keySize = 64

// Disk is a scratch disk. Its regions may be used at the same time.
type Disk struct {
	device string
	bytes  int64
	mapper mapper

	mu   sync.Mutex
	next int64             // what is behind it was never used
	free map[int64][]int64 // offsets of released regions, by their size on the disk
	last int               // number of the last region
}

// mapper is the kernel's device mapper.
type mapper interface {
	Create(name string, t dm.Target) (device string, err error)
	Status(name string) (string, error)
	Remove(name string) (gone bool, err error)
}

type kernel struct{}

func (kernel) Create(name string, t dm.Target) (string, error) { return dm.Create(name, t) }
func (kernel) Status(name string) (string, error)              { return dm.Status(name) }
func (kernel) Remove(name string) (bool, error)                { return dm.Remove(name) }

// Open uses a block device of so many bytes. What is on it is of no interest.
func Open(device string, bytes int64) *Disk {
	return &Disk{device: device, bytes: bytes, mapper: kernel{}, free: map[int64][]int64{}}
}

// Room is how many bytes the disk has for regions with their trees.
func (d *Disk) Room() int64 { return d.bytes }

// Need is what a region of so many bytes takes of the disk.
func Need(bytes int64) int64 {
	return verity.Params{DataBlocks: uint64(bytes+BlockSize-1) / BlockSize}.Size()
}

// Create makes a region of so many bytes, a positive multiple of BlockSize. Without
// room for it the error is syscall.ENOSPC.
func (d *Disk) Create(bytes int64) (*Region, error) {
	if bytes <= 0 || bytes%BlockSize != 0 {
		return nil, fmt.Errorf("a region of the scratch disk of %d bytes: want a positive multiple of %d", bytes, BlockSize)
	}
	r := &Region{disk: d, bytes: bytes, need: Need(bytes)}
	if err := d.allocate(r); err != nil {
		return nil, fmt.Errorf("a region of the scratch disk of %d bytes: %w", bytes, err)
	}
	if err := r.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("a region of the scratch disk: %w", err), r.Release())
	}
	return r, nil
}

// allocate gives a region the place of one of the same size that was released, or
// else one that was never used.
func (d *Disk) allocate(r *Region) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if places := d.free[r.need]; len(places) > 0 {
		r.at = places[len(places)-1]
		d.free[r.need] = places[:len(places)-1]
	} else {
		if r.need > d.bytes-d.next {
			return fmt.Errorf("%w: it takes %d, and there are %d left", syscall.ENOSPC, r.need, d.bytes-d.next)
		}
		r.at = d.next
		d.next += r.need
	}
	d.last++
	r.name = "scratch-" + strconv.Itoa(d.last)
	return nil
}

func (d *Disk) giveBack(r *Region) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free[r.need] = append(d.free[r.need], r.at)
}

// crypt is the target of a region under a new key. The key stands in it alone.
func (d *Disk) crypt(r *Region) dm.Target {
	const cipher = "aes-xts-plain64 "
	rest := fmt.Sprintf(" 0 %s %d 1 sector_size:%d", d.device, r.at/sectorSize, BlockSize)
	params := make([]byte, len(cipher)+2*keySize+len(rest))
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails
	copy(params, cipher)
	hex.Encode(params[len(cipher):], key)
	copy(params[len(cipher)+2*keySize:], rest)
	clear(key)
	return dm.Target{Type: "crypt", Sectors: uint64(r.need / sectorSize), Params: params, Writable: true, Secret: true}
}

// changed reads the status of a verity target: "V", or "C" once it has met a block
// that does not match.
func changed(status string) (bool, error) {
	word, _, _ := strings.Cut(strings.TrimSpace(status), " ")
	switch word {
	case "V":
		return false, nil
	case "C":
		return true, nil
	}
	return true, fmt.Errorf("dm-verity says %q of itself, which is neither V nor C", status)
}

// openDirect opens a device for writes past the page cache.
func openDirect(device string) (*os.File, error) {
	return os.OpenFile(device, os.O_WRONLY|syscall.O_DIRECT|syscall.O_EXCL, 0)
}
