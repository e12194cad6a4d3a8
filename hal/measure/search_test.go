package measure

import (
	"testing"

	"github.com/ultravioletrs/cocos/hal/measure/measuretest"
	"github.com/ultravioletrs/cocos/hal/ovmf/ovmftest"
)

func candidates() Candidates {
	other := ovmftest.Default()
	other.ResetEIP++
	other.TDX[2].Size += 0x1000
	return Candidates{
		Firmwares:    [][]byte{ovmftest.Default().Make().Bytes, other.Make().Bytes},
		Kernels:      [][]byte{measuretest.Kernel("one"), measuretest.Kernel("two")},
		Initrds:      [][]byte{[]byte("one"), []byte("two"), nil},
		CommandLines: []string{"attested", "plain"},
	}
}

// Whatever is launched of the candidates is found, and nothing else.
func TestSearchFindsWhatWasLaunched(t *testing.T) {
	c := candidates()
	for _, want := range []Found{
		{VCPUs: 1, VCPUType: "EPYC", GuestFeatures: 1},
		{Firmware: 1, VCPUs: 2, VCPUType: "EPYC", GuestFeatures: 1},
		{Kernel: 1, VCPUs: 4, VCPUType: "EPYC-Milan", GuestFeatures: 1},
		{Initrd: 2, CommandLine: 1, VCPUs: SearchVCPUs, VCPUType: "EPYC-Genoa", GuestFeatures: 0x21},
	} {
		l := Launch{
			Firmware: c.Firmwares[want.Firmware], Kernel: c.Kernels[want.Kernel], Initrd: c.Initrds[want.Initrd],
			CommandLine: c.CommandLines[want.CommandLine], VCPUs: want.VCPUs, VCPUType: want.VCPUType, GuestFeatures: want.GuestFeatures,
		}
		snp, err := SNP(l)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := c.FindSNP(snp); !ok || got != want {
			t.Errorf("SEV-SNP: found %+v, %v; want %+v", got, ok, want)
		}
		sim, err := Simulated(l)
		if err != nil {
			t.Fatal(err)
		}
		shape := Found{Kernel: want.Kernel, Initrd: want.Initrd, CommandLine: want.CommandLine, VCPUs: want.VCPUs}
		if got, ok := c.FindSimulated(sim); !ok || got != shape {
			t.Errorf("simulated: found %+v, %v; want %+v", got, ok, shape)
		}
		for _, o := range []TDXOptions{{PageOrder: SinglePass}, {PageOrder: TwoPass, InitrdFirst: true}} {
			l.TDX = o
			td, err := TDX(l)
			if err != nil {
				t.Fatal(err)
			}
			if f, order, ok := c.FindMRTD(td.MRTD); !ok || f != want.Firmware || order != o.PageOrder {
				t.Errorf("MRTD: found %d, %s, %v", f, order, ok)
			}
			if k, ok := c.FindRTMR1(td.RTMR1); !ok || k != want.Kernel {
				t.Errorf("RTMR1: found %d, %v", k, ok)
			}
			line, disk, first, ok := c.FindRTMR2(td.RTMR2)
			if !ok || line != want.CommandLine || disk != want.Initrd || first != (o.InitrdFirst && want.Initrd != 2) {
				t.Errorf("RTMR2: found %d, %d, %v, %v", line, disk, first, ok)
			}
		}
	}
}

func TestSearchFindsNothingElse(t *testing.T) {
	c := candidates()
	none := [48]byte{1}
	_, snp := c.FindSNP(none)
	_, sim := c.FindSimulated(none)
	_, _, mrtd := c.FindMRTD(none)
	_, rtmr1 := c.FindRTMR1(none)
	_, _, _, rtmr2 := c.FindRTMR2(none)
	if snp || sim || mrtd || rtmr1 || rtmr2 {
		t.Errorf("found %v, %v, %v, %v, %v", snp, sim, mrtd, rtmr1, rtmr2)
	}
	// One more vCPU than is tried.
	beyond, err := Simulated(Launch{Kernel: c.Kernels[0], Initrd: c.Initrds[0], CommandLine: c.CommandLines[0], VCPUs: SearchVCPUs + 1})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := c.FindSimulated(beyond); ok {
		t.Errorf("found %+v", got)
	}
	if _, ok := (Candidates{}).FindSNP(none); ok {
		t.Error("found among none")
	}
	c.Firmwares = [][]byte{{}, []byte("nonsense")}
	if _, ok := c.FindSNP(none); ok {
		t.Error("found with no firmware")
	}
}

// What a person waits for in the worst case.
func BenchmarkFindSNPInVain(b *testing.B) {
	c := candidates()
	for b.Loop() {
		if _, ok := c.FindSNP([48]byte{1}); ok {
			b.Fatal("found")
		}
	}
}
