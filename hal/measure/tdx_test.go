package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/measure/measuretest"
	"github.com/ultravioletrs/cocos/hal/ovmf"
	"github.com/ultravioletrs/cocos/hal/ovmf/ovmftest"
)

func aTD() Launch {
	return Launch{Firmware: ovmftest.Default().Make().Bytes, Kernel: measuretest.Kernel("kernel"), Initrd: []byte("initrd"), CommandLine: "console=null"}
}

// No hardware stands behind these: they were computed by another program, written
// from the same specifications.
const (
	tdMRTD      = "cee6afea97c92a0bede28de53d1f9f5b3b9525a6a676dcdd3e066866723ea6c13ce76570abf62cfe9f579c0a3f372002"
	tdMRTDTwo   = "374287fd3197eec3e6e115365c8b1dff13428e73e89e274ae186c996fd49dbb3f833ed42f2ac97dd95e7e322cd5bc378"
	tdRTMR1     = "5a15f4640a07fc28329d8be0bbc341f8302b1e863032b8b162fb9de0e169874688169747cd14403c0839a346dd7efc5d"
	tdRTMR2     = "befdbda1ece0c19560b677d69c15ffbddfc1860e2d334b34f3285964b5b054c36091b8f0294019f33867f436d7a9aee6"
	tdRTMR2Late = "84a98d27e88b97d185ce2f82be38354292e78e84570ab1cf59376097ea357dd53927f40636fb36e88c9a4790c28ba45e"
	debianMRTD  = "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11"
	debianTwo   = "456f07902150d008bb913c3e1e84e9297f735a6c83cd2a957a1f0a8bbedb06df188e3837ae48d32c73d473d097dc0db2"
)

func TestKnownTDX(t *testing.T) {
	for _, tt := range []struct {
		options            TDXOptions
		mrtd, rtmr1, rtmr2 string
	}{
		{TDXOptions{}, tdMRTD, tdRTMR1, tdRTMR2},
		{TDXOptions{PageOrder: SinglePass}, tdMRTD, tdRTMR1, tdRTMR2},
		{TDXOptions{PageOrder: TwoPass, InitrdFirst: true}, tdMRTDTwo, tdRTMR1, tdRTMR2Late},
	} {
		l := aTD()
		l.TDX = tt.options
		got, err := TDX(l)
		if err != nil || hex.EncodeToString(got.MRTD[:]) != tt.mrtd || hex.EncodeToString(got.RTMR1[:]) != tt.rtmr1 || hex.EncodeToString(got.RTMR2[:]) != tt.rtmr2 {
			t.Errorf("%+v: got %x, %v", tt.options, got, err)
		}
	}
}

// The build that docs/measure.md names, where it was unpacked: a VARS file with
// its CODE file behind it is the OVMF.fd of the same package.
func TestKnownTDXOfDebian(t *testing.T) {
	cache, err := debian.CacheDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	var fw []byte
	for _, name := range []string{"OVMF_VARS_4M.fd", "OVMF_CODE_4M.fd"} {
		b, err := os.ReadFile(filepath.Join(cache, "firmware", "trixie-2025.02-8+deb13u1", name))
		if err != nil {
			t.Logf("that firmware is not unpacked here (%v): only images made here were measured", err)
			return
		}
		fw = append(fw, b...)
	}
	if sum := sha256.Sum256(fw); !ovmf.KnownMeasuring(sum) {
		t.Fatalf("it has the SHA-256 %x", sum)
	}
	for order, want := range map[PageOrder]string{SinglePass: debianMRTD, TwoPass: debianTwo} {
		if got, err := MRTD(fw, order); err != nil || hex.EncodeToString(got[:]) != want {
			t.Errorf("%s: %x, %v; want %s", order, got, err, want)
		}
	}
}

