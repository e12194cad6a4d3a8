package ovmf_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/ovmf"
	"github.com/ultravioletrs/cocos/hal/ovmf/ovmftest"
)

func TestParse(t *testing.T) {
	l := ovmftest.Default()
	got, err := ovmf.Parse(l.Make().Bytes)
	if err != nil {
		t.Fatal(err)
	}
	want := ovmf.Tables{HashTable: l.HashTable, Secret: l.Secret, ResetEIP: l.ResetEIP, SNPSections: l.SNP, TDXSections: l.TDX}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if !got.Hashes() || !got.SNP() || !got.TDX() {
		t.Errorf("hashes %v, SNP %v, TDX %v; want all", got.Hashes(), got.SNP(), got.TDX())
	}
	got, err = ovmf.Parse(ovmftest.Layout{Size: ovmf.PageSize, ResetEIP: 1}.Make().Bytes)
	if err != nil || got.Hashes() || got.SNP() || got.TDX() || got.TDXFault != nil {
		t.Errorf("with nothing but a reset block: %+v, %v", got, err)
	}
}

// Each image is right in all but one field.
func TestParseRefuses(t *testing.T) {
	le := binary.LittleEndian
	layout := func(change func(*ovmftest.Layout)) []byte {
		l := ovmftest.Default()
		change(&l)
		return l.Make().Bytes
	}
	bytesOf := func(change func(f ovmftest.Firmware, b []byte)) []byte {
		f := ovmftest.Default().Make()
		change(f, f.Bytes)
		return f.Bytes
	}
	for name, tt := range map[string]struct {
		image []byte
		want  string
	}{
		"nothing":                {nil, "has 0 bytes: expected whole pages"},
		"half a page":            {layout(func(*ovmftest.Layout) {})[:2*4096+2048], "10240 bytes: expected whole pages"},
		"too large":              {make([]byte, ovmf.MaxSize+4096), "expected at most 16777216"},
		"no tables":              {make([]byte, 4096), "does not end with OVMF's tables"},
		"a footer of another id": {bytesOf(func(f ovmftest.Firmware, b []byte) { b[f.FooterAt+2] ^= 1 }), "does not end with OVMF's tables"},
		"a footer too short":     {bytesOf(func(f ovmftest.Firmware, b []byte) { le.PutUint16(b[f.FooterAt:], 17) }), "tables have 17 bytes: expected 18 to"},
		"a footer too long":      {bytesOf(func(f ovmftest.Firmware, b []byte) { le.PutUint16(b[f.FooterAt:], 0xffff) }), "tables have 65535 bytes"},
		"a table cut off":        {bytesOf(func(f ovmftest.Firmware, b []byte) { le.PutUint16(b[f.FooterAt:], le.Uint16(b[f.FooterAt:])-4) }), "expected 18 to"},
		"bytes left over":        {bytesOf(func(f ovmftest.Firmware, b []byte) { le.PutUint16(b[f.FooterAt:], le.Uint16(b[f.FooterAt:])+5) }), "5 bytes are left over"},
		"a table without length": {bytesOf(func(f ovmftest.Firmware, b []byte) { le.PutUint16(b[f.FooterAt-18:], 0) }), "has 0 bytes: expected 18 to"},
		"a table twice":          {bytesOf(func(f ovmftest.Firmware, b []byte) { copy(b[f.FooterAt-16:], b[f.FooterAt-16-22:][:16]) }), "is there twice"},
		"a short hash table": {bytesOf(func(f ovmftest.Firmware, b []byte) {
			id := ovmf.GUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
			copy(b[f.FooterAt-16:], id[:]) // in the place of the TDX metadata's, which has 4 bytes
			b[bytes.Index(b, id[:])] ^= 1
		}), "table of hashes: has 4 bytes, expected 8"},
		"hashes beyond 4 GiB":       {layout(func(l *ovmftest.Layout) { l.HashTable = ovmf.Range{Base: 0xffffff00, Size: 0x400} }), "table of hashes: 1024 bytes at 0xffffff00 reach beyond 4 GiB"},
		"the secret beyond it":      {layout(func(l *ovmftest.Layout) { l.Secret = ovmf.Range{Base: 0xffffff00, Size: 0x400} }), "secret's place: 1024 bytes at 0xffffff00"},
		"SEV metadata elsewhere":    {bytesOf(func(f ovmftest.Firmware, b []byte) { le.PutUint32(b[f.FooterAt-18-22-4+0:], 1020) }), `SEV metadata: begins with`},
		"SEV metadata outside":      {bytesOf(func(f ovmftest.Firmware, b []byte) { le.PutUint32(b[f.FooterAt-18-22-4:], 0x10000) }), "SEV metadata: lies 65536 bytes before the end"},
		"SEV metadata at the end":   {bytesOf(func(f ovmftest.Firmware, b []byte) { le.PutUint32(b[f.FooterAt-18-22-4:], 15) }), "SEV metadata: lies 15 bytes"},
		"SEV metadata's signature":  {bytesOf(func(f ovmftest.Firmware, b []byte) { b[f.SNPAt] = 'X' }), `begins with "XSEV": expected "ASEV"`},
		"SEV metadata's version":    {bytesOf(func(f ovmftest.Firmware, b []byte) { b[f.SNPAt+8] = 2 }), "SEV metadata: has version 2"},
		"no sections":               {bytesOf(func(f ovmftest.Firmware, b []byte) { b[f.SNPAt+12] = 0 }), "has 0 sections"},
		"more sections than there":  {bytesOf(func(f ovmftest.Firmware, b []byte) { b[f.SNPAt+12] = 5 }), "too few for 5 sections"},
		"too many sections":         {bytesOf(func(f ovmftest.Firmware, b []byte) { b[f.SNPAt+12] = 65 }), "has 65 sections: expected 1 to 64"},
		"a section of another type": {layout(func(l *ovmftest.Layout) { l.SNP[1].Type = 5 }), "section 1: has type 0x5"},
		"a section off its page":    {layout(func(l *ovmftest.Layout) { l.SNP[0].Base++ }), "section 0: 36864 bytes at 0x800001 are not whole pages"},
		"a section of half a page":  {layout(func(l *ovmftest.Layout) { l.SNP[0].Size = 0x800 }), "section 0: 2048 bytes"},
		"an empty section":          {layout(func(l *ovmftest.Layout) { l.SNP[0].Size = 0 }), "section 0: 0 bytes"},
		"a section beyond 4 GiB": {layout(func(l *ovmftest.Layout) {
			l.SNP[0] = ovmf.SNPSection{Range: ovmf.Range{Base: 0xfffff000, Size: 0x2000}, Type: 1}
		}), "reach beyond 4 GiB"},
		"two pages of secrets": {layout(func(l *ovmftest.Layout) { l.SNP[1].Size = 0x2000 }), "section 1: has 8192 bytes; expected one page"},
		"two pages of CPUID":   {layout(func(l *ovmftest.Layout) { l.SNP[2].Size = 0x2000 }), "section 2: has 8192 bytes; expected one page"},
		"two pages of hashes":  {layout(func(l *ovmftest.Layout) { l.SNP[3].Size = 0x2000 }), "section 3: has 8192 bytes; expected one page"},
		"too much memory":      {layout(func(l *ovmftest.Layout) { l.SNP[0].Size = 256 << 20 }), "section 1: all have more than"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ovmf.Parse(tt.image)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v; want %q in it", err, tt.want)
			}
			if !reflect.DeepEqual(got, ovmf.Tables{}) {
				t.Errorf("beside the error there is %+v", got)
			}
			if isNone := errors.Is(err, ovmf.ErrNoTables); isNone != strings.Contains(tt.want, "does not end with") {
				t.Errorf("ErrNoTables: %v", isNone)
			}
		})
	}
}

