// Package virtq is the device's side of virtio split queues (virtio 1.2,
// section 2.7) over guest memory that this process has mapped.
//
// Everything read here is written by a guest that may be hostile and may
// change it while it is read. So:
//
//   - a value is read from guest memory once, into a local, then checked;
//   - no slice that leaves this package reaches outside a mapped region;
//   - every loop over guest data has a bound that the guest does not set;
//   - what a guest must not do ends in an error that wraps ErrBroken, and the
//     queue is then not used again until the guest has reset it;
//   - memory is mapped only from files sealed against shrinking, because a
//     page past a file's end would kill the process with SIGBUS.
//
// The two index words are read and written as aligned 32-bit atomics (flags
// and index together): Go's atomics are sequentially consistent, which gives
// the barriers that the specification asks for. A Queue is not safe for
// concurrent use.
package virtq

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// Region says where one piece of guest memory lies: at GuestAddr in the guest,
// at UserAddr in the front end's own addresses, at Offset in its file. Sizes
// and addresses are in bytes.
type Region struct {
	GuestAddr, Size, UserAddr, Offset uint64
}

// maxMapping bounds one region with its offset: 64 TiB, the most that x86-64
// Linux guests address today, and far from any overflow.
const maxMapping = 1 << 46

type mapping struct {
	Region
	data  []byte // the region itself
	whole []byte // what mmap returned: from the file's start
}

// Memory is the guest's memory as this process has mapped it.
type Memory struct {
	maps []mapping
}

// Map maps the regions, files[i] being the descriptor of regions[i]'s file. It
// keeps no descriptor. A file that is not sealed against shrinking
// (F_SEAL_SHRINK), or that is shorter than its region, is refused.
func Map(regions []Region, files []int) (*Memory, error) {
	if len(regions) != len(files) {
		return nil, fmt.Errorf("mapping guest memory: %d regions with %d files", len(regions), len(files))
	}
	m := &Memory{}
	for i, r := range regions {
		mp, err := mapRegion(r, files[i])
		if err != nil {
			m.Unmap()
			return nil, fmt.Errorf("mapping guest memory region %d: %w", i, err)
		}
		m.maps = append(m.maps, mp)
	}
	return m, nil
}

func mapRegion(r Region, fd int) (mapping, error) {
	end, carry := bits.Add64(r.Size, r.Offset, 0)
	if r.Size == 0 || carry != 0 || end > maxMapping || r.GuestAddr+r.Size < r.GuestAddr || r.UserAddr+r.Size < r.UserAddr {
		return mapping{}, fmt.Errorf("impossible region: guest address %#x, size %#x, user address %#x, offset %#x",
			r.GuestAddr, r.Size, r.UserAddr, r.Offset)
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return mapping{}, errors.New("the file can shrink: guest memory must be a sealed memfd (QEMU: memory-backend-memfd,share=on,seal=on)")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return mapping{}, fmt.Errorf("reading the file's size: %w", err)
	}
	if st.Size < 0 || uint64(st.Size) < end {
		return mapping{}, fmt.Errorf("the region ends at %#x but its file at %#x", end, st.Size)
	}
	// From the file's start: offsets need not be multiples of a (huge) page.
	whole, err := unix.Mmap(fd, 0, int(end), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return mapping{}, fmt.Errorf("mmap of %#x bytes: %w", end, err)
	}
	// What is the guest's has no place in a core dump of this process.
	if err := unix.Madvise(whole, unix.MADV_DONTDUMP); err != nil {
		unix.Munmap(whole)
		return mapping{}, fmt.Errorf("keeping guest memory out of core dumps: %w", err)
	}
	return mapping{Region: r, data: whole[r.Offset:], whole: whole}, nil
}

// Unmap takes the memory away. No slice of it may be in use.
func (m *Memory) Unmap() {
	if m == nil {
		return
	}
	for _, mp := range m.maps {
		unix.Munmap(mp.whole)
	}
	m.maps = nil
}

// user returns [addr, addr+n) by the front end's addresses, or nil where it is
// not inside one region.
func (m *Memory) user(addr, n uint64) []byte {
	if m == nil {
		return nil
	}
	for i := range m.maps {
		mp := &m.maps[i]
		if o := addr - mp.UserAddr; addr >= mp.UserAddr && o < mp.Size && n <= mp.Size-o {
			return mp.data[o : o+n : o+n]
		}
	}
	return nil
}

// appendGuest appends the pieces of [addr, addr+n) by the guest's addresses; a
// buffer may cross from one region into the next. It is false where some of it
// is not guest memory.
func (m *Memory) appendGuest(dst [][]byte, addr, n uint64) ([][]byte, bool) {
	if m == nil || addr+n < addr {
		return dst, false
	}
next:
	for n > 0 {
		for i := range m.maps {
			mp := &m.maps[i]
			o := addr - mp.GuestAddr
			if addr < mp.GuestAddr || o >= mp.Size {
				continue
			}
			k := min(n, mp.Size-o)
			dst = append(dst, mp.data[o:o+k:o+k])
			addr, n = addr+k, n-k
			continue next
		}
		return dst, false
	}
	return dst, true
}
