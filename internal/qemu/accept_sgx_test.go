package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// withVEPC starts a QEMU where /dev has a stand-in for /dev/sgx_vepc, without which
// QEMU has no memory-backend-epc: zeros that can be mapped. Nobody else sees that
// /dev, and no rights are needed.
func withVEPC(t *testing.T, bin string) string {
	t.Helper()
	dir := t.TempDir()
	devices := filepath.Join(dir, "dev")
	if err := os.Mkdir(devices, 0o700); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`#!/bin/sh
set -eu
if [ "${1-}" != inside ]; then exec unshare --map-root-user --mount "$0" inside "$@"; fi
shift
mount --rbind /dev '%[1]s'
mount -t tmpfs tmpfs /dev
for name in null zero random urandom; do : >/dev/$name; mount --bind '%[1]s'/$name /dev/$name; done
: >/dev/sgx_vepc
mount --bind '%[1]s'/zero /dev/sgx_vepc
exec '%[2]s' "$@"
`, devices, bin)
	wrapper := filepath.Join(dir, "qemu-with-vepc")
	if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return wrapper
}

// emulated is SGX's line for a machine of the emulator, which has no CPU "host".
func emulated(args []string) []string {
	args = slices.Clone(args)
	for i := range args[1:] {
		if args[i] == "-cpu" {
			args[i+1] = strings.Replace(args[i+1], "host", "max", 1)
		}
	}
	return args
}

// Each QEMU takes SGX's line as a whole and builds the machine, enclave page cache
// and all, where the device opens. What is wrong in one word it refuses.
func TestQEMUBuildsSGX(t *testing.T) {
	for _, version := range qemuVersions {
		t.Run(version, func(t *testing.T) {
			bin := withVEPC(t, emulatorOf(t, version))
			h := newHost(t)
			args := h.args(t, teeVariants["sgx"].change)
			if err := checkPreconfig(t.Context(), bin, h, args); err != nil {
				t.Errorf("the whole line: %v", err)
			}
			if err := checkStopped(t.Context(), bin, h, emulated(args)); err != nil {
				t.Errorf("the machine: %v", err)
			}
			for _, wrong := range []struct{ from, to, says string }{
				{"memdev=epc0", "memdev=epc1", "'epc1' not found"},
				{",sgx-epc.0.node", ",sgx-epc.0.nude", "'sgx-epc.0.node' is missing"},
				{"size=64M", "size=0", "property 'size'"},
			} {
				h := newHost(t)
				args := emulated(h.args(t, teeVariants["sgx"].change))
				i := slices.IndexFunc(args, func(a string) bool { return strings.Contains(a, wrong.from) })
				if i < 0 {
					t.Fatalf("no %s in %q", wrong.from, args)
				}
				args[i] = strings.Replace(args[i], wrong.from, wrong.to, 1)
				if err := checkStopped(t.Context(), bin, h, args); err == nil || !strings.Contains(err.Error(), wrong.says) {
					t.Errorf("%s: got %v, want a refusal with %q", args[i], err, wrong.says)
				}
			}
		})
	}
}
