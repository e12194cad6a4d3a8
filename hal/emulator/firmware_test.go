package emulator

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// flash begins like a flash chip with a firmware volume.
var flash = strings.Repeat("\x00", 40) + "_FVH" + strings.Repeat("\xff", 4096-44)

func TestFirmwareInCache(t *testing.T) {
	m := newMachine(t, fedora, "")
	for _, name := range firmwares["trixie"].files {
		m.write(t, "cache/firmware/trixie-1/"+name, flash)
	}
	want := filepath.Join(m.CacheDir, "firmware", "trixie-1")
	if got, err := m.Firmware(t.Context(), "trixie"); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	// Any file missing or broken: fetched anew, for which there is no mirror.
	for name, content := range map[string]string{
		"empty":              "",
		"short":              flash[:40],
		"no volume":          strings.Repeat("\x00", 4096),
		"a block cut short":  flash[:4095],
		"a web page instead": "<html>" + strings.Repeat(" ", 4090),
	} {
		for _, file := range firmwares["trixie"].files {
			m.write(t, "cache/firmware/trixie-1/"+file, content)
			if got, err := m.Firmware(t.Context(), "trixie"); err == nil || !strings.Contains(err.Error(), "COCOS_DEBIAN_MIRROR") {
				t.Errorf("%s is %s: got %q, %v", file, name, got, err)
			}
			m.write(t, "cache/firmware/trixie-1/"+file, flash)
		}
	}
	if got, err := m.Firmware(t.Context(), "bookworm"); err == nil {
		t.Errorf("bookworm has the firmware of trixie: %q", got)
	}
	if got, err := m.Firmware(t.Context(), "sid"); err == nil || !strings.Contains(err.Error(), "want bookworm or trixie") {
		t.Errorf("sid: got %q, %v", got, err)
	}
}

// TestMeasuringFirmwareInCache: only the very build that is known is taken, for
// another could boot what was not measured.
func TestMeasuringFirmwareInCache(t *testing.T) {
	m := newMachine(t, fedora, "")
	m.write(t, "cache/firmware/amdsev-1/OVMF.amdsev.fd", flash)
	if got, err := m.Measuring(t.Context(), AmdSev); err == nil || !strings.Contains(err.Error(), "COCOS_DEBIAN_MIRROR") {
		t.Errorf("another build: got %q, %v", got, err)
	}
	b := firmwares[AmdSev]
	b.sha256 = fmt.Sprintf("%x", sha256.Sum256([]byte(flash)))
	dir := filepath.Join(m.CacheDir, "firmware")
	if got, want := b.cached(dir, AmdSev), filepath.Join(dir, "amdsev-1"); got != want {
		t.Errorf("the build that is pinned: got %q, want %q", got, want)
	}
	for _, name := range []string{"", "trixie", "sev"} {
		if got, err := m.Measuring(t.Context(), name); err == nil || !strings.Contains(err.Error(), "want amdsev or tdx") {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
	if got, err := m.Firmware(t.Context(), AmdSev); err == nil || !strings.Contains(err.Error(), "want bookworm or trixie") {
		t.Errorf("as a release: got %q, %v", got, err)
	}
}
