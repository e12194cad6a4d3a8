// Command init is the first process of the VM in which the bench measures the
// scratch disk. It boots as the agent does, up to the open disk, and then writes and
// reads the plan's bytes in turns: in a region of the scratch disk, and on the bare
// virtio disk at the same place. It says the times on the console, and what went
// wrong instead.
//
// Both write past the page cache, in pieces of one size, and to the disk before the
// clock stops. Before both read, the kernel drops what it has cached; the disk's own
// counter then has to say that at least all the bytes were read of it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/scratch"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/bench/scratchguest"
)

func main() {
	if os.Getpid() == 1 {
		guest.Supervise("/init", os.Stderr)
	}
	turns, err := measure(context.Background())
	if err == nil {
		var line string
		if line, err = scratchguest.Line(turns); err == nil {
			_, err = fmt.Fprintln(os.Stderr, line)
		}
	}
	if err != nil {
		guest.Say(os.Stderr, "%v", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context) ([]scratchguest.Turn, error) {
	var m guest.Machine
	if err := guest.Run(ctx, m.Phases()); err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/" + scratchguest.PlanFile)
	if err != nil {
		return nil, err
	}
	var plan scratchguest.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return nil, fmt.Errorf("parsing the plan: %w", err)
	}
	disk, err := m.FindScratch(ctx, &manifest.Manifest{ScratchBytes: scratch.Need(plan.Bytes)})
	if err != nil {
		return nil, err
	}
	b, err := findBare()
	if err != nil {
		return nil, err
	}
	// O_DIRECT wants memory that begins at a page.
	if b.piece, err = unix.Mmap(-1, 0, 512<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
		return nil, fmt.Errorf("making a buffer: %w", err)
	}
	_, _ = rand.NewChaCha8([32]byte{}).Read(b.piece) // never fails
	// The host gives a sparse file its blocks when they are first written.
	if _, err := b.write(scratch.Need(plan.Bytes)); err != nil {
		return nil, err
	}
	var turns []scratchguest.Turn
	for range plan.Turns {
		var t scratchguest.Turn
		if err := b.region(disk, plan.Bytes, &t); err != nil {
			return nil, err
		}
		if t.BareWrite, err = b.write(plan.Bytes); err != nil {
			return nil, err
		}
		if t.BareRead, err = b.read(b.open, plan.Bytes); err != nil {
			return nil, err
		}
		turns = append(turns, t)
	}
	return turns, nil
}

// bare is the virtio disk below the scratch disk.
type bare struct {
	name  string // such as "vdb"
	piece []byte // what is written, again and again
}

func findBare() (*bare, error) {
	serials, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return nil, err
	}
	for _, file := range serials {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == vm.ScratchSerial {
			return &bare{name: filepath.Base(filepath.Dir(file))}, nil
		}
	}
	return nil, fmt.Errorf("none of %q is %s", serials, vm.ScratchSerial)
}

func (b *bare) open() (*os.File, error) { return os.Open("/dev/" + b.name) }

// region takes the times of a region, whose place is free again afterwards.
func (b *bare) region(disk *scratch.Disk, size int64, t *scratchguest.Turn) (err error) {
	r, err := disk.Create(size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Release()) }()
	begun := time.Now()
	if err := b.fill(r, size); err != nil {
		return err
	}
	if err := r.Seal(); err != nil {
		return err
	}
	t.Write = time.Since(begun)
	if t.Read, err = b.read(r.Open, size); err != nil {
		return err
	}
	if changed, err := r.Changed(); err != nil || changed {
		return errors.Join(errors.New("a block is not the one that was written"), err)
	}
	return nil
}

// write writes to the bare disk, from its first byte on.
func (b *bare) write(size int64) (time.Duration, error) {
	f, err := os.OpenFile("/dev/"+b.name, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	begun := time.Now()
	err = b.fill(f, size)
	if err := errors.Join(err, f.Sync()); err != nil {
		return 0, fmt.Errorf("writing to the bare disk: %w", err)
	}
	return time.Since(begun), nil
}

func (b *bare) fill(w io.Writer, size int64) error {
	for size > 0 {
		n, err := w.Write(b.piece[:min(size, int64(len(b.piece)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

// read reads what open opens from its first byte on, all of it from the disk.
func (b *bare) read(open func() (*os.File, error), size int64) (time.Duration, error) {
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0); err != nil {
		return 0, fmt.Errorf("dropping the caches: %w", err)
	}
	f, err := open()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	before, err := b.bytesRead()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	buffer := make([]byte, len(b.piece))
	for left := size; left > 0; {
		n, err := f.Read(buffer[:min(left, int64(len(buffer)))])
		if err != nil {
			return 0, fmt.Errorf("reading with %d bytes to go: %w", left, err)
		}
		left -= int64(n)
	}
	took := time.Since(begun)
	after, err := b.bytesRead()
	if err != nil {
		return 0, err
	}
	if after-before < size {
		return 0, fmt.Errorf("of %d bytes %d came from the disk; expected all: the rest came from memory", size, after-before)
	}
	return took, nil
}

// bytesRead is what was read of the disk so far: the third figure of its "stat", in
// sectors of 512 bytes.
func (b *bare) bytesRead() (int64, error) {
	text, err := os.ReadFile("/sys/block/" + b.name + "/stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return 0, fmt.Errorf("the disk's counters are %q", text)
	}
	sectors, err := strconv.ParseInt(fields[2], 10, 64)
	return sectors * 512, err
}
