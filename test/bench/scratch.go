package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	// scratchTimes is how many of the lab's size go to the scratch disk: more than
	// the VM has memory.
	scratchTimes  = 8
	parallelParts = 4
)

// uploadParallel times four datasets in one call of `cocos-cli data`, beside one
// dataset of the same bytes in such a call. Both read all of it beforehand to find
// it in the manifest.
func uploadParallel(ctx context.Context, l *lab) ([]row, error) {
	whole, digest, err := l.data()
	if err != nil {
		return nil, err
	}
	owner, err := l.newParty()
	if err != nil {
		return nil, err
	}
	parts, datasets, err := split(l, whole)
	if err != nil {
		return nil, err
	}
	never := manifest.Algorithm{Type: manifest.Binary, SHA256: sha256.Sum256([]byte("bench")), Size: 1}
	many, err := owner.manifest(never, datasets...)
	if err != nil {
		return nil, err
	}
	one, err := owner.manifest(never, manifest.Dataset{Name: "data", SHA256: digest, Size: l.size})
	if err != nil {
		return nil, err
	}
	r := row{name: "upload_parallel_4", unit: "MiB/s", reference: "one dataset of the same bytes"}
	for range l.runs {
		for _, turn := range []struct {
			m      manifest.Frozen
			paths  []string
			values *series
		}{{many, parts, &r.values}, {one, []string{whole}, &r.referenceValues}} {
			took, err := bring(ctx, l, owner, turn.m, turn.paths)
			if err != nil {
				return nil, err
			}
			*turn.values = append(*turn.values, l.rate(took))
		}
	}
	return []row{r}, nil
}

func bring(ctx context.Context, l *lab, owner party, m manifest.Frozen, paths []string) (took time.Duration, err error) {
	a, err := l.startAgent(ctx, m)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	if err := l.warm(); err != nil {
		return 0, err
	}
	_, took, err = timed(ctx, a.cli(owner, append([]string{"data"}, paths...)...)...)
	return took, err
}

// split makes files of a file's parts, and datasets of them.
func split(l *lab, whole string) (files []string, datasets []manifest.Dataset, err error) {
	in, err := os.Open(whole)
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	for i := range int64(parallelParts) {
		size := l.size*(i+1)/parallelParts - l.size*i/parallelParts
		name := fmt.Sprintf("part-%d", i)
		out, err := os.Create(l.path(name))
		if err != nil {
			return nil, nil, err
		}
		h := sha256.New()
		_, err = io.CopyN(io.MultiWriter(out, h), in, size)
		if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
			return nil, nil, fmt.Errorf("making %s: %w", name, err)
		}
		files = append(files, out.Name())
		datasets = append(datasets, manifest.Dataset{Name: name, SHA256: manifest.Digest(h.Sum(nil)), Size: size})
	}
	return files, datasets, nil
}

