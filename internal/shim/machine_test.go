package shim

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/qcow2"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// firmware gives a VM flash chips whose files are in a folder beside it.
func firmware(t *testing.T, dir vm.Dir, spec *vm.Spec) (vars string) {
	t.Helper()
	folder := filepath.Dir(string(dir))
	vars = filepath.Join(folder, "VARS.fd")
	chip := vm.Flash{Interface: "pflash", Format: vm.DiskRaw, File: filepath.Join(folder, "CODE.fd"), ReadOnly: true}
	spec.Machine.Boot.Firmware = &vm.Firmware{Code: chip, Vars: vm.Flash{Interface: "pflash", Format: vm.DiskRaw, Unit: 1, File: vars}}
	for _, name := range []string{chip.File, vars} {
		if err := os.WriteFile(name, []byte(strings.Repeat(name, 1000)), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	return vars
}

// A VM writes to files of its own, which go with it.
func TestOwnVariablesAndOverlay(t *testing.T) {
	for _, format := range []string{vm.DiskRaw, vm.DiskQcow2} {
		t.Run(format, func(t *testing.T) {
			dir, spec := newVM(t, "")
			vars := firmware(t, dir, &spec)
			image := filepath.Join(filepath.Dir(string(dir)), "disk")
			content := []byte(strings.Repeat("raw disk", 1<<16))
			if err := os.WriteFile(image, content, 0o444); err != nil {
				t.Fatal(err)
			}
			if format == vm.DiskQcow2 {
				raw, err := os.Open(image)
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				image += ".qcow2"
				out, err := os.Create(image)
				if err != nil {
					t.Fatal(err)
				}
				if err := qcow2.Write(out, raw, int64(len(content))); err != nil {
					t.Fatal(err)
				}
				_ = out.Close()
			}
			spec.Machine.Boot.Kernel, spec.Machine.Boot.Initrd, spec.Machine.Boot.CommandLine = "", "", ""
			spec.Machine.Boot.Disk = &vm.Disk{Interface: "none", ID: "disk0", Format: format, Image: image}
			spec.Machine.ScratchBytes = 1 << 40
			writeSpec(t, dir, spec)
			f := startShim(t, dir, nil).follow()
			f.until(vm.EventBooting)
			got, err := os.ReadFile(dir.Vars())
			want, _ := os.ReadFile(vars)
			if err != nil || string(got) != string(want) {
				t.Errorf("the VM's variables are %d bytes, %v; the template has %d", len(got), err, len(want))
			}
			overlay, err := os.ReadFile(dir.Overlay())
			if err != nil || !strings.Contains(string(overlay[:1024]), image) || !strings.Contains(string(overlay[:1024]), format) {
				t.Errorf("the overlay is %d bytes, %v", len(overlay), err)
			}
			for _, name := range []string{dir.Vars(), dir.Overlay(), dir.Scratch()} {
				info, err := os.Stat(name)
				if err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%v, %v", info, err)
				}
			}
			if info, err := os.Stat(dir.Scratch()); err != nil || info.Size() != 1<<40 || info.Sys().(*syscall.Stat_t).Blocks != 0 {
				t.Errorf("the scratch disk: %+v, %v", info, err)
			}
			if err := os.WriteFile(dir.Vars(), []byte("written by the VM"), 0o600); err != nil {
				t.Fatal(err)
			}
			control(t, dir, "exit 0")
			f.until(vm.EventExited)
			if again, _ := os.ReadFile(vars); string(again) != string(want) {
				t.Error("the template has changed")
			}
			for _, name := range []string{dir.Vars(), dir.Overlay(), dir.Scratch()} {
				if _, err := os.Stat(name); !os.IsNotExist(err) {
					t.Errorf("%s is left: %v", name, err)
				}
			}
		})
	}
}

func TestDisksThatCannotBeMade(t *testing.T) {
	dir, spec := newVM(t, "")
	vars := firmware(t, dir, &spec)
	b := spec.Machine.Boot
	for name, c := range map[string]struct {
		prepare func(t *testing.T) vm.Machine
		want    string
	}{
		"no variables": {func(*testing.T) vm.Machine {
			other := *b.Firmware
			other.Vars.File += "x"
			return vm.Machine{Boot: vm.Boot{Firmware: &other}}
		}, "VARS.fdx"},
		"many variables": {func(t *testing.T) vm.Machine {
			other := *b.Firmware
			other.Vars.File = filepath.Join(t.TempDir(), "large")
			if err := os.WriteFile(other.Vars.File, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(other.Vars.File, maxVars+1); err != nil {
				t.Fatal(err)
			}
			return vm.Machine{Boot: vm.Boot{Firmware: &other}}
		}, "more than 8388608 bytes"},
		"no room for an overlay": {func(t *testing.T) vm.Machine {
			if err := os.Mkdir(dir.Overlay(), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(dir.Overlay()) })
			return vm.Machine{Boot: vm.Boot{Firmware: b.Firmware, Disk: &vm.Disk{Format: vm.DiskRaw, Image: vars}}}
		}, "machine.boot.disk.image"},
		"somebody's scratch disk": {func(t *testing.T) vm.Machine {
			if err := os.WriteFile(dir.Scratch(), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(dir.Scratch()) })
			return vm.Machine{Boot: b, ScratchBytes: 4096}
		}, "machine.scratch_bytes"},
		"a scratch disk that no file system takes": {func(*testing.T) vm.Machine {
			return vm.Machine{Boot: b, ScratchBytes: 1 << 62}
		}, "machine.scratch_bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := makeDisks(c.prepare(t), dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(dir.Vars()); !os.IsNotExist(err) {
				t.Errorf("the copy is left: %v", err)
			}
		})
	}
	// What is there is somebody's.
	if err := os.WriteFile(dir.Vars(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := makeDisks(vm.Machine{Boot: b}, dir); !os.IsExist(err) && (err == nil || !strings.Contains(err.Error(), "exists")) {
		t.Errorf("got %v", err)
	}
	if got, _ := os.ReadFile(dir.Vars()); string(got) != "x" {
		t.Errorf("it was overwritten with %q", got)
	}
}

// log returns the first line of a shim's log for the Manager that has text.
func (f *follow) log(text string) *eventv1.Log {
	f.t.Helper()
	for {
		if l := f.next().GetLog(); strings.Contains(l.GetMessage(), text) {
			return l
		}
	}
}

func TestCommandIsLogged(t *testing.T) {
	dir, _ := newVM(t, "")
	f := startShim(t, dir, nil).follow()
	l := f.log("starting QEMU: ")
	if want := "/qemu -name guest=" + testRun + " -nodefaults "; l.GetLevel() != eventv1.Level_LEVEL_INFO || l.GetRunId() != testRun ||
		!strings.Contains(l.GetMessage(), want) || !strings.Contains(l.GetMessage(), " -append console=ttyS0 ") {
		t.Errorf("got %v", l)
	}
	// Where the monitor for people is.
	if l := f.log("QEMU: char device redirected to /dev/pts/7"); l.GetLevel() != eventv1.Level_LEVEL_INFO {
		t.Errorf("got %v", l)
	}
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	dir, spec := newVM(t, "button")
	spec.Machine.Limits.Life, spec.Machine.Limits.Stop = 5, 600
	writeSpec(t, dir, spec)
	f := startShim(t, dir, nil).follow()
	g, _ := dialGuest(t, dir)
	f.until(vm.EventBooting)
	if e := f.event(); e.GetKind() != vm.EventExpired || !strings.Contains(e.GetMessage(), "5s") {
		t.Errorf("got %v", e)
	}
	if e := f.until(vm.EventStopping); !strings.Contains(e.GetMessage(), "as long as it may") {
		t.Errorf("got %v", e)
	}
	if g.next().GetStop() == nil {
		t.Error("the agent was not asked first")
	}
	control(t, dir, "exit 0") // as the guest does
	f.until(vm.EventExited)
}

// A VM that is being stopped when its time is over is stopped by then, not by
// the later time that was allowed.
func TestTimeToLiveWhileStopping(t *testing.T) {
	t.Parallel()
	dir, spec := newVM(t, "")
	spec.Machine.Limits.Life, spec.Machine.Limits.Stop = 5, 1
	writeSpec(t, dir, spec)
	s := startShim(t, dir, nil)
	f := s.follow()
	dialGuest(t, dir)
	f.until(vm.EventBooting)
	if _, err := s.api.Stop(t.Context(), &shimv1.StopRequest{GraceSeconds: 100_000}); err != nil {
		t.Fatal(err)
	}
	if e := f.until(vm.EventStopping); e.GetMessage() != "" {
		t.Errorf("got %v", e)
	}
	if e := f.event(); e.GetKind() != vm.EventExited {
		t.Errorf("got %v", e)
	}
}

// Without a grace of its own a request to stop takes the VM's.
func TestGraceOfTheVM(t *testing.T) {
	dir, spec := newVM(t, "")
	spec.Machine.Limits.Stop = 1
	writeSpec(t, dir, spec)
	s := startShim(t, dir, func(c *Config) { c.StopGrace = 100_000 * time.Second })
	f := s.follow()
	g, _ := dialGuest(t, dir)
	f.until(vm.EventBooting)
	if _, err := s.api.Stop(t.Context(), &shimv1.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if g.next().GetStop() == nil {
		t.Error("the agent was not asked first")
	}
	if e := f.until(vm.EventExited); e.GetAttributes()["reason"] != "host-qmp-quit" {
		t.Errorf("got %v", e)
	}
}

// A VM whose monitor is lost can't be controlled: it is ended, and the reason
// told.
func TestMonitorThatBreaks(t *testing.T) {
	for name, c := range map[string]struct{ command, want string }{
		"nonsense":          {"say }{", "invalid character"},
		"a wrong answer":    {`say {"return": {}, "id": 4711}`, "answer to 4711"},
		"hangs up":          {"hang up", "EOF"},
		"floods":            {"flood", "flood of events"},
		"a line and no end": {"line", "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := newVM(t, "button")
			f := startShim(t, dir, func(c *Config) { c.StopGrace = time.Second }).follow()
			g, _ := dialGuest(t, dir)
			f.until(vm.EventBooting)
			control(t, dir, c.command)
			if e := f.until(vm.EventStopping); !strings.Contains(e.GetMessage(), "can't be controlled any more") || !strings.Contains(e.GetMessage(), c.want) {
				t.Errorf("got %v", e)
			}
			if g.next().GetStop() == nil {
				t.Error("the agent was not asked first")
			}
			if e := f.until(vm.EventExited); e.GetAttributes()["exit_status"] != "137" {
				t.Errorf("got %v", e)
			}
		})
	}
}

func TestMonitorThatIsNone(t *testing.T) {
	dir, _ := newVM(t, "nonsense")
	f := startShim(t, dir, nil).follow()
	e := f.until(vm.EventExited)
	if e.GetAttributes()["exit_status"] != "137" || !strings.Contains(e.GetMessage(), "does not speak as one") {
		t.Errorf("got %v", e)
	}
}

func TestStopWhileQEMUStarts(t *testing.T) {
	dir, _ := newVM(t, "frozen")
	s := startShim(t, dir, nil)
	f := s.follow()
	f.until(vm.EventStarting)
	if _, err := s.api.Stop(t.Context(), &shimv1.StopRequest{GraceSeconds: 100_000}); err != nil {
		t.Fatal(err)
	}
	if e := f.until(vm.EventExited); !strings.Contains(e.GetMessage(), "a stop was asked for") {
		t.Errorf("got %v", e)
	}
}

// What QEMU says last is kept, what is no fault is not called one.
func TestQEMUsLastWordWithoutALine(t *testing.T) {
	w := &lineLog{tail: new(tail), log: slog.New(slog.DiscardHandler), tell: func(_ slog.Level, line string) { _ = line }}
	fmt.Fprint(w, "char device redirected to /dev/pts/7 (label x)\nfirst\nlast")
	w.flush()
	w.flush()
	if got := w.tail.lastLines(5); got != "first\nlast" {
		t.Errorf("got %q", got)
	}
}
