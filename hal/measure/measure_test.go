package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// firmware is one page that ends with OVMF's tables.
func firmware(change func(*tables)) []byte {
	t := tables{hashes: ovmf.Range{Base: 0x810c00, Size: 0x400}, reset: 0x80b004, sections: []section{
		{0x800000, 0x9000, uint32(ovmf.SNPSecMem)},
		{0x80d000, 0x1000, uint32(ovmf.SNPSecrets)},
		{0x80e000, 0x1000, uint32(ovmf.SNPCPUID)},
		{0x810000, 0x1000, uint32(ovmf.SNPKernelHashes)},
	}}
	if change != nil {
		change(&t)
	}
	le := binary.LittleEndian
	b := make([]byte, ovmf.PageSize)
	const metadata = 1024
	at := len(b) - metadata
	copy(b[at:], "ASEV")
	le.PutUint32(b[at+4:], uint32(16+12*len(t.sections)))
	le.PutUint32(b[at+8:], 1)
	le.PutUint32(b[at+12:], uint32(len(t.sections)))
	for i, s := range t.sections {
		for j, v := range s {
			le.PutUint32(b[at+16+12*i+4*j:], v)
		}
	}
	var entries []byte
	entry := func(id string, data ...uint32) {
		for _, d := range data {
			entries = le.AppendUint32(entries, d)
		}
		guid := ovmf.GUID(id)
		entries = append(le.AppendUint16(entries, uint16(4*len(data)+18)), guid[:]...)
	}
	if t.hashes.Size > 0 {
		entry("7255371f-3a3b-4b04-927b-1da6efa8d454", t.hashes.Base, t.hashes.Size)
	}
	if t.reset != 0 {
		entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", t.reset)
	}
	if len(t.sections) > 0 {
		entry("dc886566-984a-4798-a75e-5585a7bf67cc", metadata)
	}
	footer := ovmf.GUID("96b582de-1fb2-45f7-baea-a366c55a082d")
	entries = append(le.AppendUint16(entries, uint16(len(entries)+18)), footer[:]...)
	copy(b[len(b)-32-len(entries):], entries)
	return b
}

type section [3]uint32

type tables struct {
	hashes   ovmf.Range
	reset    uint32
	sections []section
}

func aLaunch() Launch {
	return Launch{
		Firmware: firmware(nil), Kernel: []byte("kernel"), Initrd: []byte("initrd"), CommandLine: "console=null",
		VCPUs: 2, VCPUType: "EPYC-v4", GuestFeatures: 1,
	}
}

