package qemu

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// withoutTEE is a command line without what only the hardware can give, so that
// an emulating QEMU can build the rest of the machine.
func withoutTEE(args []string, kind vm.TEEKind) []string {
	args = slices.Clone(args)
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-machine" && strings.HasPrefix(args[i+1], "q35"):
			var kept []string
			for part := range strings.SplitSeq(args[i+1], ",") {
				if name, _, _ := strings.Cut(part, "="); name != "confidential-guest-support" && name != "kernel-irqchip" && !strings.HasPrefix(name, "sgx-epc.") {
					kept = append(kept, part)
				}
			}
			args[i+1] = strings.Join(kept, ",")
		case args[i] == "-object" && isTEEObject(args[i+1]):
			args = slices.Delete(args, i, i+2)
			i--
		case args[i] == "-cpu" && strings.HasPrefix(args[i+1], "host"):
			args[i+1] = "max"
		}
	}
	return args
}

func isTEEObject(o string) bool {
	return strings.HasPrefix(o, "sev-") || strings.HasPrefix(o, "{") || strings.HasPrefix(o, "memory-backend-epc")
}

// checkTEEPreconfig lets QEMU read the whole line with the real object. The
// memory is left out: with SEV-SNP and TDX only KVM can keep a part of it apart.
func checkTEEPreconfig(ctx context.Context, bin string, h *host, args []string) error {
	args = slices.Clone(args)
	for i := slices.IndexFunc(args, isMemory); i > 0; i = slices.IndexFunc(args, isMemory) {
		args = slices.Delete(args, i-1, i+1)
	}
	return checkPreconfig(ctx, bin, h, args)
}

func isMemory(a string) bool {
	return strings.HasPrefix(a, "memory-backend=") || strings.HasPrefix(a, "memory-backend-memfd,")
}

// Every version of QEMU that Launches admits takes the command lines as far as
// it goes without the hardware, and those that it does not admit have no such
// object: Launches asks for no more than is needed.
func TestQEMUAcceptsTEEs(t *testing.T) {
	for _, version := range qemuVersions {
		t.Run(version, func(t *testing.T) {
			bin := emulatorOf(t, version)
			v, err := Probe(t.Context(), bin)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range slices.Sorted(maps.Keys(teeVariants)) {
				t.Run(name, func(t *testing.T) {
					variant, h := teeVariants[name], newHost(t)
					args := h.args(t, variant.change)
					if err := v.Launches(variant.kind); err != nil {
						if err := checkTypes(t.Context(), bin, h, args); err == nil {
							t.Errorf("it takes the objects, and yet Launches says that it can't be used")
						}
						return
					}
					if err := checkStopped(t.Context(), bin, h, withoutTEE(args, variant.kind)); err != nil {
						t.Errorf("the machine without the TEE: %v", err)
					}
					bin := bin
					if variant.kind == vm.SGX {
						bin = withVEPC(t, bin)
					}
					types, preconfig := checkTypes(t.Context(), bin, h, args), checkTEEPreconfig(t.Context(), bin, h, args)
					for check, err := range map[string]error{"types": types, "preconfig": preconfig} {
						if err != nil {
							t.Errorf("%s: %v", check, err)
						}
					}
				})
			}
		})
	}
}

// One wrong word in a TEE's line is refused by a QEMU that has the TEE, and by
// that check: so the checks above can fail.
func TestQEMURefusesTEEs(t *testing.T) {
	const version = "11"
	bin := emulatorOf(t, version)
	for _, m := range []struct {
		variant, from, to, says string
		check                   func(context.Context, string, *host, []string) error
	}{
		{"sev", "kernel-hashes=on", "kernel-hash=on", "kernel-hash", checkTypes},
		{"sev", "legacy-vm-type=off", "legacy-vm-type=maybe", "legacy-vm-type", checkTypes},
		{"sev-snp", "host-data=", "host-data=A", "length of 33", checkTypes},
		{"sev-snp", "host-data=q6urq6ur", "host-data=", "length of 26", checkTypes},
		{"sev-snp", "policy=0x30000", "policy=smt", "policy", checkTypes},
		{"sev-snp", "confidential-guest-support=sev0", "confidential-guest-support=sev1", "sev1", checkTEEPreconfig},
		{"sev-snp", "vmport=off", "vmports=off", "vmports", checkTEEPreconfig},
		{"tdx", `"type":"unix"`, `"type":"unicorn"`, "unicorn", checkTypes},
		{"tdx-vsock", `"cid":"2"`, `"cid":2`, "cid", checkTypes},
		{"tdx", "mrconfigid", "mrconfig", "mrconfig", checkTypes},
		{"sgx", "memory-backend-epc", "memory-backend-ecp", "memory-backend-ecp", checkTypes},
		{"sgx", "prealloc=on", "preallocate=on", "preallocate", checkTypes},
		{"sim-bios", "addr=0x810c00", "adr=0x810c00", "adr", checkTypes},
		{"sim-bios", "bios.fd", "boos.fd", "boos.fd", checkStopped},
		{"sim-bios", "hashes.bin", "hash.bin", "hash.bin", checkStopped},
	} {
		t.Run(m.variant+" "+m.to, func(t *testing.T) {
			h := newHost(t)
			args := h.args(t, teeVariants[m.variant].change)
			i := slices.IndexFunc(args, func(a string) bool { return strings.Contains(a, m.from) })
			if i < 0 {
				t.Fatalf("no %s in %q", m.from, args)
			}
			args[i] = strings.Replace(args[i], m.from, m.to, 1)
			if err := m.check(t.Context(), bin, h, args); err == nil || !strings.Contains(err.Error(), m.says) {
				t.Errorf("got %v, want a refusal with %q", err, m.says)
			}
		})
	}
}