// Each part of a launch changes the registers that it is measured in, and no other.
func TestEverythingCountsInTDX(t *testing.T) {
	layout := func(change func(*ovmftest.Layout)) func(*Launch) {
		return func(l *Launch) {
			f := ovmftest.Default()
			change(&f)
			l.Firmware = f.Make().Bytes
		}
	}
	base, err := TDX(aTD())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change             func(*Launch)
		mrtd, rtmr1, rtmr2 bool
	}{
		"nothing":              {change: func(*Launch) {}},
		"vCPUs":                {change: func(l *Launch) { l.VCPUs, l.VCPUType, l.GuestFeatures = 7, "EPYC", 9 }},
		"kernel":               {change: func(l *Launch) { l.Kernel = measuretest.Kernel("Kernel") }, rtmr1: true},
		"initrd":               {change: func(l *Launch) { l.Initrd = []byte("Initrd") }, rtmr2: true},
		"no initrd":            {change: func(l *Launch) { l.Initrd = nil }, rtmr2: true},
		"command line":         {change: func(l *Launch) { l.CommandLine += " " }, rtmr2: true},
		"no command line":      {change: func(l *Launch) { l.CommandLine = "" }, rtmr2: true},
		"initrd= before it":    {change: func(l *Launch) { l.TDX.InitrdFirst = true }, rtmr2: true},
		"two passes":           {change: func(l *Launch) { l.TDX.PageOrder = TwoPass }, mrtd: true},
		"content measured":     {change: func(l *Launch) { l.Firmware[0x1000] ^= 1 }, mrtd: true},
		"content not measured": {change: func(l *Launch) { l.Firmware[0] ^= 1 }},
		"where a section lies": {change: layout(func(l *ovmftest.Layout) { l.TDX[2].Base += 0x1000 }), mrtd: true},
		"its size":             {change: layout(func(l *ovmftest.Layout) { l.TDX[3].Size += 0x1000 }), mrtd: true},
		"their order":          {change: layout(func(l *ovmftest.Layout) { l.TDX[2], l.TDX[3] = l.TDX[3], l.TDX[2] }), mrtd: true},
		"what is measured":     {change: layout(func(l *ovmftest.Layout) { l.TDX[1].Attributes = ovmf.TDXExtend }), mrtd: true},
		"SEV's hash table":     {change: layout(func(l *ovmftest.Layout) { l.TDX[0].Offset = 0; l.TDX[0].RawSize, l.TDX[0].Size = 0x1000, 0x1000 }), mrtd: true},
	} {
		l := aTD()
		tt.change(&l)
		got, err := TDX(l)
		if err != nil || got.MRTD != base.MRTD != tt.mrtd || got.RTMR1 != base.RTMR1 != tt.rtmr1 || got.RTMR2 != base.RTMR2 != tt.rtmr2 {
			t.Errorf("%s: MRTD, RTMR1, RTMR2 differ: %v, %v, %v, error %v", name, got.MRTD != base.MRTD, got.RTMR1 != base.RTMR1, got.RTMR2 != base.RTMR2, err)
		}
	}
}

func TestTDXRefuses(t *testing.T) {
	layout := func(change func(*ovmftest.Layout)) func(*Launch) {
		return func(l *Launch) {
			f := ovmftest.Default()
			change(&f)
			l.Firmware = f.Make().Bytes
		}
	}
	for name, tt := range map[string]struct {
		change func(*Launch)
		want   string
	}{
		"no firmware":           {func(l *Launch) { l.Firmware = nil }, "firmware has 0 bytes"},
		"another file":          {func(l *Launch) { l.Firmware = make([]byte, 4096) }, "no OVMF firmware"},
		"no metadata":           {layout(func(l *ovmftest.Layout) { l.TDX = nil }), "no TDX metadata: TDX can't launch it"},
		"malformed metadata":    {layout(func(l *ovmftest.Layout) { l.TDX[0].Type = 9 }), "TDX metadata: section 0: has type 9"},
		"an unknown order":      {func(l *Launch) { l.TDX.PageOrder = "both" }, `page order "both" is not known; expected single-pass or two-pass`},
		"the host's words":      {layout(func(l *ovmftest.Layout) { l.TDX[3].Attributes = ovmf.TDXExtend }), "hand-off block, which the host writes"},
		"permanent memory":      {layout(func(l *ovmftest.Layout) { l.TDX[2].Type = ovmf.TDXPermMemory }), "section 2: has type 4"},
		"a payload":             {layout(func(l *ovmftest.Layout) { l.TDX[2].Type = ovmf.TDXPayload }), "section 2: has type 5"},
		"pages added later":     {layout(func(l *ovmftest.Layout) { l.TDX[2].Attributes = ovmf.TDXAug }), "added when the TD runs"},
		"content shorter":       {layout(func(l *ovmftest.Layout) { l.TDX[0].RawSize = 0x1000 }), "4096 bytes of content in 8192"},
		"a kernel without stub": {func(l *Launch) { l.Kernel = []byte("kernel") }, "the kernel is no PE image"},
		"a line with a NUL":     {func(l *Launch) { l.CommandLine = "a\x00b" }, `has "\x00" at byte 1`},
		"a line beyond ASCII":   {func(l *Launch) { l.CommandLine = "é" }, "ASCII alone"},
	} {
		t.Run(name, func(t *testing.T) {
			l := aTD()
			tt.change(&l)
			if got, err := TDX(l); err == nil || !strings.Contains(err.Error(), tt.want) || got != (TD{}) {
				t.Errorf("got %x, error %v; want %q in it", got, err, tt.want)
			}
		})
	}
}
