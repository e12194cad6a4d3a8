package manager

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

const envNamespace = "COCOS_TEST_NAMESPACE"

// inNamespace runs the test that calls it once more, in a process that may
// mount file systems which only it sees; true: this is that process.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envNamespace) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), envNamespace+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("in a namespace of its own: %v\n%s", err, out)
	}
	return false
}

// mount puts a file system of so many KiB at path.
func mount(t *testing.T, path string, kib int) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=700", kib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

// fill takes all that is free, and gives it back.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "img") // a state directory may have one
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStateDirectoryOnAFullDisk: a run is refused and leaves nothing; one that
// is there loses nothing, and ends when there is room again.
func TestStateDirectoryOnAFullDisk(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t, nil)
	mount(t, l.state, 1024)
	book := &logBook{testWriter: testWriter{t}}
	stop := l.insideLogging(book)
	first := l.submit()
	l.accepted(first)
	l.waitShim(first)
	empty := fill(t, l.state)
	second := l.submit()
	f := l.faults(second)
	if len(f) != 1 || !strings.HasPrefix(f[0], string(Internal)) || !strings.Contains(f[0], "no space left") {
		t.Errorf("on a full disk: %q", f)
	}
	for _, name := range []string{second, second + newSuffix} {
		if _, err := os.Lstat(filepath.Join(l.state, vm.VMsDir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	l.killShim()
	for book.count("level=ERROR", first, "no space left") == 0 && l.ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	empty()
	if kinds := l.complete(first); count(kinds, vm.EventLost) != 1 || count(kinds, vm.EventState) != 5 {
		t.Errorf("events: %v", kinds)
	}
	l.resubmit(second)
	l.accepted(second)
	l.waitShim(second)
	l.stop(second)
	l.empty()
	stop()
}

// TestStateDirectoryThatCannotBeWritten is refused by name.
func TestStateDirectoryThatCannotBeWritten(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	refused := func(dir, says string) {
		t.Helper()
		s, err := openState(dir)
		if err == nil {
			_ = s.Close()
			t.Fatal("it is taken")
		}
		if !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "MANAGER_STATE_DIR") {
			t.Errorf("%v\nexpected %q in it", err, says)
		}
	}
	dir := filepath.Join(shortDir(t), "s")
	mount(t, dir, 64)
	empty := fill(t, dir)
	refused(dir, "no space left")
	empty()
	s, err := openState(dir)
	if err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	refused(dir, "read-only")
	refused(filepath.Join(dir, "new"), "read-only")
}