// uploadScratch times the upload of more than the VM's memory to its scratch disk,
// beside an upload into the memory of the same VM without one, and watches the
// agent's memory by its own log meanwhile. What is sent is zeros, which nothing on
// the way makes less of.
func uploadScratch(ctx context.Context, l *lab) (rows []row, err error) {
	hardware, err := machine(ctx, l)
	if err != nil {
		return nil, err
	}
	owner, err := l.newParty()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(diskParent, "cocos-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a folder on disk: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	large := l.size * scratchTimes
	if need := large + large/32; room(dir) < need {
		return nil, fmt.Errorf("%s has no room for a scratch disk of %d bytes", diskParent, need)
	}
	rates := row{name: "upload_8gib_scratch", unit: "MiB/s", reference: "1 GiB into the same VM's memory"}
	memory := row{name: "upload_8gib_agent_rss", unit: "MiB", aim: memoryAim, reference: "the agent's resident set when idle"}
	for range min(l.runs, scratchRuns) {
		took, idle, peak, err := zerosOnce(ctx, l, dir, hardware, owner, large, true)
		if err != nil {
			return nil, err
		}
		rates.values = append(rates.values, float64(large)/mib/took.Seconds())
		memory.values = append(memory.values, float64(peak-idle)/1024)
		memory.referenceValues = append(memory.referenceValues, float64(idle)/1024)
		if took, _, _, err = zerosOnce(ctx, l, dir, hardware, owner, l.size, false); err != nil {
			return nil, err
		}
		rates.referenceValues = append(rates.referenceValues, l.rate(took))
	}
	return []row{rates, memory}, nil
}

// scratchRuns: where VMs are emulated, one takes minutes.
const scratchRuns = 1

// zerosOnce boots a VM in dir, sends it so many zeros, and returns the time and what
// the agent had in memory before and at most, in KiB.
func zerosOnce(ctx context.Context, l *lab, dir string, hardware vm.Machine, owner party, size int64, scratch bool) (took time.Duration, idle, peak int64, err error) {
	file := filepath.Join(dir, "zeros")
	digest, err := zeros(file, size)
	if err != nil {
		return 0, 0, 0, err
	}
	d := manifest.Dataset{Name: "data", SHA256: digest, Size: size}
	m, err := owner.manifest(manifest.Algorithm{Type: manifest.Binary, SHA256: sha256.Sum256([]byte("bench")), Size: 1}, d)
	if err != nil {
		return 0, 0, 0, err
	}
	if scratch {
		with := m.Manifest
		with.ScratchBytes = with.ScratchNeed()
		if m, err = manifest.Freeze(with); err != nil {
			return 0, 0, 0, err
		}
		hardware.ScratchBytes = m.ScratchBytes
	}
	manifestFile := filepath.Join(dir, "manifest.json")
	if err := os.WriteFile(manifestFile, m.Raw, 0o600); err != nil {
		return 0, 0, 0, err
	}
	v, err := l.startVMIn(ctx, dir, hardware, m, "debug")
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, v.end(ctx)) }()
	booting, cancel := context.WithTimeoutCause(ctx, bootDeadline, fmt.Errorf("the VM was not up within %v", bootDeadline))
	defer cancel()
	ready, err := v.await(booting, vm.EventReady)
	if err != nil {
		return 0, 0, 0, err
	}
	call := func(args ...string) []string {
		return append(append([]string{cliBinary}, args...), "--agent", v.forward.String(), "--agent-key", ready.GetAttributes()["agent_key"],
			"--key", owner.keyFile, "--manifest", manifestFile)
	}
	if _, took, err = timed(ctx, call("data", file, "--name", "data", "--skip-check")...); err != nil {
		return 0, 0, 0, err
	}
	lines, _, err := timed(ctx, call("logs")...)
	if err != nil {
		return 0, 0, 0, err
	}
	idle, peak, err = memoryLines(lines)
	return took, idle, peak, err
}

// zeros makes a file of zeros, which takes no room, and returns its digest.
func zeros(name string, size int64) (digest [sha256.Size]byte, err error) {
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, size)); err != nil {
		return digest, err
	}
	h, b := sha256.New(), make([]byte, mib)
	for left := size; left > 0; left -= int64(len(b)) {
		h.Write(b[:min(left, int64(len(b)))])
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// memoryLine is what the agent logs of its memory at the level debug.
var memoryLine = regexp.MustCompile(`memory of the agent.*\bresident_kib=(\d+).*\bpeak_kib=(\d+)`)

// memoryLines returns the resident set of the first such line, and the largest peak.
func memoryLines(log string) (idle, peak int64, err error) {
	for line := range strings.Lines(log) {
		m := memoryLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		resident, err1 := strconv.ParseInt(m[1], 10, 64)
		most, err2 := strconv.ParseInt(m[2], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return 0, 0, err
		}
		if idle == 0 {
			idle = resident
		}
		peak = max(peak, most)
	}
	if idle == 0 {
		return 0, 0, fmt.Errorf("the agent's log has no line on its memory: %q", log)
	}
	return idle, peak, nil
}
