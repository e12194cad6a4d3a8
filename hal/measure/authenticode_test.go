package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/measure/measuretest"
)

// realImage is the built image's folder, if there is one.
const realImage = "../../cmd/manager/img"

// A kernel that its distribution signed carries the digest itself (PKCS #7,
// SpcIndirectDataContent), of SHA-256.
func TestAuthenticodeIsWhatWasSigned(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(realImage, hal.KernelFile))
	if err != nil {
		t.Logf("no image was built: only kernels made here were digested (%v)", err)
		return
	}
	h := sha256.New()
	if err := authenticode(h, b); err != nil {
		t.Fatal(err)
	}
	if sum := h.Sum(nil); !bytes.Contains(b[len(b)-4096:], sum) {
		t.Errorf("the kernel's digest %x is not in its signature", sum)
	}
}

func TestAuthenticodeCovers(t *testing.T) {
	digest := func(b []byte) []byte {
		h := sha256.New()
		if err := authenticode(h, b); err != nil {
			t.Fatal(err)
		}
		return h.Sum(nil)
	}
	kernel := measuretest.Kernel("kernel")
	want := digest(kernel)
	for name, tt := range map[string]struct {
		at      int
		covered bool
	}{
		"the DOS header":       {2, true},
		"before the checksum":  {measuretest.ChecksumAt - 8, true},
		"the checksum":         {measuretest.ChecksumAt, false},
		"the checksum's end":   {measuretest.ChecksumAt + 3, false},
		"behind the checksum":  {measuretest.ChecksumAt + 4, true},
		"where signatures are": {measuretest.CertificateAt, false},
		"behind that":          {measuretest.CertificateAt + 8, true},
		"the headers' end":     {measuretest.Headers - 1, true},
		"the first section":    {measuretest.Headers, true},
		"the last section":     {measuretest.Headers + 2*measuretest.Section - 1, true},
		"the signature":        {measuretest.Headers + 2*measuretest.Section, false},
		"the signature's end":  {len(kernel) - 1, false},
	} {
		changed := bytes.Clone(kernel)
		changed[tt.at] ^= 0x80
		if got := digest(changed); bytes.Equal(got, want) == tt.covered {
			t.Errorf("%s: covered %v; want %v", name, !tt.covered, tt.covered)
		}
	}
	if bytes.Equal(digest(append(bytes.Clone(kernel), 0)), want) {
		t.Error("a byte behind the signature counts for nothing")
	}
}

// Each kernel is right in all but one field.
func TestAuthenticodeRefuses(t *testing.T) {
	le := binary.LittleEndian
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { le.PutUint32(b[at:], v); return b }
	}
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { le.PutUint16(b[at:], v); return b }
	}
	const sections = measuretest.SectionsAt
	for name, tt := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"nothing":                {func([]byte) []byte { return nil }, "no PE image"},
		"text":                   {func([]byte) []byte { return []byte(strings.Repeat("kernel", 100)) }, "no PE image"},
		"no PE header":           {put32(measuretest.PEAt, 0), "no PE header"},
		"its header elsewhere":   {put32(0x3c, 0xfffffff0), "no PE header"},
		"32 bits":                {put16(measuretest.OptionalAt, 0x10b), "of the kind 0x10b"},
		"headers beyond the end": {put32(measuretest.OptionalAt+60, 0x10000), "headers of 65536 bytes"},
		"headers too short":      {put32(measuretest.OptionalAt+60, measuretest.CertificateAt), "which its tables do not fit in"},
		"too many sections":      {put16(measuretest.PEAt+6, 97), "has 97 sections"},
		"more than fit":          {put16(measuretest.PEAt+6, 9), "which its tables do not fit in"},
		"sections over the rest": {put16(measuretest.PEAt+20, 112), "which its tables do not fit in"},
		"a gap":                  {put32(sections+20, measuretest.Headers+measuretest.Section+8), "has section 1 at 0x408"},
		"an overlap":             {put32(sections+20, measuretest.Headers), "at 0x200"},
		"a section cut off":      {put32(sections+16, 0x10000), "reach beyond the file's end"},
		"signatures too long":    {put32(measuretest.CertificateAt+4, measuretest.Signature+1), "signatures of 33 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			err := authenticode(sha256.New(), tt.change(measuretest.Kernel("kernel")))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v; want %q in it", err, tt.want)
			}
		})
	}
}

func FuzzAuthenticode(f *testing.F) {
	f.Add(measuretest.Kernel("kernel"))
	f.Add(measuretest.Kernel("")[:measuretest.Headers])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := RTMR1(b); err != nil && !strings.Contains(err.Error(), "the kernel ") {
			t.Errorf("error %v", err)
		}
	})
}
