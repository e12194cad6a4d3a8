package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/cpio"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	initIsUp     = "cocos-bench: init is up" // what emptyinit prints
	bootDeadline = 3 * time.Minute
)

// boot times a VM up to its agent's ready event, beside a VM that differs in
// its initial RAM disk alone: that has nothing but an init which says so on the
// console; and one with the simulated TEE beside that VM. All are started by a shim; the clock starts with its event that says
// that QEMU is being started.
func boot(ctx context.Context, l *lab) ([]row, error) {
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
	empty := hardware
	empty.Boot.Initrd = l.path("empty.cpio.gz")
	if err := packInit(ctx, l, empty.Boot.Initrd, "./test/bench/emptyinit"); err != nil {
		return nil, err
	}
	r := row{
		name: "boot_agent_ready", unit: "s", aim: aim{bound: 1.25},
		reference: "same kernel and machine (" + hardware.Accel + "), empty Go init",
	}
	attested, ms, err := simulated(l, hardware, m)
	if err != nil {
		return nil, err
	}
	sim := row{
		name: "boot_agent_ready_simulated", unit: "s", aim: aim{bound: 1.10},
		reference: "the same without a TEE",
	}
	for range l.runs {
		took, err := bootOnce(ctx, l, hardware, m, untilReady)
		if err != nil {
			return nil, err
		}
		r.values = append(r.values, took.Seconds())
		sim.referenceValues = append(sim.referenceValues, took.Seconds())
		if took, err = bootOnce(ctx, l, attested, ms, untilReady); err != nil {
			return nil, err
		}
		sim.values = append(sim.values, took.Seconds())
		if took, err = bootOnce(ctx, l, empty, m, untilInitIsUp); err != nil {
			return nil, err
		}
		r.referenceValues = append(r.referenceValues, took.Seconds())
	}
	return []row{r, sim}, nil
}

// simulated is the same VM with the simulated TEE, for a manifest that asks for
// it and for attested TLS.
func simulated(l *lab, hardware vm.Machine, plain manifest.Frozen) (vm.Machine, manifest.Frozen, error) {
	img, err := hal.Load(imageDir)
	if err != nil {
		return hardware, plain, err
	}
	m := plain.Manifest
	m.TEE, m.AttestedTLS = manifest.TEESim, true
	frozen, err := manifest.Freeze(m)
	hardware.Boot.CommandLine = hal.CommandLine(img, true)
	hardware.TEE = &vm.TEE{Kind: vm.Simulated, LaunchField: frozen.Digest[:], Root: l.path(vm.SimDir)}
	return hardware, frozen, err
}

func bootOnce(ctx context.Context, l *lab, hardware vm.Machine, m manifest.Frozen, up func(context.Context, *shimVM) error) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootDeadline, fmt.Errorf("the VM was not up within %v", bootDeadline))
	defer cancel()
	v, err := l.startVM(ctx, hardware, m)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.end(ctx)) }()
	starting, err := v.await(ctx, vm.EventStarting)
	if err != nil {
		return 0, err
	}
	if err := up(ctx, v); err != nil {
		console, _ := os.ReadFile(v.dir.Console())
		return 0, fmt.Errorf("%w; the console: %s", err, bytes.TrimSpace(console))
	}
	return time.Since(starting.GetTime().AsTime()), nil
}

func untilReady(ctx context.Context, v *shimVM) error {
	_, err := v.await(ctx, vm.EventReady)
	return err
}

func untilInitIsUp(ctx context.Context, v *shimVM) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(v.dir.Console())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if bytes.Contains(b, []byte(initIsUp)) {
			return nil
		}
		select {
		case <-tick.C:
		case <-v.process.done:
			return fmt.Errorf("the shim ended: %v: %s", v.process.err, v.process.lastWords())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// packInit builds a program and makes it the only file of an initial RAM disk.
func packInit(ctx context.Context, l *lab, out, pkg string) error {
	bin := out + ".init"
	if err := buildProgram(ctx, bin, pkg); err != nil {
		return err
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	err = errors.Join(
		cpio.Write(z, []cpio.Entry{{Name: "init", Mode: 0o755, Data: program}}),
		z.Close())
	if err != nil {
		return fmt.Errorf("packing %s: %w", pkg, err)
	}
	return os.WriteFile(out, b.Bytes(), 0o600)
}
