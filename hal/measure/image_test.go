package measure

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/measure/measuretest"
	"github.com/ultravioletrs/cocos/hal/ovmf"
	"github.com/ultravioletrs/cocos/hal/ovmf/ovmftest"
)

func TestImage(t *testing.T) {
	dir := t.TempDir()
	kernel, initrd, fw := measuretest.Kernel("kernel"), []byte("initrd"), ovmftest.Default().Make().Bytes
	img, err := measuretest.Image(dir, kernel, initrd)
	if err != nil {
		t.Fatal(err)
	}
	got, err := MeasureImage(dir, ImageOptions{
		SNPFirmware: fw, TDXFirmware: fw, VCPUs: []int{1, 4}, VCPUTypes: []string{"EPYC-v4", "EPYC-Genoa"}, GuestFeatures: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.CommandLine != img.CommandLine.Attested || got.KernelVersion != img.KernelVersion {
		t.Errorf("it is %q, %q", got.KernelVersion, got.CommandLine)
	}
	l := Launch{Firmware: fw, Kernel: kernel, Initrd: initrd, CommandLine: img.CommandLine.Attested, GuestFeatures: 1}
	if len(got.SNP) != 4 || len(got.Simulated) != 2 {
		t.Fatalf("got %+v", got)
	}
	for _, d := range got.SNP {
		l.VCPUs, l.VCPUType = d.VCPUs, d.VCPUType
		if want, err := SNP(l); err != nil || d.Measurement != want || d.GuestFeatures != 1 {
			t.Errorf("got %+v; want %x, %v", d, want, err)
		}
	}
	for _, d := range got.Simulated {
		l.VCPUs = d.VCPUs
		if want, err := Simulated(l); err != nil || d.Measurement != want {
			t.Errorf("got %+v; want %x, %v", d, want, err)
		}
	}
	td, err := TDX(l)
	if err != nil || *got.TDX != (TDDigests{MRTD: td.MRTD, RTMR1: td.RTMR1, RTMR2: td.RTMR2, PageOrder: SinglePass}) {
		t.Errorf("got %+v; want %x, %v", got.TDX, td, err)
	}
	b, err := json.Marshal(got.Simulated)
	if want := `"measurement":"` + got.Simulated[0].Measurement.String() + `"`; err != nil || !bytes.Contains(b, []byte(want)) {
		t.Errorf("as JSON %s, %v", b, err)
	}
	if got, err := MeasureImage(dir, ImageOptions{VCPUs: []int{1}}); err != nil || got.SNP != nil || got.TDX != nil || len(got.Simulated) != 1 {
		t.Errorf("without firmware: %+v, %v", got, err)
	}
}

func TestImageRefuses(t *testing.T) {
	fw := ovmftest.Default().Make().Bytes
	good := ImageOptions{SNPFirmware: fw, TDXFirmware: fw, VCPUs: []int{1}, VCPUTypes: []string{"EPYC-v4"}, GuestFeatures: 1}
	for name, tt := range map[string]struct {
		files   func(t *testing.T, dir string)
		options func(*ImageOptions)
		want    string
	}{
		"no image":  {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, hal.ManifestFile)) }, nil, "run `make hal`"},
		"no kernel": {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, hal.KernelFile)) }, nil, "bzImage"},
		"another kernel": {func(t *testing.T, dir string) {
			_ = os.WriteFile(filepath.Join(dir, hal.KernelFile), measuretest.Kernel("x"), 0o600)
		}, nil, "bzImage has sha256"},
		"another initrd":  {func(t *testing.T, dir string) { _ = os.WriteFile(filepath.Join(dir, hal.InitrdFile), nil, 0o600) }, nil, "rootfs.cpio.gz has sha256"},
		"no vCPU":         {nil, func(o *ImageOptions) { o.VCPUs = []int{0} }, "0 vCPUs"},
		"unknown model":   {nil, func(o *ImageOptions) { o.VCPUTypes = []string{"max"} }, `"max" is not known`},
		"SNP's firmware":  {nil, func(o *ImageOptions) { o.SNPFirmware = []byte{} }, "0 bytes"},
		"TDX's firmware":  {nil, func(o *ImageOptions) { o.TDXFirmware = make([]byte, ovmf.PageSize) }, "no OVMF firmware"},
		"no hashes in it": {nil, func(o *ImageOptions) { o.SNPFirmware = firmware(func(t *tables) { t.hashes = ovmf.Range{} }) }, "no room for the table"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := measuretest.Image(dir, measuretest.Kernel("kernel"), []byte("initrd")); err != nil {
				t.Fatal(err)
			}
			o := good
			if tt.files != nil {
				tt.files(t, dir)
			}
			if tt.options != nil {
				tt.options(&o)
			}
			if got, err := MeasureImage(dir, o); err == nil || !strings.Contains(err.Error(), tt.want) || got.CommandLine != "" {
				t.Errorf("got %+v, error %v; want %q in it", got, err, tt.want)
			}
		})
	}
}

// BenchmarkImage measures the built image, or one of its size, for every TEE.
func BenchmarkImage(b *testing.B) {
	dir := realImage
	if _, err := hal.Load(dir); err != nil {
		dir = b.TempDir()
		kernel := measuretest.Kernel(strings.Repeat("kernel", 10))
		kernel = append(kernel, make([]byte, 12<<20)...)
		if _, err := measuretest.Image(dir, kernel, make([]byte, 12<<20)); err != nil {
			b.Fatal(err)
		}
	}
	l := ovmftest.Default()
	l.Size = 4 << 20
	l.TDX[0].Offset, l.TDX[0].RawSize, l.TDX[0].Base, l.TDX[0].Size = 0x84000, 0x37c000, 0xffc84000, 0x37c000
	fw := l.Make().Bytes
	o := ImageOptions{SNPFirmware: fw, TDXFirmware: fw, VCPUs: []int{1, 2, 4, 8}, VCPUTypes: []string{"EPYC-v4"}, GuestFeatures: 1}
	for b.Loop() {
		if _, err := MeasureImage(dir, o); err != nil {
			b.Fatal(err)
		}
	}
}
