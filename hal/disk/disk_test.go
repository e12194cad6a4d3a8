package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math"
	"strings"
	"testing"
)

func raw(t *testing.T, content []byte) []byte {
	t.Helper()
	b, err := partitioned(content, sha256.Sum256(content))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	le16 = binary.LittleEndian.Uint16
	le32 = binary.LittleEndian.Uint32
	le64 = binary.LittleEndian.Uint64
)

// table reads one of the two partition tables and returns where the partition
// begins and ends, in bytes.
func table(t *testing.T, b []byte, own, other uint64) (from, to uint64) {
	t.Helper()
	h := b[own*512:][:512]
	crc := le32(h[16:])
	zeroed := append([]byte{}, h[:92]...)
	clear(zeroed[16:20])
	entries := b[le64(h[72:])*512:][:128*128]
	sectors := uint64(len(b) / 512)
	switch {
	case string(h[:8]) != "EFI PART" || le32(h[8:]) != 0x10000 || le32(h[12:]) != 92:
		t.Errorf("header at %d: % x", own, h[:16])
	case crc32.ChecksumIEEE(zeroed) != crc:
		t.Errorf("header at %d: checksum %x", own, crc)
	case le64(h[24:]) != own || le64(h[32:]) != other:
		t.Errorf("header at %d: says %d and %d", own, le64(h[24:]), le64(h[32:]))
	case le32(h[80:]) != 128 || le32(h[84:]) != 128 || crc32.ChecksumIEEE(entries) != le32(h[88:]):
		t.Errorf("header at %d: its entries don't match", own)
	case le64(h[40:]) != 34 || le64(h[48:]) != sectors-34:
		t.Errorf("header at %d: usable from %d to %d", own, le64(h[40:]), le64(h[48:]))
	case hex.EncodeToString(entries[:16]) != "28732ac11ff8d211ba4b00a0c93ec93b":
		t.Errorf("header at %d: partition of type % x", own, entries[:16])
	case bytes.Count(entries[128:], []byte{0}) != 127*128:
		t.Errorf("header at %d: more than one partition", own)
	case le64(entries[32:]) < 34 || le64(entries[40:]) > sectors-34:
		t.Errorf("header at %d: partition from %d to %d", own, le64(entries[32:]), le64(entries[40:]))
	}
	return le64(entries[32:]) * 512, (le64(entries[40:]) + 1) * 512
}

func TestPartitionTable(t *testing.T) {
	for _, size := range []int{1, 17_000_000, 40 << 20} {
		b := raw(t, bytes.Repeat([]byte{7}, size))
		last := uint64(len(b)/512 - 1)
		from, to := table(t, b, 1, last)
		if f, e := table(t, b, last, 1); f != from || e != to {
			t.Errorf("%d bytes: the copy says %d to %d, not %d to %d", size, f, e, from, to)
		}
		if len(b)%(1<<20) != 0 || from%(1<<20) != 0 || to-from < uint64(size) {
			t.Errorf("%d bytes: a disk of %d, partition from %d to %d", size, len(b), from, to)
		}
		if p := b[446:462]; p[4] != 0xee || le32(p[8:]) != 1 || uint64(le32(p[12:])) != last || b[510] != 0x55 || b[511] != 0xaa {
			t.Errorf("%d bytes: protective MBR % x", size, p)
		}
	}
}

// volume reads a FAT32 file system by the specification, not by the layout that
// the package chose.
type volume struct {
	t        *testing.T
	b        []byte
	clusters uint32
}

func newVolume(t *testing.T, b []byte) volume {
	t.Helper()
	reserved, fats, fatSize, total := uint32(le16(b[14:])), uint32(b[16]), le32(b[36:]), le32(b[32:])
	data := total - reserved - fats*fatSize
	v := volume{t, b, data / uint32(b[13])}
	switch {
	case le16(b[11:]) != 512 || uint64(total)*512 != uint64(len(b)) || b[510] != 0x55 || b[511] != 0xaa:
		t.Fatalf("boot sector % x", b[:90])
	case v.clusters < 65525 || le16(b[17:]) != 0 || le16(b[19:]) != 0 || le16(b[22:]) != 0:
		t.Errorf("%d clusters: not FAT32", v.clusters)
	case fatSize*512/4 < v.clusters+2:
		t.Errorf("a FAT of %d sectors for %d clusters", fatSize, v.clusters)
	case le32(b[28:]) != 2048:
		t.Errorf("the partition is said to begin at %d", le32(b[28:]))
	}
	if one, two := b[reserved*512:][:fatSize*512], b[(reserved+fatSize)*512:][:fatSize*512]; !bytes.Equal(one, two) {
		t.Error("the two FATs differ")
	}
	if backup := uint32(le16(b[50:])) * 512; !bytes.Equal(b[:1024], b[backup:][:1024]) {
		t.Error("the copy of the boot sector differs")
	}
	info := b[uint32(le16(b[48:]))*512:]
	free := uint32(0)
	for c := uint32(2); c < v.clusters+2; c++ {
		if v.next(c) == 0 {
			free++
		}
	}
	if le32(info) != 0x41615252 || le32(info[484:]) != 0x61417272 || le32(info[488:]) != free || v.next(le32(info[492:])) != 0 {
		t.Errorf("it says %d clusters are free, the next is %d; want %d", le32(info[488:]), le32(info[492:]), free)
	}
	return v
}

