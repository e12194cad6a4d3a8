// Package ovmftest makes firmware images for tests: nothing but the tables that
// package ovmf reads, in the places where OVMF has them.
package ovmftest

import (
	"bytes"
	"encoding/binary"

	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// Layout is what a firmware says of itself; what is zero is left out.
type Layout struct {
	Size      int // bytes of the file
	HashTable ovmf.Range
	Secret    ovmf.Range
	ResetEIP  uint32
	SNP       []ovmf.SNPSection
	TDX       []ovmf.TDXSection
}

// Default is laid out like OVMF.amdsev.fd with TDX metadata, in three pages.
func Default() Layout {
	return Layout{
		Size:      3 * ovmf.PageSize,
		HashTable: ovmf.Range{Base: 0x810c00, Size: 0x400},
		Secret:    ovmf.Range{Base: 0x80c000, Size: 0xc00},
		ResetEIP:  0x80b004,
		SNP: []ovmf.SNPSection{
			{Range: ovmf.Range{Base: 0x800000, Size: 0x9000}, Type: ovmf.SNPSecMem},
			{Range: ovmf.Range{Base: 0x80d000, Size: 0x1000}, Type: ovmf.SNPSecrets},
			{Range: ovmf.Range{Base: 0x80e000, Size: 0x1000}, Type: ovmf.SNPCPUID},
			{Range: ovmf.Range{Base: 0x810000, Size: 0x1000}, Type: ovmf.SNPKernelHashes},
		},
		TDX: []ovmf.TDXSection{
			{Offset: 0x1000, RawSize: 0x2000, Base: 0xffffe000, Size: 0x2000, Type: ovmf.TDXBootVolume, Attributes: ovmf.TDXExtend},
			{Offset: 0, RawSize: 0x1000, Base: 0xffffd000, Size: 0x1000, Type: ovmf.TDXConfigVolume},
			{Base: 0x810000, Size: 0x10000, Type: ovmf.TDXTempMemory},
			{Base: 0x809000, Size: 0x2000, Type: ovmf.TDXHandOff},
		},
	}
}

// Firmware is an image, with where its parts lie in it.
type Firmware struct {
	Bytes []byte
	// SNPAt and TDXAt are the offsets of the metadata, -1 where there is none.
	SNPAt, TDXAt int
	// TablesAt is the offset of the first table, FooterAt that of the length in
	// the last one's end.
	TablesAt, FooterAt int
}

// Make writes the image. Its other bytes differ from page to page.
func (l Layout) Make() Firmware {
	le := binary.LittleEndian
	b := make([]byte, l.Size)
	for i := 0; i < len(b); i += 16 {
		le.PutUint32(b[i:], uint32(i))
	}
	f := Firmware{Bytes: b, SNPAt: -1, TDXAt: -1}
	var entries []byte
	entry := func(id string, data ...uint32) {
		for _, d := range data {
			entries = le.AppendUint32(entries, d)
		}
		guid := ovmf.GUID(id)
		entries = append(le.AppendUint16(entries, uint16(4*len(data)+18)), guid[:]...)
	}
	if l.HashTable != (ovmf.Range{}) {
		entry("7255371f-3a3b-4b04-927b-1da6efa8d454", l.HashTable.Base, l.HashTable.Size)
	}
	if l.Secret != (ovmf.Range{}) {
		entry("4c2eb361-7d9b-4cc3-8081-127c90d3d294", l.Secret.Base, l.Secret.Size)
	}
	if l.ResetEIP != 0 {
		entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", l.ResetEIP)
	}
	const snpEnd, tdxEnd = 1024, 2048 // metadata, in bytes before the file's end
	if len(l.SNP) > 0 {
		items := new(bytes.Buffer)
		for _, s := range l.SNP {
			put(items, s.Base, s.Size, uint32(s.Type))
		}
		f.SNPAt = len(b) - snpEnd
		metadata(b[f.SNPAt:], "ASEV", len(l.SNP), items.Bytes())
		entry("dc886566-984a-4798-a75e-5585a7bf67cc", snpEnd)
	}
	if len(l.TDX) > 0 {
		items := new(bytes.Buffer)
		for _, s := range l.TDX {
			put(items, s.Offset, s.RawSize, s.Base, s.Size, uint32(s.Type), s.Attributes)
		}
		f.TDXAt = len(b) - tdxEnd
		metadata(b[f.TDXAt:], "TDVF", len(l.TDX), items.Bytes())
		entry("e47a6535-984a-4798-865e-4685a7bf8ec2", tdxEnd)
	}
	footer := ovmf.GUID("96b582de-1fb2-45f7-baea-a366c55a082d")
	entries = append(le.AppendUint16(entries, uint16(len(entries)+18)), footer[:]...)
	f.FooterAt = len(b) - 32 - 18
	f.TablesAt = len(b) - 32 - len(entries)
	copy(b[f.TablesAt:], entries)
	return f
}

func metadata(b []byte, signature string, n int, items []byte) {
	le := binary.LittleEndian
	copy(b, signature)
	le.PutUint32(b[4:], uint32(16+len(items)))
	le.PutUint32(b[8:], 1)
	le.PutUint32(b[12:], uint32(n))
	copy(b[16:], items)
}

func put(w *bytes.Buffer, values ...any) {
	for _, v := range values {
		_ = binary.Write(w, binary.LittleEndian, v) // a buffer takes everything
	}
}
