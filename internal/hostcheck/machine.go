package hostcheck

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// user says for whom everything is judged.
func user(ctx context.Context, h *host, _ Config) []Finding {
	found := fmt.Sprintf("%s (user id %d)", h.user, h.uid)
	if h.uid != 0 {
		return info(found)
	}
	out := info(found)
	if s, err := h.unit(ctx); err == nil && s["LoadState"] == "loaded" && s["User"] != "" && s["User"] != "root" {
		out[0].Verdict = Warn
		out[0].Needed = fmt.Sprintf("user %s, as whom the service runs: root may open more than it may", s["User"])
		out[0].Mend = fmt.Sprintf("runuser -u %s -- env $(grep -hv '^#' %s) cocos-manager check", s["User"], envFile)
	}
	return out
}

// memory compares the host's with what VMs ask for.
func memory(_ context.Context, h *host, c Config) []Finding {
	var total, available int64 // MiB
	for line := range strings.Lines(h.kernel("proc/meminfo")) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			total = kib >> 10
		}
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			available = kib >> 10
		}
	}
	if total == 0 {
		return warn("/proc/meminfo can't be read", "", "mount -t proc proc /proc")
	}
	const sizeVar = "MANAGER_QEMU_MEMORY_SIZE"
	found := fmt.Sprintf("%d MiB available of %d MiB, %d MiB for each VM", available, total, c.MemoryMiB)
	switch all := c.MemoryMiB * c.Limits.MaxVMs; {
	case int64(c.MemoryMiB) > total:
		return fail(found, "memory for one VM", "set "+sizeVar+" to less")
	case c.Limits.MaxMemoryMiB > 0 && c.MemoryMiB > c.Limits.MaxMemoryMiB:
		return fail(fmt.Sprintf("%s, and %d MiB for all of them", found, c.Limits.MaxMemoryMiB), "memory for one VM", "set "+sizeVar+" to less, or MANAGER_MAX_VM_MEMORY to more")
	case int64(c.MemoryMiB) > available:
		return warn(found, "memory for one VM, or the kernel will end processes", "end what uses it (`ps aux --sort -rss`), or set "+sizeVar+" to less")
	case c.Limits.MaxMemoryMiB == 0 && int64(all) > total:
		return warn(found, fmt.Sprintf("%d MiB for the %d VMs that MANAGER_MAX_VMS allows", all, c.Limits.MaxVMs), "set MANAGER_MAX_VM_MEMORY, or MANAGER_MAX_VMS to less")
	}
	return ok(found)
}

// cpus compares the host's with what VMs ask for.
func cpus(_ context.Context, h *host, c Config) []Finding {
	found := fmt.Sprintf("%d, and %d virtual ones for each VM", h.cpus, c.VCPUs)
	switch {
	case c.Limits.MaxVCPUs > 0 && c.VCPUs > c.Limits.MaxVCPUs:
		return fail(fmt.Sprintf("%s, %d for all of them", found, c.Limits.MaxVCPUs), "CPUs for one VM", "set MANAGER_QEMU_SMP_COUNT to less, or MANAGER_MAX_VCPUS to more")
	case c.VCPUs > h.cpus:
		return warn(found, "no more virtual CPUs than real ones", fmt.Sprintf("set MANAGER_QEMU_SMP_COUNT=%d or less", h.cpus))
	}
	return ok(found)
}

const (
	// filesPerVM is what a Manager holds open for one VM: the shim's
	// connection, the port, its spool, and some to spare.
	filesPerVM = 8
	// baseFiles is what it has open without any VM.
	baseFiles = 128
)

// processLimits looks at how many files a Manager may have open.
func processLimits(_ context.Context, h *host, c Config) []Finding {
	most, err := h.nofile()
	if err != nil {
		return warn(fmt.Sprintf("reading the limit of open files: %v", err), "", "")
	}
	if need := uint64(baseFiles + filesPerVM*max(1, c.Limits.MaxVMs)); most < need {
		return fail(fmt.Sprintf("%d open files at most", most), fmt.Sprintf("%d for %d VMs", need, max(1, c.Limits.MaxVMs)),
			fmt.Sprintf("ulimit -Hn %d before the start; in a unit LimitNOFILE=%d", need, need))
	}
	return ok(fmt.Sprintf("%d open files at most", most))
}

// clock tells whether the kernel's clock is kept right: certificates and events
// depend on it.
func clock(_ context.Context, h *host, _ Config) []Finding {
	const mend = "timedatectl set-ntp true; or apt install chrony"
	synced, err := h.synced()
	now := h.now().UTC().Format("2006-01-02 15:04:05 MST")
	switch {
	case err != nil:
		return info(fmt.Sprintf("%s; whether it is kept right is not known: %v", now, err))
	case !synced:
		return []Finding{{Verdict: Info, Found: now + "; the kernel does not know of anything that keeps it right", Mend: mend}}
	}
	return ok(now + ", synchronised")
}

const unitName = "cocos-manager.service"

// unit asks systemd for what it knows of the Manager's unit.
func (h *host) unit(ctx context.Context) (map[string]string, error) {
	if _, err := os.Stat(h.path("run/systemd/system")); err != nil {
		return nil, err
	}
	text, err := h.output(ctx, "systemctl", "show", unitName, "--property=LoadState,ActiveState,SubState,UnitFileState,KillMode,User,MainPID")
	if err != nil {
		return nil, fmt.Errorf("systemctl show %s: %w: %.200s", unitName, err, text)
	}
	out := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		out[name] = value
	}
	return out, nil
}

// service looks at the Manager's unit where systemd runs.
func service(ctx context.Context, h *host, _ Config) []Finding {
	s, err := h.unit(ctx)
	switch {
	case os.IsNotExist(err):
		return info("systemd does not run here: start cocos-manager by other means")
	case err != nil:
		return info(err.Error())
	case s["LoadState"] != "loaded":
		return []Finding{{Verdict: Info, Found: fmt.Sprintf("systemd does not know %s (%s)", unitName, s["LoadState"]), Mend: "make install, or install the package cocos-manager"}}
	}
	found := fmt.Sprintf("%s is %s (%s), %s at the host's start", unitName, s["ActiveState"], s["SubState"], s["UnitFileState"])
	switch {
	case s["KillMode"] != "process":
		return warn(fmt.Sprintf("%s; it has KillMode=%s, so a restart ends its VMs", found, s["KillMode"]), "KillMode=process", "systemctl edit cocos-manager: [Service] KillMode=process")
	case s["ActiveState"] == "failed":
		return warn(found, "a service that runs", "journalctl -u cocos-manager -n 20")
	}
	return info(found)
}