func (v volume) next(c uint32) uint32 {
	return le32(v.b[uint32(le16(v.b[14:]))*512+4*c:]) & 0x0fffffff
}

func (v volume) chain(c uint32) []byte {
	v.t.Helper()
	data := uint32(le16(v.b[14:])) + uint32(v.b[16])*le32(v.b[36:])
	size := uint32(v.b[13]) * 512
	var out []byte
	for ; c < 0x0ffffff8; c = v.next(c) {
		if c < 2 || c >= v.clusters+2 || len(out) > len(v.b) {
			v.t.Fatalf("a chain leads to cluster %d of %d", c, v.clusters)
		}
		out = append(out, v.b[data*512+(c-2)*size:][:size]...)
	}
	return out
}

// find looks a name up in a folder, and returns what it refers to.
func (v volume) find(folder []byte, name string) (content []byte, size uint32) {
	v.t.Helper()
	var names []string
	for e := folder; len(e) > 0 && e[0] != 0; e = e[32:] {
		if date := le16(e[24:]); date != 1<<5|1 || le16(e[16:]) != date || le16(e[18:]) != date || le16(e[22:]) != 0 || le16(e[14:]) != 0 {
			v.t.Errorf("%q: a time other than the earliest", e[:11])
		}
		if names = append(names, string(e[:11])); names[len(names)-1] == name {
			return v.chain(uint32(le16(e[20:]))<<16 | uint32(le16(e[26:]))), le32(e[28:])
		}
	}
	v.t.Fatalf("no %q among %q", name, names)
	return nil, 0
}

func TestFileSystem(t *testing.T) {
	for _, size := range []int{1, 512, 513, 17_000_448, 40 << 20} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(i / 512 * 31)
		}
		b := raw(t, content)
		from, to := table(t, b, 1, uint64(len(b)/512-1))
		v := newVolume(t, b[from:to])
		folder := v.chain(le32(v.b[44:]))
		for _, name := range []string{"EFI        ", "BOOT       "} {
			folder, _ = v.find(folder, name)
		}
		got, n := v.find(folder, "BOOTX64 EFI")
		if int(n) != size || !bytes.Equal(got[:n], content) {
			t.Errorf("%d bytes: read back as %d, or with another content", size, n)
		}
		if len(got)-size >= 512 {
			t.Errorf("%d bytes: a chain of %d", size, len(got))
		}
	}
}

func TestFileSystemRefuses(t *testing.T) {
	for _, size := range []int{0, -1, math.MaxInt32 + 1} {
		if _, err := newFAT(size, 0); err == nil {
			t.Errorf("%d bytes: no error", size)
		}
	}
}

// identifiers are the disk's, the partition's and the volume's.
func identifiers(b []byte) [3]string {
	return [3]string{string(b[512+56:][:16]), string(b[1024+16:][:16]), string(b[firstSector*512+67:][:4])}
}

func TestIdentifiers(t *testing.T) {
	one, same, other := raw(t, []byte{1}), raw(t, []byte{1}), raw(t, []byte{2})
	if !bytes.Equal(one, same) {
		t.Error("the same content gives different disks")
	}
	ids, others := identifiers(one), identifiers(other)
	for i := range ids {
		if ids[i] == others[i] {
			t.Errorf("identifier %d is the same for different contents", i)
		}
	}
	if ids[0] == ids[1] || ids[0][:4] == ids[2] {
		t.Error("identifiers of one disk are the same")
	}
	for _, id := range ids[:2] {
		if id[7]>>4 != 8 || id[8]>>6 != 2 {
			t.Errorf("% x: not a UUID of version 8", id)
		}
	}
}

func TestWrite(t *testing.T) {
	p := parts(t)
	var one, two bytes.Buffer
	info, err := Write(&one, p)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Write(&two, p); err != nil || again != info || !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("the same parts give different disks (%v)", err)
	}
	unified, err := Unify(p)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(unified)
	if want := (Info{hex.EncodeToString(sum[:]), int64(len(unified)), int64(len(raw(t, unified)))}); info != want {
		t.Errorf("%+v, want %+v", info, want)
	}
	p.CommandLine += " "
	two.Reset()
	if _, err := Write(&two, p); err != nil || bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("another command line gives the same disk (%v)", err)
	}
	p.Stub = nil
	two.Reset()
	if _, err := Write(&two, p); err == nil || !strings.Contains(err.Error(), "stub") || two.Len() > 0 {
		t.Errorf("no stub: %v, %d bytes written", err, two.Len())
	}
}
