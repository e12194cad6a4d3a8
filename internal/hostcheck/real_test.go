package hostcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// TestJudgeRealFirmware holds Debian's builds against what is known of them.
func TestJudgeRealFirmware(t *testing.T) {
	finder, err := emulator.New(os.Getenv, progress.New(t.Output(), false, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	bookworm, err := finder.Firmware(t.Context(), "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	// A firmware is its variables with its code behind them.
	var both []byte
	for _, name := range []string{"OVMF_VARS.fd", "OVMF_CODE.fd"} {
		b, err := os.ReadFile(filepath.Join(bookworm, name))
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, b...)
	}
	generic := write(t, filepath.Join(t.TempDir(), "OVMF.fd"), string(both))
	for _, c := range []struct {
		file string
		kind vm.TEEKind
		says string // "" is success
	}{
		{generic, vm.TDX, ""},
		{generic, vm.SEVSNP, "would go unmeasured"},
		{generic, vm.SEV, "would go unmeasured"},
		{generic, vm.Simulated, "would go unmeasured"},
		{filepath.Join(bookworm, "OVMF_CODE.fd"), vm.TDX, "no firmware for a TEE"},
		{filepath.Join(bookworm, "OVMF_CODE_4M.fd"), vm.TDX, "no TDX metadata"},
		{filepath.Join(bookworm, "OVMF_CODE_4M.fd"), vm.SEVSNP, "no SEV-SNP metadata"},
		{filepath.Join(bookworm, "OVMF_VARS.fd"), vm.TDX, "no firmware for a TEE"},
	} {
		_, err := JudgeBIOS(c.kind, c.file)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s with %s: %v, expected %q", filepath.Base(c.file), c.kind, err, c.says)
		}
	}
}
