package computations

import (
	"slices"

	"github.com/ultravioletrs/cocos/manifest"
)

// Scratch says whether a run has a disk of its own for inputs, which the agent
// encrypts; without one they are held in the VM's memory.
type Scratch string

// The choices. ScratchAuto: where the inputs need more than ScratchFrom.
const (
	ScratchAuto   Scratch = ""
	ScratchAlways Scratch = "always"
	ScratchNever  Scratch = "never"
)

const (
	scratchUnit = 1 << 20 // what a manifest counts disks in, in bytes
	// ScratchFrom is what inputs may need before they go to a disk, in bytes: a quarter
	// of the smallest memory that a Manager gives a VM by itself, 2 GiB. The other
	// three are the algorithm's, with what it leaves.
	ScratchFrom = 512 << 20
	// scratchShare of what inputs need is room beside it: an eighth. The disk is
	// sparse, and takes on the host what is written to it.
	scratchShare = 8
	// An archive has at most one entry in each record of a tar, and none more than
	// maxPacked. Unpacked, an entry takes less than entryBytes beside its content:
	// what is left of its last block of 4 KiB, and what names it.
	tarRecord  = 512
	maxPacked  = 1 << 18
	entryBytes = 4096 + 512
)

func (d *Draft) checkScratch(f *faults) {
	switch n := d.ScratchBytes; {
	case !slices.Contains([]Scratch{ScratchAuto, ScratchAlways, ScratchNever}, d.Scratch):
		f.add(invalid("scratch", "is %q; expected %q, %q, or nothing, which leaves it to the size of the inputs", plain(string(d.Scratch), maxTitle), ScratchAlways, ScratchNever))
	case n < 0 || n > manifest.MaxInputSize || n%scratchUnit != 0:
		f.add(invalid("scratch_bytes", "is %d; expected a multiple of %d (1 MiB), up to %d", n, int64(scratchUnit), int64(manifest.MaxInputSize)))
	case n > 0 && d.Scratch != ScratchAuto:
		f.add(invalid("scratch_bytes", "stands beside the choice %q; give the one or the other", d.Scratch))
	}
}

// scratchBytes is what the manifest m, which has its inputs, says of a disk.
func (d *Draft) scratchBytes(m *manifest.Manifest) int64 {
	need := m.ScratchNeed()
	switch {
	case d.ScratchBytes > 0:
		return d.ScratchBytes
	case d.Scratch == ScratchNever, d.Scratch == ScratchAuto && need <= ScratchFrom:
		return 0
	}
	room := need + need/scratchShare
	for _, size := range m.Folders() {
		room += min(size/tarRecord, maxPacked) * entryBytes
	}
	return min((room+scratchUnit-1)/scratchUnit*scratchUnit, manifest.MaxInputSize)
}
