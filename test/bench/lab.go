package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/qemu"
)

const mib = 1 << 20

// lab is where the benches work: a folder of their own, removed at the end.
type lab struct {
	dir  string
	size int64 // of what is uploaded, downloaded and hashed, in bytes
	runs int
	self string // this program, for its helpers

	began      time.Time
	dataFile   string // made by data, once
	dataDigest [sha256.Size]byte
}

// copies is how many files of the lab's size there are at once at most.
const copies = 6

func newLab(dir string, size int64, runs int) (*lab, error) {
	if _, err := os.Stat("go.mod"); err != nil {
		return nil, errors.New("run it in the root of the repository: there is no go.mod here")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	parent := dir
	if parent == "" {
		parent = os.TempDir()
		// A VM's agent stores in memory; a disk would hide what costs what.
		if room("/dev/shm") > copies*size && memAvailable() > (copies+2)*size {
			parent = "/dev/shm"
		}
	}
	l := &lab{size: size, runs: runs, self: self, began: time.Now()}
	// A short name: unix sockets are made in it.
	if l.dir, err = os.MkdirTemp(parent, "cocos-bench-"); err != nil {
		return nil, fmt.Errorf("making the work folder: %w", err)
	}
	if room(l.dir) < copies*size {
		return nil, errors.Join(fmt.Errorf("%s has no room for %d files of %d bytes; give another folder with -dir or fewer bytes with -size", parent, copies, size), l.close())
	}
	l.say("working in %s", l.dir)
	return l, nil
}

func (l *lab) close() error {
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("removing the work folder: %w", err)
	}
	return nil
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// say tells on standard error how it goes.
func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "[%6.1f s] %s\n", time.Since(l.began).Seconds(), fmt.Sprintf(format, args...))
}

// data is a file of the lab's size, and its digest.
func (l *lab) data() (name string, digest [sha256.Size]byte, err error) {
	if l.dataFile != "" {
		return l.dataFile, l.dataDigest, nil
	}
	name = l.path("data.bin")
	f, err := os.Create(name)
	if err != nil {
		return "", digest, fmt.Errorf("making the data: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	var seed [32]byte // the same data each time
	if _, err := io.CopyBuffer(io.MultiWriter(f, h), io.LimitReader(rand.NewChaCha8(seed), l.size), make([]byte, mib)); err != nil {
		return "", digest, fmt.Errorf("making the data: %w", err)
	}
	// Written back now, not while something is measured.
	if err := f.Sync(); err != nil {
		return "", digest, fmt.Errorf("making the data: %w", err)
	}
	l.dataFile, l.dataDigest = name, [sha256.Size]byte(h.Sum(nil))
	return l.dataFile, l.dataDigest, nil
}

// warm writes a file of the lab's size and removes it. Before each turn of a
// transfer it makes what is about to be written cost both sides the same: the
// pages of a file in memory that nobody has used for a while may first have to
// be fetched back from the host of the machine that this runs on.
func (l *lab) warm() error {
	name := l.path("warm.bin")
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("warming the work folder: %w", err)
	}
	b := make([]byte, mib)
	for left := l.size; left > 0 && err == nil; left -= int64(len(b)) {
		_, err = f.Write(b[:min(left, int64(len(b)))])
	}
	if err := errors.Join(err, f.Close(), os.Remove(name)); err != nil {
		return fmt.Errorf("warming the work folder: %w", err)
	}
	return nil
}

// qemu is the emulator that a Manager here would use.
func (l *lab) qemu(ctx context.Context) (string, error) {
	name := cmp.Or(os.Getenv("MANAGER_QEMU_BIN_PATH"), "qemu-system-x86_64")
	if _, err := qemu.Probe(ctx, name); err != nil {
		return "", fmt.Errorf("%w; scripts/qemu prints the path of one, fetching it where needed", err)
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(found)
}

// rate of the lab's size in MiB/s.
func (l *lab) rate(d time.Duration) float64 { return float64(l.size) / mib / d.Seconds() }

// room is what an ordinary user may still write under dir, in bytes.
func room(dir string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0
	}
	return int64(s.Bavail) * s.Bsize
}

func memAvailable() int64 {
	kib, err := statusKiB("/proc/meminfo", "MemAvailable")
	if err != nil {
		return 0
	}
	return kib << 10
}

// statusKiB reads a "Name:  N kB" line.
func statusKiB(file, name string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), name+":"); ok {
			return strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}

// memory watches a process's resident set: everything that it has mapped, the
// pages of its binary included. Files that it writes are not in it.
type memory struct {
	pid  int
	idle int64 // KiB
}

func watchMemory(pid int) (m memory, err error) {
	m.pid = pid
	m.idle, err = statusKiB(fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
	return m, err
}

// reset makes the peak what is resident now (proc(5), clear_refs).
func (m memory) reset() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.pid), []byte("5"), 0)
}

// aboveIdle is the peak since reset, less what was resident when it was idle,
// in MiB.
func (m memory) aboveIdle() (float64, error) {
	peak, err := statusKiB(fmt.Sprintf("/proc/%d/status", m.pid), "VmHWM")
	return float64(peak-m.idle) / 1024, err
}

func hexDigest(d [sha256.Size]byte) string { return hex.EncodeToString(d[:]) }