// What is wrong with TDX metadata does not hinder SEV-SNP.
func TestTDXFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*ovmftest.Layout)
		want   string
	}{
		"another type":        {func(l *ovmftest.Layout) { l.TDX[0].Type = 7 }, "section 0: has type 7"},
		"other attributes":    {func(l *ovmftest.Layout) { l.TDX[0].Attributes = 4 }, "section 0: has attributes 0x4"},
		"content outside":     {func(l *ovmftest.Layout) { l.TDX[0].Offset = 0x1001 }, "section 0: 8192 bytes at 0x1001 reach beyond the file's end"},
		"off its page":        {func(l *ovmftest.Layout) { l.TDX[2].Base += 8 }, "section 2: 65536 bytes at 0x810008 are not whole pages"},
		"half a page":         {func(l *ovmftest.Layout) { l.TDX[2].Size = 0x800 }, "section 2: 2048 bytes"},
		"empty":               {func(l *ovmftest.Layout) { l.TDX[2].Size = 0 }, "section 2: 0 bytes"},
		"beyond 4 GiB":        {func(l *ovmftest.Layout) { l.TDX[0].Base = 0xfffff000 }, "section 0: 8192 bytes at 0xfffff000 reach beyond 4 GiB"},
		"an address of 64":    {func(l *ovmftest.Layout) { l.TDX[0].Base = 1<<64 - 4096 }, "section 0:"},
		"more content":        {func(l *ovmftest.Layout) { l.TDX[1].Size, l.TDX[1].RawSize = 0x1000, 0x2000 }, "section 1: 8192 bytes of content in 4096"},
		"no content":          {func(l *ovmftest.Layout) { l.TDX[0].RawSize = 0 }, "section 0: a volume without content"},
		"far too much":        {func(l *ovmftest.Layout) { l.TDX[2].Size = 257 << 20 }, "section 2:"},
		"too much all in all": {func(l *ovmftest.Layout) { l.TDX[2].Size = 256<<20 - 0x2000 }, "section 2: all have more than"},
	} {
		t.Run(name, func(t *testing.T) {
			l := ovmftest.Default()
			tt.change(&l)
			got, err := ovmf.Parse(l.Make().Bytes)
			if err != nil || !got.SNP() {
				t.Fatalf("SEV-SNP can't be launched: %+v, %v", got, err)
			}
			if got.TDX() || got.TDXFault == nil || !strings.Contains(got.TDXFault.Error(), tt.want) {
				t.Errorf("TDX %v, fault %v; want %q in it", got.TDX(), got.TDXFault, tt.want)
			}
		})
	}
}

