package manifest

import "fmt"

// Bounds of a scratch disk, in bytes, beside MaxInputSize.
const (
	// scratchUnit is what its size is a whole number of.
	scratchUnit = 1 << 20
	// scratchEach is what an input takes beside its content and the hashes of it.
	scratchEach = 1 << 20
	// scratchShare of the content is room for hashes: a 64th, twice what the leaves
	// of a tree over blocks of 4 KiB take.
	scratchShare = 64
)

// ScratchNeed is the least ScratchBytes for the inputs of m that go to the disk, with
// the hashes over them: datasets, the algorithm's files and a container's archive. A
// program, and what an image unpacks to, stay in memory. Folders of many small files
// need more: each file takes whole blocks of 4 KiB.
func (m *Manifest) ScratchNeed() int64 {
	need := int64(0)
	add := func(bytes int64) {
		if bytes > 0 {
			need += bytes + bytes/scratchShare + scratchEach
		}
	}
	if m.Algorithm.Type == Container {
		add(m.Algorithm.Size)
	}
	for _, f := range m.Algorithm.Files {
		add(f.Size)
		add(f.UnpackedMax)
	}
	for _, d := range m.Datasets {
		add(d.Size)
		add(d.UnpackedMax)
	}
	return (need + scratchUnit - 1) / scratchUnit * scratchUnit
}

// MemoryNeed is what the inputs of m take of the VM's memory, in bytes: all of them,
// or with a scratch disk only a program, and what a container's image unpacks to.
func (m *Manifest) MemoryNeed() int64 {
	a := &m.Algorithm
	need := a.Image.UnpackedMax
	if m.ScratchBytes == 0 || a.Type != Container {
		need += a.Size
	}
	if m.ScratchBytes > 0 {
		return need
	}
	// No overflow: at most some 700 sizes of at most 2^50 bytes.
	for _, f := range a.Files {
		need += f.Size + f.UnpackedMax
	}
	for _, d := range m.Datasets {
		need += d.Size + d.UnpackedMax
	}
	return need
}

func (v *validator) scratch(m *Manifest) {
	const path = "/scratch_bytes"
	if m.ScratchBytes > 0 {
		v.scratchSizes(m)
	}
	switch n := m.ScratchBytes; {
	case n == 0:
	case n < 0 || n > MaxInputSize || n%scratchUnit != 0:
		v.add(path, "is %d; expected a multiple of %d (1 MiB), up to %d", n, int64(scratchUnit), int64(MaxInputSize))
	case len(v.faults) == 0 && n < m.ScratchNeed():
		v.add(path, "is %d, and the inputs need %d (sizes and unpacked_max of /datasets, /algorithm/files and a container, with the hashes over them)", n, m.ScratchNeed())
	}
}

// maxScratchInput bounds what one image on a scratch disk holds, in bytes: a hash
// tree is over 1 TiB at most, and the image has names besides.
const maxScratchInput = 1<<40 - 1<<30

func (v *validator) scratchSizes(m *Manifest) {
	judge := func(path string, n int64) {
		if n > maxScratchInput && n <= MaxInputSize {
			v.add(path, "is %d; at most %d are possible on a scratch disk (/scratch_bytes)", n, int64(maxScratchInput))
		}
	}
	judge("/algorithm/size", m.Algorithm.Size)
	for i, f := range m.Algorithm.Files {
		judge(fmt.Sprintf("/algorithm/files/%d/size", i), f.Size)
		judge(fmt.Sprintf("/algorithm/files/%d/unpacked_max", i), f.UnpackedMax)
	}
	for i, d := range m.Datasets {
		judge(fmt.Sprintf("/datasets/%d/size", i), d.Size)
		judge(fmt.Sprintf("/datasets/%d/unpacked_max", i), d.UnpackedMax)
	}
}
