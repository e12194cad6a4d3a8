// Package hostcheck finds out what a host can do for a Manager and what is
// missing, for `cocos-manager check`.
//
//   - A check is a list of probes that know nothing of each other (probes): a
//     further one is a further line. All run at once, each within a deadline of
//     its own, so the whole is bounded by the longest (longest); one that does
//     not come back is a finding, too.
//   - A probe has no side effects that outlast it: ports are bound for a moment
//     and never listened on, and what is written lies in a temporary folder.
//   - A probe tries the thing itself where it can (opens the device, runs a
//     guest, shakes hands) instead of concluding from names or modes, and judges
//     for the user that it runs as.
//   - A failed verdict means that a Manager with this configuration would not
//     start, or could not run a VM, or not safely. Whatever mends it is said as a
//     command.
package hostcheck

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Verdict judges one thing.
type Verdict string

// The verdicts.
const (
	OK   Verdict = "ok"
	Info Verdict = "info" // neither good nor bad
	Warn Verdict = "warn" // works, but worse than it could
	Fail Verdict = "fail" // does not work
)

// Finding is what a probe says of one thing.
type Finding struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	// Found is what is there.
	Found string `json:"found"`
	// Needed is what should be there; empty if that is what was found.
	Needed string `json:"needed,omitempty"`
	// Mend is what to do about it, a command where one does.
	Mend string `json:"mend,omitempty"`
}

// Config is what a Manager is set to use, before anything was looked at. Paths
// are absolute. Texts that are empty were not set.
type Config struct {
	// Faults of the variables themselves; the other fields may hold their
	// defaults then.
	Faults []error

	// QEMU is a path or a name on PATH.
	QEMU string
	// KVM is "auto", "true" or "false".
	KVM string
	// Vsock is "auto", "kernel" or "user".
	Vsock string
	// Sudo: QEMU is started through it.
	Sudo bool
	// MachineType and CPU are names of QEMU's; empty: not looked at.
	MachineType, CPU string
	// VCPUs and MemoryMiB are those of one VM.
	VCPUs, MemoryMiB int

	TEE      TEE
	Firmware Firmware
	Image    Image
	Server   Server

	StateDir string
	// ControlSocket is the control API's path, ControlGroup the name of the
	// group that may use it.
	ControlSocket, ControlGroup string
	// HTTPAddr is where health and metrics are served, ADDRESS:PORT; empty:
	// nowhere.
	HTTPAddr string
	Forward  Forward
	Limits   Limits
}

// Firmware names OVMF's files; Code empty: QEMU's own BIOS is used.
type Firmware struct {
	Code, CodeFormat string // format "raw" or "qcow2"
	Vars, VarsFormat string
}

// Image says what VMs boot.
type Image struct {
	// Dir holds image.json and the files that it names.
	Dir string
	// Kernel and Initrd are files instead of the image's.
	Kernel, Initrd string
	// Disk is a bootable image in DiskFormat, "qcow2" or "raw", instead of
	// kernel and initial RAM disk.
	Disk, DiskFormat string
}

// Server is the computations server, and how to reach it.
type Server struct {
	Address string // HOST:PORT
	// PEM files.
	ClientCert, ClientKey, CACerts string
}

// Forward says on which TCP ports of the host agents are reached; 0 is none.
type Forward struct {
	Addr                   netip.Addr // IPv4
	Preferred, First, Last uint16
}

// Limits of all VMs together; 0 is none.
type Limits struct {
	MaxVMs, MaxMemoryMiB, MaxVCPUs int
	// MinFreeDisk must stay free on the state directory's file system, in bytes.
	MinFreeDisk int64
	// DiskPerVM is what one VM may write there, in bytes.
	DiskPerVM int64
}

// probe looks at one thing. It gives up when its context ends.
type probe struct {
	name  string
	limit time.Duration
	run   func(context.Context, *host, Config) []Finding
}

const (
	brief = 10 * time.Second
	// longest bounds the probes that run programs or guests, or hash images, which
	// take long where the host itself is emulated.
	longest = 90 * time.Second
	// overdue is how long a probe that was told to give up is waited for.
	overdue = 2 * time.Second
)