// What hardware's measurements were computed to be elsewhere; the rest of this
// file can't show that the formats are AMD's.
func TestKnownSNP(t *testing.T) {
	dir := os.Getenv("COCOS_EVIDENCE")
	if dir == "" {
		// The digest of this file's own firmware, as it was when the known values
		// came out right.
		got, err := SNP(aLaunch())
		if err != nil || hex.EncodeToString(got[:]) != ownDigest {
			t.Errorf("got %x, %v; want %s", got, err, ownDigest)
		}
		return
	}
	fw, err := os.ReadFile(filepath.Join(dir, "measure-snp", "ovmf_AmdSev_suffix.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		features          uint64
		commandLine, want string
	}{
		{0x21, "", "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683632b9b50e4e1d7fa41179ef98a7ef198"},
		{0x1, "console=ttyS0 loglevel=7", "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa"},
	} {
		got, err := SNP(Launch{Firmware: fw, CommandLine: k.commandLine, VCPUs: 1, VCPUType: "EPYC-v4", GuestFeatures: k.features})
		if err != nil || hex.EncodeToString(got[:]) != k.want {
			t.Errorf("features %#x, %q: got %x, %v; want %s", k.features, k.commandLine, got, err, k.want)
		}
	}
}

// Values that policies hold: another one breaks them all.
const (
	ownDigest = "0d512cbd8156d4df7db84903b667274f9962e8c1ee6f83f3de3be5be4da3ed4b39ea70dd5ad9909097596bd8f612686a"
	simDigest = "81293a86bf7f9021dc54f142b1473f6040ddc7f8afa6061a82c3685027471fc9809b426ffc27c0964113481c0c9876af"
)

func TestKnownSimulated(t *testing.T) {
	got, err := Simulated(Launch{Kernel: []byte("kernel"), Initrd: []byte("initrd"), CommandLine: "console=null", VCPUs: 2})
	if err != nil || hex.EncodeToString(got[:]) != simDigest {
		t.Errorf("got %x, %v; want %s", got, err, simDigest)
	}
}

// Each part of a launch changes its digest.
func TestEverythingCounts(t *testing.T) {
	changes := map[string]struct {
		change    func(*Launch)
		simulated bool
	}{
		"kernel":         {func(l *Launch) { l.Kernel = []byte("Kernel") }, true},
		"initrd":         {func(l *Launch) { l.Initrd = nil }, true},
		"command line":   {func(l *Launch) { l.CommandLine += " " }, true},
		"fewer vCPUs":    {func(l *Launch) { l.VCPUs = 1 }, true},
		"more vCPUs":     {func(l *Launch) { l.VCPUs = 3 }, true},
		"model":          {func(l *Launch) { l.VCPUType = "EPYC-Milan" }, false},
		"guest features": {func(l *Launch) { l.GuestFeatures = 0x21 }, false},
		"firmware":       {func(l *Launch) { l.Firmware[0] ^= 1 }, false},
		"a section": {func(l *Launch) {
			l.Firmware = firmware(func(t *tables) { t.sections[0][1] = 0xa000 })
		}, false},
		"where vCPUs start": {func(l *Launch) { l.Firmware = firmware(func(t *tables) { t.reset++ }) }, false},
	}
	for measure, f := range map[string]func(Launch) ([48]byte, error){"SNP": SNP, "Simulated": Simulated} {
		seen := map[[48]byte]string{}
		base, err := f(aLaunch())
		if err != nil {
			t.Fatalf("%s: %v", measure, err)
		}
		seen[base] = "the launch as it is"
		for name, c := range changes {
			l := aLaunch()
			c.change(&l)
			got, err := f(l)
			if err != nil {
				t.Errorf("%s, %s: %v", measure, name, err)
			}
			if measure == "Simulated" && !c.simulated {
				if got != base {
					t.Errorf("%s depends on %s", measure, name)
				}
				continue
			}
			if other, twice := seen[got]; twice {
				t.Errorf("%s: %s measures like %s", measure, name, other)
			}
			seen[got] = name
		}
	}
}

func TestSNPRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Launch)
		want   string
	}{
		"no vCPU":         {func(l *Launch) { l.VCPUs = 0 }, "0 vCPUs"},
		"too many vCPUs":  {func(l *Launch) { l.VCPUs = MaxVCPUs + 1 }, "4097 vCPUs"},
		"model":           {func(l *Launch) { l.VCPUType = "max" }, "expected one of EPYC, EPYC-Genoa"},
		"model's version": {func(l *Launch) { l.VCPUType = "EPYC-vx" }, `"EPYC-vx" is not known`},
		"no model":        {func(l *Launch) { l.VCPUType = "" }, `"" is not known`},
		"no firmware":     {func(l *Launch) { l.Firmware = nil }, "0 bytes"},
		"another file":    {func(l *Launch) { l.Firmware = make([]byte, 4096) }, "no OVMF firmware"},
		"no SEV metadata": {func(l *Launch) { l.Firmware = firmware(func(t *tables) { t.sections = nil }) }, "SEV-SNP can't launch it"},
		"no hash table":   {func(l *Launch) { l.Firmware = firmware(func(t *tables) { t.hashes = ovmf.Range{} }) }, "no room for the table"},
		"hashes unmeasured": {func(l *Launch) {
			l.Firmware = firmware(func(t *tables) { t.sections = t.sections[:3] })
		}, "no section for the table"},
		"hashes elsewhere": {func(l *Launch) {
			l.Firmware = firmware(func(t *tables) { t.hashes.Base = 0x811c00 })
		}, "does not lie in its measured page"},
		"hashes cut": {func(l *Launch) {
			l.Firmware = firmware(func(t *tables) { t.hashes.Base = 0x810fff })
		}, "does not lie in its measured page"},
		"no room for them": {func(l *Launch) {
			l.Firmware = firmware(func(t *tables) { t.hashes.Size = 175 })
		}, "does not lie in its measured page"},
		"no place for vCPU 2": {func(l *Launch) { l.Firmware = firmware(func(t *tables) { t.reset = 0 }) }, "only 1 can be measured"},
	} {
		t.Run(name, func(t *testing.T) {
			l := aLaunch()
			tt.change(&l)
			if got, err := SNP(l); err == nil || !strings.Contains(err.Error(), tt.want) || got != ([48]byte{}) {
				t.Errorf("got %x, error %v; want %q in it", got, err, tt.want)
			}
		})
	}
	if _, err := Simulated(Launch{}); err == nil || !strings.Contains(err.Error(), "0 vCPUs") {
		t.Errorf("simulated without vCPUs: %v", err)
	}
}

func TestHashTable(t *testing.T) {
	b := HashTable([]byte("k"), []byte("i"), "c")
	if len(b) != 176 || binary.LittleEndian.Uint16(b[16:]) != 168 || !bytes.Equal(b[168:], make([]byte, 8)) {
		t.Errorf("%d bytes: %x", len(b), b)
	}
	for at, want := range map[int]string{18 + 18: "c\x00", 18 + 50 + 18: "i", 18 + 100 + 18: "k"} {
		if sum := sha256.Sum256([]byte(want)); !bytes.Equal(b[at:at+32], sum[:]) {
			t.Errorf("at %d there is %x; want the digest of %q", at, b[at:at+32], want)
		}
	}
}
