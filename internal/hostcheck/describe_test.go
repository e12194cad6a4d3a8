package hostcheck

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestDescribe(t *testing.T) {
	dir := t.TempDir()
	a, err := sim.LoadOrCreate(filepath.Join(dir, vm.SimDir))
	if err != nil {
		t.Fatal(err)
	}
	_, root := a.Root()
	bios := filepath.Join(dir, "fw.fd")
	if err := os.WriteFile(bios, []byte("firmware"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("firmware"))
	firmware := hex.EncodeToString(sum[:])
	h := &host{
		product:   func() string { return "Milan" },
		snpStatus: func() (snpState, error) { return snpState{reported: 0xdb18000000000004}, nil },
	}
	config := Config{VCPUs: 2, CPU: "EPYC-v4", StateDir: dir}
	for kind, want := range map[vm.TEEKind]Description{
		"":           {VCPUs: 2},
		vm.Simulated: {TEE: vm.Simulated, VCPUs: 2, FirmwareSHA256: firmware, SimulatedRoot: hex.EncodeToString(root[:])},
		vm.TDX:       {TEE: vm.TDX, VCPUs: 2, FirmwareSHA256: firmware},
		vm.SEV:       {TEE: vm.SEV, VCPUs: 2, FirmwareSHA256: firmware, VCPUType: "EPYC-v4", Product: "Milan"},
		vm.SEVSNP:    {TEE: vm.SEVSNP, VCPUs: 2, FirmwareSHA256: firmware, VCPUType: "EPYC-v4", Product: "Milan", ReportedTCB: "04000000000018db"},
	} {
		c := config
		if kind != "" {
			c.TEE = TEE{Kind: kind, BIOS: bios}
		}
		if got := describe(h, c); got != want {
			t.Errorf("%q: got %+v\nwant %+v", kind, got, want)
		}
	}
	// What is not to be had is left out.
	h.product, h.snpStatus = func() string { return "" }, func() (snpState, error) { return snpState{}, errors.New("no device") }
	c := config
	c.TEE = TEE{Kind: vm.SEVSNP, BIOS: filepath.Join(dir, "gone.fd")}
	if got, want := describe(h, c), (Description{TEE: vm.SEVSNP, VCPUs: 2, VCPUType: "EPYC-v4"}); got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	c.TEE, c.StateDir = TEE{Kind: vm.Simulated}, t.TempDir()
	if got, want := describe(h, c), (Description{TEE: vm.Simulated, VCPUs: 2}); got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