// probes is the list, in the order in which the findings are shown.
var probes = []probe{
	{"variables", brief, variables},
	{"user", brief, user},
	{"kvm", longest, kvm},
	{"tee", brief, tees},
	{"vsock", brief, vsockWay},
	{"qemu", longest, qemuProgram},
	{"sudo", longest, sudo},
	{"firmware", brief, firmware},
	{"image", longest, image},
	{"certificates", brief, certificates},
	{"server", brief, server},
	{"ports", brief, ports},
	{"http", brief, httpPort},
	{"state directory", brief, stateDir},
	{"control socket", brief, controlSocket},
	{"disk", brief, disk},
	{"memory", brief, memory},
	{"cpus", brief, cpus},
	{"limits", brief, processLimits},
	{"clock", brief, clock},
	{"service", brief, service},
}

// Run asks every probe and returns their findings, always in the same order.
// It takes half a minute at most.
func Run(ctx context.Context, c Config) []Finding {
	return run(ctx, thisHost(), c, probes)
}

// able names the probes that say what a host can do, whatever its Manager does.
var able = []string{"kvm", "tee", "vsock", "qemu", "firmware", "memory", "cpus"}

// Able asks those probes that say what the host can do for VMs, for whoever
// chooses between hosts.
func Able(ctx context.Context, c Config) []Finding {
	var list []probe
	for _, p := range probes {
		if slices.Contains(able, p.name) {
			list = append(list, p)
		}
	}
	return run(ctx, thisHost(), c, list)
}

func run(ctx context.Context, h *host, c Config, list []probe) []Finding {
	found := make([][]Finding, len(list))
	var all sync.WaitGroup
	for i, p := range list {
		all.Go(func() { found[i] = p.ask(ctx, h, c) })
	}
	all.Wait()
	var out []Finding
	for i, fs := range found {
		for _, f := range fs {
			if f.Name == "" {
				f.Name = list[i].name
			}
			out = append(out, f)
		}
	}
	return out
}

// ask runs the probe within its limit. One that hangs, as files of a dead
// network file system do, is left behind: it can't be ended from here.
func (p probe) ask(ctx context.Context, h *host, c Config) []Finding {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	answer := make(chan []Finding, 1)
	go func() { answer <- p.run(ctx, h, c) }()
	select {
	case fs := <-answer:
		return fs
	case <-ctx.Done():
	}
	select {
	case fs := <-answer:
		return fs
	case <-time.After(overdue):
		return fail(fmt.Sprintf("no answer within %v", p.limit), "an answer", "look for a file system or device that hangs (dmesg), and check again")
	}
}

// Failed tells whether any verdict is Fail.
func Failed(fs []Finding) bool { return count(fs, Fail) > 0 }

func count(fs []Finding, v Verdict) (n int) {
	for _, f := range fs {
		if f.Verdict == v {
			n++
		}
	}
	return n
}

func ok(found string) []Finding   { return []Finding{{Verdict: OK, Found: found}} }
func info(found string) []Finding { return []Finding{{Verdict: Info, Found: found}} }

func fail(found, needed, mend string) []Finding {
	return []Finding{{Verdict: Fail, Found: found, Needed: needed, Mend: mend}}
}

func warn(found, needed, mend string) []Finding {
	return []Finding{{Verdict: Warn, Found: found, Needed: needed, Mend: mend}}
}

// named gives findings a name of their own.
func named(name string, fs []Finding) []Finding {
	for i := range fs {
		fs[i].Name = name
	}
	return fs
}

// variables passes on what was found when they were parsed.
func variables(_ context.Context, _ *host, c Config) []Finding {
	var out []Finding
	for _, err := range c.Faults {
		out = append(out, fail(err.Error(), "", "correct it where the Manager's environment is set; installed, that is "+envFile)...)
	}
	if out == nil {
		return ok("every one is known and well formed")
	}
	return out
}

// envFile is where an installation sets the variables.
const envFile = "/etc/cocos/cocos-manager.env"
