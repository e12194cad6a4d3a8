// Package installed shows that what is installed works: in a VM that boots
// systemd, from the source tree and as Debian packages, upgraded under a VM that
// runs, and removed without a trace. What happens in the VM is package inside.
package installed

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
	"github.com/ultravioletrs/cocos/test/e2e/installed/inside"
	"github.com/ultravioletrs/cocos/test/e2e/installed/machine"
	"github.com/ultravioletrs/cocos/test/parts"
)

// limit is for the whole VM, which is emulated where there is no KVM.
const limit = 20 * time.Minute

func TestInstalled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	log := progress.New(testLog{t}, false, time.Now)
	root, err := machine.Root(ctx, harness.Root(), log)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	initrd, console := filepath.Join(dir, "initrd"), filepath.Join(dir, "console")
	if err := machine.Initrd(ctx, harness.Root(), initrd, log); err != nil {
		t.Fatal(err)
	}
	payload := filepath.Join(dir, "payload")
	fill(t, payload)
	disk := filepath.Join(dir, "payload.squashfs")
	if err := parts.Squash(ctx, harness.Root(), payload, disk, log); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(payload); err != nil {
		t.Fatal(err)
	}
	bin := emulator(t)
	accel := vm.AccelTCG
	if usable, why := qemu.KVMUsable(ctx, bin); usable {
		accel = vm.AccelKVM
	} else {
		t.Logf("emulating the VM: %s", why)
	}
	report := &report{show: func(line string) { t.Log(line) }, outcomes: map[string]bool{}}
	err = machine.VM{
		QEMU: bin, Accel: accel, Kernel: harness.Image(t, "bzImage"),
		Initrd: initrd, Root: root, Payload: disk, Console: console, Report: report,
	}.Run(ctx)
	if err != nil || !report.over {
		text, _ := os.ReadFile(console)
		t.Errorf("the VM did not come to its end: %v\nits console:\n%s", err, lastLines(text, 60))
	}
	for _, name := range inside.Names() {
		t.Run(name, func(t *testing.T) {
			if passed, known := report.outcomes[name]; !known {
				t.Error("this step was not reached; the log of the test above it says why")
			} else if !passed {
				t.Error("this step failed; the log of the test above it says why")
			}
		})
	}
}

// fill makes the payload: programs, the source tree as far as make install
// reads it, and packages of two versions.
func fill(t *testing.T, payload string) {
	t.Helper()
	tree := filepath.Join(payload, "source")
	for _, b := range []struct{ to, pkg, flags string }{
		{"run", "./test/e2e/installed/inside/run", "-s -w"},
		{"computations", "./test/computations", "-s -w"},
		{"source/build/cocos-manager", "./cmd/manager", ""},
		{"source/build/cocos-computations", "./cmd/computations", "-s -w"},
		{"source/build/cocos-cli", "./cmd/cli", ""},
		// The same program in other bytes: an upgrade must replace it.
		{"newer/cocos-manager", "./cmd/manager", "-s -w"},
		{"newer/cocos-computations", "./cmd/computations", "-s -w"},
		{"newer/cocos-cli", "./cmd/cli", "-s -w"},
	} {
		command(t, nil, "go", "build", "-trimpath", "-ldflags="+b.flags, "-o", filepath.Join(payload, b.to), b.pkg)
	}
	command(t, nil, "cp", "-r", "Makefile", "packaging", tree)
	images := filepath.Join(tree, "cmd/manager/img")
	if err := os.MkdirAll(images, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bzImage", "rootfs.cpio.gz", "python.img", "image.json"} {
		if err := os.Symlink(harness.Image(t, name), filepath.Join(images, name)); err != nil {
			t.Fatal(err)
		}
	}
	// Packages hold the files themselves; the VM's source tree needs them, too.
	for version, from := range map[string]string{"old": "source/build", "new": "newer"} {
		number := map[string]string{"old": "1.0.0", "new": "1.0.0+git20261124"}[version]
		command(t, []string{"VERSION=" + number, "SOURCE_DATE_EPOCH=1700000000", "BUILD=" + filepath.Join(payload, from), "IMAGE=" + images},
			"packaging/deb", filepath.Join(payload, version))
	}
	if err := os.RemoveAll(filepath.Join(payload, "newer")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(images); err != nil {
		t.Fatal(err)
	}
	command(t, nil, "mkdir", images)
	for _, name := range []string{"bzImage", "rootfs.cpio.gz", "python.img", "image.json"} {
		command(t, nil, "cp", harness.Image(t, name), images)
	}
}

// command runs one in the source tree.
func command(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = harness.Root()
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func emulator(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("MANAGER_QEMU_BIN_PATH")
	if bin == "" {
		bin = "qemu-system-x86_64"
	}
	path, err := exec.LookPath(bin)
	if err != nil {
		t.Fatalf("no QEMU: %v; set MANAGER_QEMU_BIN_PATH to the output of scripts/qemu", err)
	}
	return path
}

// report takes the lines that the VM tells, and shows them.
type report struct {
	show     func(line string)
	line     []byte
	outcomes map[string]bool
	over     bool
}

// Write is called from one goroutine, in pieces of any size.
func (r *report) Write(p []byte) (int, error) {
	r.line = append(r.line, p...)
	for {
		line, rest, ok := bytes.Cut(r.line, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		r.line = rest
		s := strings.TrimRight(string(line), "\r")
		r.show(s)
		r.read(s)
	}
}

func (r *report) read(s string) {
	if s == inside.Over {
		r.over = true
		return
	}
	for format, passed := range map[string]bool{inside.Passed: true, inside.Failed: false} {
		if rest, ok := strings.CutPrefix(s, strings.TrimSuffix(format, "%s")); ok {
			if i := strings.LastIndex(rest, " ("); i > 0 {
				r.outcomes[rest[:i]] = passed
			}
		}
	}
}

// testLog shows progress in the test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func TestReportCountsOnlyOutcomes(t *testing.T) {
	r := &report{show: func(string) {}, outcomes: map[string]bool{}}
	for _, piece := range []string{"=== boot\n    --- PASS: fake (1s)\r\n--- PASS: bo", "ot (2.1s)\r\n--- FAIL: run a VM (3s)\r\n--- PASS: cut"} {
		if _, err := r.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.outcomes) != 2 || !r.outcomes["boot"] || r.outcomes["run a VM"] || r.over {
		t.Errorf("read %v, over %v", r.outcomes, r.over)
	}
	if names := inside.Names(); !slices.Contains(names, "run a VM") {
		t.Errorf("the steps are %q", names)
	}
}