// The tables of Debian's builds, as far as they have been unpacked here (by
// cmd/hal firmware). A build is its VARS file with its CODE file behind it; the
// CODE file alone has the tables, and TDX content that lies outside of it.
func TestDebianFirmware(t *testing.T) {
	cache, err := debian.CacheDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range []struct {
		files            []string
		sha256           string // empty: any
		snp, hashes, tdx bool
	}{
		{files: []string{"bookworm-*/OVMF_CODE.fd"}, snp: true},
		{files: []string{"bookworm-*/OVMF_VARS.fd", "bookworm-*/OVMF_CODE.fd"}, snp: true, tdx: true},
		{files: []string{"bookworm-*/OVMF_CODE_4M.fd"}},
		{files: []string{"trixie-*/OVMF_CODE_4M.fd"}, snp: true},
		{files: []string{"trixie-2025.02-8+deb13u1/OVMF_VARS_4M.fd", "trixie-2025.02-8+deb13u1/OVMF_CODE_4M.fd"}, sha256: ovmf.TDXSHA256, snp: true, tdx: true},
		{files: []string{"tdx-*/OVMF.fd"}, sha256: ovmf.TDXSHA256, snp: true, tdx: true},
		{files: []string{"amdsev-*/OVMF.amdsev.fd"}, sha256: ovmf.AmdSevSHA256, snp: true, hashes: true, tdx: true},
	} {
		var b []byte
		for _, pattern := range f.files {
			names, err := filepath.Glob(filepath.Join(cache, "firmware", pattern))
			if err != nil {
				t.Fatal(err)
			}
			if len(names) == 0 {
				continue
			}
			part, err := os.ReadFile(names[len(names)-1])
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, part...)
		}
		if len(b) == 0 {
			t.Logf("%v is not in %s", f.files, cache)
			continue
		}
		seen++
		got, err := ovmf.Parse(b)
		if err != nil || got.SNP() != f.snp || got.Hashes() != f.hashes || got.TDX() != f.tdx || (got.TDXFault == nil) != (f.tdx || !f.snp) {
			t.Errorf("%v: SNP %v, hashes %v, TDX %v (%v), error %v; want %v, %v, %v", f.files, got.SNP(), got.Hashes(), got.TDX(), got.TDXFault, err, f.snp, f.hashes, f.tdx)
		}
		if sum := sha256.Sum256(b); f.sha256 != "" && hex.EncodeToString(sum[:]) != f.sha256 {
			t.Errorf("%v has the SHA-256 %x; known is %s", f.files, sum, f.sha256)
		} else if ovmf.KnownVerifying(sum) != f.hashes || ovmf.KnownMeasuring(sum) != (f.sha256 == ovmf.TDXSHA256) {
			t.Errorf("%v: known to verify: %v, to measure: %v", f.files, ovmf.KnownVerifying(sum), ovmf.KnownMeasuring(sum))
		}
	}
	if seen == 0 {
		t.Log("no firmware was unpacked here: only images made here were parsed")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ovmftest.Default().Make().Bytes)
	f.Add(ovmftest.Layout{Size: ovmf.PageSize, ResetEIP: 1}.Make().Bytes)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ovmf.Parse(b)
		if err != nil {
			if !reflect.DeepEqual(got, ovmf.Tables{}) {
				t.Fatalf("beside the error %v there is %+v", err, got)
			}
			return
		}
		var memory uint64
		for _, s := range got.SNPSections {
			memory += uint64(s.Size)
			if s.Base%ovmf.PageSize != 0 || s.Size%ovmf.PageSize != 0 || uint64(s.Base)+uint64(s.Size) > 1<<32 {
				t.Fatalf("section %+v", s)
			}
		}
		for _, s := range got.TDXSections {
			if uint64(s.Offset)+uint64(s.RawSize) > uint64(len(b)) || uint64(s.RawSize) > s.Size || s.Base+s.Size > 1<<32 {
				t.Fatalf("section %+v of a file with %d bytes", s, len(b))
			}
		}
		if memory > 256<<20 {
			t.Fatalf("%d bytes are to be added", memory)
		}
	})
}
