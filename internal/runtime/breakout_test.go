package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What stops an algorithm. Of two, the kernel's configuration decides.
const (
	gone      = "function not implemented"
	forbidden = "operation not permitted"
	noFamily  = "address family not supported by protocol"
	denied    = "permission denied"
	missing   = "no such file or directory"
	readonly  = "read-only file system"
)

// TestBreakout has one algorithm try every way out that its author knew.
func TestBreakout(t *testing.T) {
	want := map[string]string{
		"clone user": forbidden, "clone network": forbidden,
		"vsock": noFamily, "netlink": noFamily, "packet": noFamily, "alg": noFamily,
		"raw IPv4": forbidden, "raw IPv6": forbidden,
		"setuid": forbidden, "setgid": forbidden, "setgroups": forbidden,
		"setpriority": denied, "sched_setscheduler": forbidden, "more descriptors": forbidden,
		"chown": forbidden, "block device": forbidden + "|" + denied, "character device": forbidden + "|" + denied,
		"memory of the first process": missing, "environment of the first process": missing, "root of the first process": missing,
		"kernel memory": denied + "|" + missing, "kernel log": denied + "|" + missing, "physical memory": missing,
		"sysrq": denied + "|" + missing, "core pattern": denied, "modprobe path": denied + "|" + missing,
		"sysfs": missing, "control groups": missing, "attestation device": missing, "reports": missing,
		"own program": readonly + "|" + denied, "a file in the root": readonly, "a file beside the datasets": readonly, "beyond the root": missing,
	}
	got := mustRun(t, new(Runner), newJob(t, "attempts"))
	if !got.Succeeded() {
		t.Fatalf("ended with %d %q: %s", got.ExitCode, got.Signal, got.err)
	}
	seen := 0
	for line := range strings.Lines(got.out) {
		name, said, _ := strings.Cut(strings.TrimSpace(line), ": ")
		seen++
		expected := want[name]
		if expected == "" {
			expected = gone // by the filter
		}
		if !slices.Contains(strings.Split(expected, "|"), said) {
			t.Errorf("%s: %s; want %s", name, said, expected)
		}
		delete(want, name)
	}
	if len(want) > 0 || seen < 80 {
		t.Errorf("of the attempts only %d were made; not: %v", seen, want)
	}
}

func TestTracedByNobody(t *testing.T) {
	got := mustRun(t, new(Runner), newJob(t, "trace-me"))
	if got.Succeeded() || !strings.Contains(got.err, gone) {
		t.Errorf("ended with %d %q: %s", got.ExitCode, got.Signal, got.err)
	}
	// Where processes are limited one by one, it can; and stands still for no one.
	job := newJob(t, "trace-me")
	job.Limits.MemoryBytes = 256 << 20
	if got := mustRun(t, new(Runner), job); got.LimitExceeded != "" {
		t.Errorf("ended with %d %q %q: %s", got.ExitCode, got.Signal, got.LimitExceeded, got.err)
	}
}

func TestDescriptorsRunOut(t *testing.T) {
	got := mustRun(t, new(Runner), newJob(t, "exhaust-descriptors"))
	var opened int
	if _, err := fmt.Sscanf(got.err, "descriptor %d:", &opened); err != nil || opened < 4000 || opened > 4096 {
		t.Errorf("ended with %d: %s", got.ExitCode, got.err)
	}
}

// TestOddResults: an algorithm that leaves what can't be released fails with a
// reason, and leaves nothing.
func TestOddResults(t *testing.T) {
	for name, tt := range map[string]struct {
		args  []string
		bytes int64 // of output that is allowed
		limit string
		err   string
	}{
		"a million files":          {[]string{"odd", "files", "results"}, 1 << 20, LimitFiles, ""},
		"deeper than a path":       {[]string{"odd", "deep", "results"}, 1 << 20, "", "nested more than"},
		"a file by many names":     {[]string{"odd", "links", "results"}, 1 << 20, LimitOutput, ""},
		"socket":                   {[]string{"odd", "socket", "results"}, 1 << 20, "", "neither a file nor a folder"},
		"a file of a TiB of holes": {[]string{"truncate", "results/x", strconv.Itoa(1 << 40)}, 1 << 20, LimitOutput, ""},
		"scratch full of bytes":    {[]string{"write", "/tmp/x", strconv.Itoa(4 << 20)}, 1 << 20, LimitScratch, ""},
		"scratch full of files":    {[]string{"odd", "files", "/dev/shm"}, 1 << 20, LimitScratch, ""},
	} {
		t.Run(name, func(t *testing.T) {
			job := newJob(t, tt.args...)
			job.Limits.OutputBytes = tt.bytes
			r := &Runner{ScratchBytes: 2 << 20}
			if tt.err != "" {
				if _, err := r.Run(t.Context(), job); !errors.Is(err, ErrResults) || !strings.Contains(err.Error(), tt.err) || len(err.Error()) > 400 {
					t.Errorf("Run: %v; want %q", err, tt.err)
				}
			} else if got := mustRun(t, r, job); got.LimitExceeded != tt.limit || got.Succeeded() {
				t.Errorf("ended with %d %q %q; want limit %q; stderr: %s", got.ExitCode, got.Signal, got.LimitExceeded, tt.limit, got.err)
			}
			wantEmpty(t, filepath.Join(job.Dir, "results"))
		})
	}
}

// TestLandlock compares what Landlock alone forbids with what the kernel has.
func TestLandlock(t *testing.T) {
	abi := LandlockABI()
	if abi == 0 {
		t.Skip("this kernel has no Landlock; the tests in a VM show it")
	}
	got := mustRun(t, new(Runner), newJob(t, "landlocked"))
	want := landlockLines(abi)
	if got.out != want || !got.Succeeded() || got.Landlock != abi {
		t.Errorf("under ABI %d (outcome says %d):\n%s%swant\n%s", abi, got.Landlock, got.out, got.err, want)
	}
}

func TestForkBomb(t *testing.T) {
	job := newJob(t, "bomb")
	job.Limits.Processes = 32
	got := mustRun(t, new(Runner), job)
	if got.Succeeded() {
		t.Error("a fork bomb succeeded")
	}
}

// TestOutputIsCounted: what is printed and what is left.
func TestOutputIsCounted(t *testing.T) {
	job := newJob(t, "write", "results/x", "1000")
	if got := mustRun(t, new(Runner), job); got.OutputBytes != 1000 {
		t.Errorf("%d bytes of output; want 1000", got.OutputBytes)
	}
	if got := mustRun(t, new(Runner), newJob(t, "print", "70000")); got.OutputBytes != 70000 {
		t.Errorf("%d bytes of output; want 70000", got.OutputBytes)
	}
}

func TestFilterFits(t *testing.T) {
	for _, stops := range []bool{false, true} {
		if n := len(filter(stops)); n > 4096 {
			t.Errorf("the filter has %d instructions; the kernel takes 4096", n)
		}
	}
}

// landlockLines is what the probe prints where Landlock does what it can.
func landlockLines(abi int) string {
	ioctl, signal := "inappropriate ioctl for device", "succeeded"
	if abi >= 5 {
		ioctl = denied
	}
	if abi >= 6 || os.Geteuid() == 0 {
		signal = forbidden
	}
	return fmt.Sprintf("abi %d\nwriting to /proc: open /proc/self/comm: permission denied\nioctl on a device: %s\nsignal to the first process: %s\n"+
		"writing to results: succeeded\nmoving between folders: succeeded\ntruncating: succeeded\nwriting to /dev/null: succeeded\n", abi, ioctl, signal)
}
