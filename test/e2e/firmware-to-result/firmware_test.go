// Package firmware shows that a computation runs to its result in a VM that
// boots through OVMF, and that the firmware's variables are the VM's own: no two
// VMs share them, the template stays as it is, and nothing outlives the VM.
package firmware

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

// The versions are those that emulate reliably: of Debian 13 and of its
// backports, which move on.
func TestThroughOVMF(t *testing.T) {
	for _, version := range []string{"10.0", "11"} {
		t.Run("QEMU "+version, func(t *testing.T) {
			find, err := emulator.New(os.Getenv, progress.New(t.Output(), false, time.Now))
			if err != nil {
				t.Fatal(err)
			}
			bin, err := find.Version(t.Context(), version)
			if err != nil {
				t.Fatal(err)
			}
			v, err := qemu.Probe(t.Context(), bin)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("QEMU %s is %s", version, v)
			ovmf, err := find.Firmware(t.Context(), emulator.FirmwareRelease)
			if err != nil {
				t.Fatal(err)
			}
			throughOVMF(t, bin, filepath.Join(ovmf, "OVMF_CODE_4M.fd"), filepath.Join(ovmf, "OVMF_VARS_4M.fd"))
		})
	}
}

func throughOVMF(t *testing.T, bin, code, template string) {
	vars := copyOf(t, template)
	before := read(t, vars)
	data := filepath.Join(t.TempDir(), "data.txt")
	if err := os.WriteFile(data, []byte("through OVMF"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := harness.Start(t,
		harness.Env(qemu.Variable+"="+bin),
		harness.Env("MANAGER_QEMU_OVMF_CODE_FILE="+code),
		harness.Env("MANAGER_QEMU_OVMF_VARS_FILE="+vars))
	c := server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}, Data: []string{data}}
	r := h.Submit(c, nil)
	r.Ready()

	// The firmware of this VM has written to this VM's copy.
	if firmwareRan(before) {
		t.Fatalf("%s is no template: firmware has used it", template)
	}
	own := r.Dir().Vars()
	if !firmwareRan(read(t, own)) {
		t.Errorf("no firmware has used %s", own)
	}
	commandLine(t, r.Dir(), code, own)

	// Another VM has its own.
	other := h.Submit(c, nil)
	other.Event(vm.EventBooting, harness.BootLimit)
	harness.Differ(t, own, other.Dir().Vars())
	harness.Differ(t, vars, other.Dir().Vars())
	other.Stop()

	r.Upload()
	r.State("ResultReady")
	want := fmt.Sprintf("%x  datasets/data.txt\n", sha256.Sum256([]byte("through OVMF")))
	if got := h.Read(r.Result(), "results", "sums.txt"); got != want {
		t.Errorf("the algorithm saw\n%s\nuploaded was\n%s", got, want)
	}
	if !firmwareRan(read(t, own)) {
		t.Errorf("the other VM's end took the firmware's variables from %s", own)
	}
	r.Stop()
	for _, run := range []*harness.Run{r, other} {
		if _, err := os.Stat(string(run.Dir())); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s outlives its VM: %v", run.Dir(), err)
		}
	}
	if !bytes.Equal(read(t, vars), before) {
		t.Errorf("the template %s was changed", vars)
	}
}

// firmwareRan says whether UEFI's boot order, which firmware writes when it
// finds none, is among the variables (UEFI 2.10, 3.3; names are UTF-16).
func firmwareRan(vars []byte) bool {
	var name []byte
	for _, c := range utf16.Encode([]rune("BootOrder\x00")) {
		name = append(name, byte(c), byte(c>>8))
	}
	return bytes.Contains(vars, name)
}

// commandLine looks at the emulator that has the VM's folder on its command
// line: it must have the code as a chip to read and vars as one to write.
func commandLine(t *testing.T, dir vm.Dir, code, vars string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(b, []byte(dir.QMPSocket())) {
			continue // ended meanwhile, or not this VM's
		}
		args := strings.Split(string(b), "\x00")
		for _, want := range []string{
			"if=pflash,format=raw,unit=0,file=" + code + ",readonly=on",
			"if=pflash,format=raw,unit=1,file=" + vars,
		} {
			if !contains(args, want) {
				t.Errorf("the emulator runs without -drive %s: %q", want, args)
			}
		}
		return
	}
	t.Errorf("no process runs the VM in %s", dir)
}

func contains(args []string, drive string) bool {
	for i, a := range args[1:] {
		if a == drive && args[i] == "-drive" {
			return true
		}
	}
	return false
}

func copyOf(t *testing.T, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.WriteFile(to, read(t, name), 0o644); err != nil {
		t.Fatal(err)
	}
	return to
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
