package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ultravioletrs/cocos/hal/cpio"
	"github.com/ultravioletrs/cocos/internal/scratch"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/bench/scratchguest"
)

const (
	// scratchShare of the lab's size is written and read in a turn.
	scratchShare    = 16
	scratchDeadline = 15 * time.Minute
)

// scratchRates reads and writes through the scratch disk's encryption and hash tree,
// beside the bare disk, in one VM. Its kernel and modules are the image's; in the
// agent's place it has a program that measures.
func scratchRates(ctx context.Context, l *lab) (rows []row, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, scratchDeadline, fmt.Errorf("not done within %v", scratchDeadline))
	defer cancel()
	hardware, err := machine(ctx, l)
	if err != nil {
		return nil, err
	}
	owner, err := l.newParty()
	if err != nil {
		return nil, err
	}
	m, err := owner.manifest(manifest.Algorithm{Type: manifest.Binary, SHA256: sha256.Sum256([]byte("bench")), Size: 1})
	if err != nil {
		return nil, err
	}
	blocks := (l.size/scratchShare + scratch.BlockSize - 1) / scratch.BlockSize
	plan := scratchguest.Plan{Bytes: max(blocks, 1) * scratch.BlockSize, Turns: l.runs}
	if hardware.Boot.Initrd, err = packScratchGuest(ctx, l, hardware.Boot.Initrd, plan); err != nil {
		return nil, err
	}
	hardware.ScratchBytes = scratch.Need(plan.Bytes)
	hardware.Limits.Ready = int(scratchDeadline.Seconds()) // there is no agent to be ready
	dir, err := os.MkdirTemp(diskParent, "cocos-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a folder on disk: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if room(dir) < hardware.ScratchBytes {
		return nil, fmt.Errorf("%s has no room for a scratch disk of %d bytes", diskParent, hardware.ScratchBytes)
	}
	v, err := l.startVMIn(ctx, dir, hardware, m, "info")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.end(ctx)) }()
	_, ended := v.await(ctx, vm.EventExited)
	console, err := os.ReadFile(v.dir.Console())
	if err := errors.Join(ended, err); err != nil {
		return nil, fmt.Errorf("%w; the console: %s", err, bytes.TrimSpace(console))
	}
	turns, err := scratchguest.Parse(string(console), plan.Turns)
	if err != nil {
		return nil, fmt.Errorf("%w; the console: %s", err, bytes.TrimSpace(console))
	}
	const reference = "the bare disk in the same VM"
	read := row{name: "scratch_throughput", unit: "MiB/s", reference: reference}
	write := row{name: "scratch_write_throughput", unit: "MiB/s", reference: reference}
	rate := func(d time.Duration) float64 { return float64(plan.Bytes) / mib / d.Seconds() }
	for _, t := range turns {
		read.values = append(read.values, rate(t.Read))
		read.referenceValues = append(read.referenceValues, rate(t.BareRead))
		write.values = append(write.values, rate(t.Write))
		write.referenceValues = append(write.referenceValues, rate(t.BareWrite))
	}
	return []row{read, write}, nil
}

// packScratchGuest makes an initial RAM disk of the image's, with the program that
// measures in the place of the agent.
func packScratchGuest(ctx context.Context, l *lab, image string, plan scratchguest.Plan) (string, error) {
	bin := l.path("scratchguest")
	if err := buildProgram(ctx, bin, "./test/bench/scratchguest/init"); err != nil {
		return "", err
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		return "", err
	}
	planned, err := json.Marshal(plan)
	if err != nil {
		return "", err
	}
	base, err := os.ReadFile(image)
	if err != nil {
		return "", err
	}
	// Of two files of a name the kernel takes the later one. An archive that is not
	// compressed begins at a multiple of four bytes.
	out := bytes.NewBuffer(append(base, make([]byte, -len(base)&3)...))
	err = cpio.Write(out, []cpio.Entry{
		{Name: "init", Mode: 0o755, Data: program},
		{Name: scratchguest.PlanFile, Mode: 0o644, Data: planned},
	})
	if err != nil {
		return "", err
	}
	initrd := l.path("scratch.cpio")
	return initrd, os.WriteFile(initrd, out.Bytes(), 0o600)
}
