// Package measured shows measured direct boot: a firmware that knows the hashes
// of what was measured starts that kernel with that initial RAM disk and that
// command line, and nothing else; the Manager says of the rest what it is.
//
// With SEV-SNP QEMU puts the hashes into the guest's measured memory. Here the
// Manager has them put there for a simulated TEE, and a host exchanges what QEMU
// is given afterwards.
package measured

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestMeasuredBoot(t *testing.T) {
	find := harness.Finder(t)
	bios, err := find.Measuring(t.Context(), emulator.AmdSev)
	if err != nil {
		t.Fatal(err)
	}
	bin, err := find.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}
	attested := func(m *manifest.Manifest) { m.TEE, m.AttestedTLS = manifest.TEESim, true }
	host := harness.NewExchange(t, bin)
	start := func(timeout time.Duration) *harness.Host {
		return harness.Start(t,
			harness.Env("MANAGER_QEMU_ENABLE_SIM=true"),
			harness.Env("MANAGER_QEMU_BIOS_FILE="+bios),
			harness.Env(qemu.Variable+"="+host.Path),
			harness.Env(fmt.Sprintf("MANAGER_BOOT_TIMEOUT=%ds", timeout/time.Second)))
	}
	right := start(harness.BootLimit).Submit(c, attested)
	begun := right.Event(vm.EventBooting, harness.BootLimit).GetTime().AsTime()
	right.Ready()
	took := time.Since(begun)
	right.Stop()

	// Others get twice the time that the right one took.
	h := start(max(20*time.Second, (2 * took).Round(time.Second)))
	img, err := hal.Load(filepath.Dir(harness.Image(t, hal.ManifestFile)))
	if err != nil {
		t.Fatal(err)
	}

	// All of them at once: what the firmware refuses hangs to its deadline.
	runs := map[string]*harness.Run{}
	for _, wrong := range []struct{ what, option, value string }{
		{"kernel", "-kernel", harness.Changed(t, harness.Image(t, hal.KernelFile))},
		{"initial RAM disk", "-initrd", harness.Changed(t, harness.Image(t, hal.InitrdFile))},
		{"command line", "-append", hal.CommandLine(img, true) + " "},
	} {
		host.Set(t, wrong.option, wrong.value, "")
		r := h.Submit(c, attested)
		r.Event(vm.EventBooting, harness.BootLimit)
		runs[wrong.what] = r
	}
	for what, r := range runs {
		silent := r.Event(vm.EventSilent, harness.BootLimit)
		if text := silent.String(); !strings.Contains(text, "measured boot refused") {
			t.Errorf("another %s: %s", what, text)
		}
		r.Event(vm.EventExited, harness.EndLimit)
		if strings.Contains(r.History(), vm.EventReady) {
			t.Errorf("another %s: %s", what, r.History())
		}
	}
}
