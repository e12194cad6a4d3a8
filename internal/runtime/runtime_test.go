package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/manifest"
)

var probe string // the path of testdata/probe, built

func TestMain(m *testing.M) {
	Child()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "cocos-runtime-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		probe = filepath.Join(dir, "probe")
		if err := build(probe, "./testdata/probe", "CGO_ENABLED=0"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// newJob is a job of the probe with one dataset.
func newJob(t *testing.T, args ...string) Job {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"datasets", "results"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "datasets", "one.csv"), []byte("a,b\n1,2\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	return Job{Type: manifest.Binary, Program: copyFile(t, probe), Args: args, Dir: dir, Limits: manifest.Limits{Seconds: 120}}
}

func copyFile(t *testing.T, from string) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// result is an Outcome with what was printed.
type result struct {
	Outcome
	out, err string
}

func mustRun(t *testing.T, r *Runner, job Job) result {
	t.Helper()
	var out, errs bytes.Buffer
	job.Stdout, job.Stderr = &out, &errs
	o, err := r.Run(t.Context(), job)
	if err != nil {
		t.Fatalf("Run(%q): %v\nstdout: %s\nstderr: %s", job.Args, err, out.String(), errs.String())
	}
	return result{o, out.String(), errs.String()}
}

func TestWhatAnAlgorithmSees(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		exit   int
		stdout string // exact
		stderr string // a part
	}{
		{name: "exit status 0", args: []string{"exit", "0"}},
		{name: "exit status 7", args: []string{"exit", "7"}, exit: 7},
		{name: "arguments", args: []string{"args", "a b", "--x", ""}, stdout: `["/algorithm/main" "args" "a b" "--x" ""]` + "\n"},
		{name: "both outputs", args: []string{"print-both", "to out", "to err"}, stdout: "to out", stderr: "to err"},
		{name: "working folder", args: []string{"cwd"}, stdout: "/work\n"},
		{name: "its folders", args: []string{"list", "."}, stdout: "datasets\nfiles\nresults\n"},
		{name: "its root", args: []string{"list", "/"}, stdout: "algorithm\ndev\nproc\ntmp\nwork\n"},
		{name: "its devices", args: []string{"list", "/dev"}, stdout: "fd\nfull\nnull\nrandom\nshm\nstderr\nstdin\nstdout\nurandom\nzero\n"},
		{name: "dataset", args: []string{"read", "datasets/one.csv"}, stdout: "a,b\n1,2\n"},
		{name: "user", args: []string{"ids"}, stdout: "10001 10001 10001 10001 " + groupCount() + "\n"},
		{name: "no capability", args: []string{"status", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"},
			stdout: "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"},
		{name: "host name", args: []string{"hostname"}, stdout: "algorithm\n"},
		{name: "own loopback", args: []string{"loopback"}},
		{name: "own processes only", args: []string{"processes"}, stdout: "1\n"},
		{name: "open files", args: []string{"limit", strconv.Itoa(unix.RLIMIT_NOFILE)}, stdout: "4096 4096\n"},
		{name: "no core files", args: []string{"limit", strconv.Itoa(unix.RLIMIT_CORE)}, stdout: "0 0\n"},
		{name: "interfaces", args: []string{"interfaces"}, stdout: "lo\n"},
		{name: "scratch", args: []string{"write", "/tmp/x", "100000"}},
		{name: "shared memory", args: []string{"write", "/dev/shm/x", "100000"}},
		{name: "stdin is empty", args: []string{"read", "/dev/stdin"}},

		{name: "network", args: []string{"dial", "127.0.0.1:22"}, exit: 1, stderr: "refused"},
		{name: "network beyond", args: []string{"dial", "10.0.2.2:80"}, exit: 1, stderr: "unreachable"},
		{name: "vsock", args: []string{"socket", strconv.Itoa(unix.AF_VSOCK)}, exit: 1, stderr: "address family not supported"},
		{name: "netlink", args: []string{"socket", strconv.Itoa(unix.AF_NETLINK)}, exit: 1, stderr: "address family not supported"},
		{name: "packet", args: []string{"socket", strconv.Itoa(unix.AF_PACKET)}, exit: 1, stderr: "address family not supported"},
		{name: "io_uring", args: []string{"call", strconv.Itoa(unix.SYS_IO_URING_SETUP)}, exit: 1, stderr: "not implemented"},
		{name: "keyrings", args: []string{"call", strconv.Itoa(unix.SYS_KEYCTL)}, exit: 1, stderr: "not implemented"},
		{name: "user namespaces", args: []string{"userns"}, exit: 1, stderr: "not permitted"},
		{name: "killing the first process", args: []string{"kill-first"}, exit: killFirstExit(), stderr: killFirstError()},
		{name: "tracing the first process", args: []string{"trace-first"}, exit: 1, stderr: "not implemented"},
		{name: "writing to the root", args: []string{"write", "/x", "1"}, exit: 1, stderr: "read-only"},
		{name: "writing to the working folder", args: []string{"write", "x", "1"}, exit: 1, stderr: "read-only"},
		{name: "writing to datasets", args: []string{"write", "datasets/x", "1"}, exit: 1, stderr: "read-only"},
		{name: "changing the program", args: []string{"write", "/algorithm/main", "1"}, exit: 1, stderr: "read-only"},
		{name: "changing a sysctl", args: []string{"write", "/proc/sys/user/max_user_namespaces", "1"}, exit: 1, stderr: "read-only"},
	}
	r := new(Runner)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("SECRET_OF_THE_AGENT", "must not be seen")
			got := mustRun(t, r, newJob(t, tt.args...))
			if got.ExitCode != tt.exit || got.Signal != "" || got.LimitExceeded != "" {
				t.Errorf("ended with %d %q %q; want exit status %d; stderr: %s", got.ExitCode, got.Signal, got.LimitExceeded, tt.exit, got.err)
			}
			if got.out != tt.stdout {
				t.Errorf("stdout %q; want %q", got.out, tt.stdout)
			}
			if !strings.Contains(got.err, tt.stderr) || (tt.stderr == "" && got.err != "") {
				t.Errorf("stderr %q; want %q in it", got.err, tt.stderr)
			}
		})
	}
}

// groupCount: only root may give its groups up; those of others mean nothing
// among what the algorithm sees.
func groupCount() string {
	if os.Geteuid() == 0 {
		return "0"
	}
	groups, _ := os.Getgroups()
	return strconv.Itoa(len(groups))
}

// The first process of an ordinary user's namespace has the algorithm's user,
// and still no signal of the algorithm's ends it.
func killFirstExit() int {
	if os.Geteuid() == 0 {
		return 1
	}
	return 0
}

func killFirstError() string {
	if os.Geteuid() == 0 {
		return "not permitted"
	}
	return ""
}

func TestEnvironmentIsTheManifests(t *testing.T) {
	t.Setenv("SECRET_OF_THE_AGENT", "must not be seen")
	job := newJob(t, "env")
	job.Env = map[string]string{"MODE": "x=y", "LANG": "C"}
	got := mustRun(t, new(Runner), job)
	want := `["COCOS_DATASETS=/work/datasets" "COCOS_FILES=/work/files" "COCOS_RESULTS=/work/results" "HOME=/tmp" "LANG=C" "MODE=x=y" "PATH=/usr/local/bin:/usr/bin:/bin" "TMPDIR=/tmp"]` + "\n"
	if got.out != want {
		t.Errorf("environment %s; want %s", got.out, want)
	}
}

func TestNoDescriptorIsInherited(t *testing.T) {
	secret, err := os.CreateTemp(t.TempDir(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	got := mustRun(t, new(Runner), newJob(t, "descriptors"))
	for line := range strings.Lines(got.out) {
		var fd int
		var target string
		fmt.Sscan(line, &fd, &target)
		own := fd <= 2 || target == "" || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "anon_inode:")
		if !own {
			t.Errorf("descriptor %s", line)
		}
	}
	if !strings.HasPrefix(got.out, "0 ") {
		t.Errorf("descriptors:\n%s", got.out)
	}
}

func TestSignal(t *testing.T) {
	got := mustRun(t, new(Runner), newJob(t, "kill-self"))
	if got.ExitCode == 0 || got.Succeeded() || (got.Signal == "" && got.ExitCode != 2) {
		t.Errorf("ended with %d %q", got.ExitCode, got.Signal)
	}
	job := newJob(t)
	job.Program, job.Args = copyFile(t, "/bin/sh"), []string{"-c", "kill -TERM $$"}
	got = mustRun(t, &Runner{Root: "/"}, job)
	if got.ExitCode != -1 || got.Signal != "SIGTERM" || got.LimitExceeded != "" {
		t.Errorf("ended with %d %q %q; want SIGTERM", got.ExitCode, got.Signal, got.LimitExceeded)
	}
}

func TestDynamicBinary(t *testing.T) {
	job := newJob(t)
	job.Program, job.Args = copyFile(t, "/bin/cat"), []string{"datasets/one.csv"}
	got := mustRun(t, &Runner{Root: "/"}, job)
	if got.out != "a,b\n1,2\n" || !got.Succeeded() {
		t.Errorf("cat printed %q and ended with %d; stderr: %s", got.out, got.ExitCode, got.err)
	}
	job.Dir = newJob(t).Dir
	if _, err := new(Runner).Run(t.Context(), job); err == nil || !strings.Contains(err.Error(), "no runtime disk") {
		t.Errorf("without a disk: %v", err)
	}
}

func TestRuntimeDiskIsReadOnly(t *testing.T) {
	job := newJob(t)
	job.Program, job.Args = copyFile(t, "/bin/sh"), []string{"-c", "echo x > /usr/x"}
	got := mustRun(t, &Runner{Root: "/"}, job)
	if got.ExitCode == 0 || !strings.Contains(strings.ToLower(got.err), "read-only") {
		t.Errorf("ended with %d; stderr: %s", got.ExitCode, got.err)
	}
}

// TestPython has the probe in python3's place: what counts is how it is called.
func TestPython(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "usr", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	job := newJob(t, "--epochs", "3")
	job.Type = manifest.Python
	if _, err := new(Runner).Run(t.Context(), job); err == nil || !strings.Contains(err.Error(), "no runtime disk") {
		t.Errorf("without a disk: %v", err)
	}
	if _, err := (&Runner{Root: root}).Run(t.Context(), job); err == nil || !strings.Contains(err.Error(), "/usr/bin/python3") {
		t.Errorf("without python3 on the disk: %v", err)
	}
	b, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr", "bin", "python3"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	got := mustRun(t, &Runner{Root: root}, job)
	// The probe does not know its first argument and says it.
	if got.ExitCode != 1 || got.err != "unknown: /algorithm/main.py\n" {
		t.Errorf("python3 ended with %d and said %q", got.ExitCode, got.err)
	}
}

func TestResultsAreMoved(t *testing.T) {
	job := newJob(t, "copy", "datasets/one.csv", "results/sub/model.bin")
	got := mustRun(t, new(Runner), job)
	if !got.Succeeded() {
		t.Fatalf("ended with %d; stderr: %s", got.ExitCode, got.err)
	}
	name := filepath.Join(job.Dir, "results", "sub", "model.bin")
	b, err := os.ReadFile(name)
	if err != nil || string(b) != "a,b\n1,2\n" {
		t.Fatalf("result %q, %v", b, err)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got.Ended.Before(got.Started) || got.MaxRSS <= 0 || got.CPU <= 0 {
		t.Errorf("outcome %+v", got.Outcome)
	}
}

func TestLargeResultIsMovedWhole(t *testing.T) {
	const size = 3*moveChunk + 4097
	job := newJob(t, "write", "results/large", strconv.Itoa(size))
	mustRun(t, new(Runner), job)
	info, err := os.Stat(filepath.Join(job.Dir, "results", "large"))
	if err != nil || info.Size() != size {
		t.Errorf("result: %v, %v; want %d bytes", info, err, size)
	}
}

func TestFailedRunLeavesNoResults(t *testing.T) {
	job := newJob(t)
	job.Program, job.Args = copyFile(t, "/bin/sh"), []string{"-c", "echo x > results/x; exit 3"}
	if got := mustRun(t, &Runner{Root: "/"}, job); got.ExitCode != 3 {
		t.Errorf("ended with %d", got.ExitCode)
	}
	wantEmpty(t, filepath.Join(job.Dir, "results"))
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%s has %v, %v; want nothing", dir, entries, err)
	}
}

func TestResultsThatCannotBeReleased(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"link":   {[]string{"symlink", "/etc/passwd", "results/x"}, "neither a file nor a folder"},
		"pipe":   {[]string{"fifo", "results/x"}, "neither a file nor a folder"},
		"nested": {[]string{"deep", "results", "70"}, "nested"},
	} {
		t.Run(name, func(t *testing.T) {
			job := newJob(t, tt.args...)
			_, err := new(Runner).Run(t.Context(), job)
			if !errors.Is(err, ErrResults) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run: %v; want %q", err, tt.want)
			}
			wantEmpty(t, filepath.Join(job.Dir, "results"))
		})
	}
}

func TestLimits(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name   string
		args   []string
		limits manifest.Limits
		want   string
	}{
		{"time", []string{"sleep"}, manifest.Limits{Seconds: 1}, LimitSeconds},
		{"stdout", []string{"print", strconv.Itoa(4 * mib)}, manifest.Limits{OutputBytes: mib}, LimitOutput},
		{"results", []string{"write", "results/x", strconv.Itoa(4 * mib)}, manifest.Limits{OutputBytes: mib}, LimitOutput},
		{"results by one byte", []string{"write", "results/x", strconv.Itoa(mib + 1)}, manifest.Limits{OutputBytes: mib}, LimitOutput},
		{"results with holes", []string{"truncate", "results/x", strconv.Itoa(1 << 40)}, manifest.Limits{OutputBytes: mib}, LimitOutput},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			job := newJob(t, tt.args...)
			if tt.limits.Seconds == 0 {
				tt.limits.Seconds = 120
			}
			job.Limits = tt.limits
			got := mustRun(t, new(Runner), job)
			if got.LimitExceeded != tt.want || got.Succeeded() {
				t.Errorf("ended with %d %q %q; want limit %q; stderr: %s", got.ExitCode, got.Signal, got.LimitExceeded, tt.want, got.err)
			}
			if len(got.out) > mib {
				t.Errorf("%d bytes of output were taken", len(got.out))
			}
			wantEmpty(t, filepath.Join(job.Dir, "results"))
		})
	}
}

func TestOutputUpToTheLimit(t *testing.T) {
	job := newJob(t, "write", "results/x", "1048576")
	job.Limits.OutputBytes = 1 << 20
	if got := mustRun(t, new(Runner), job); !got.Succeeded() {
		t.Errorf("ended with %d %q; stderr: %s", got.ExitCode, got.LimitExceeded, got.err)
	}
}

func TestScratchIsBounded(t *testing.T) {
	got := mustRun(t, &Runner{ScratchBytes: 1 << 20}, newJob(t, "write", "/tmp/x", strconv.Itoa(2<<20)))
	if got.ExitCode != 1 || !strings.Contains(got.err, "no space left") {
		t.Errorf("ended with %d; stderr: %s", got.ExitCode, got.err)
	}
}

func TestMemoryOfAProcessIsBounded(t *testing.T) {
	job := newJob(t, "allocate", strconv.Itoa(512<<20))
	job.Limits.MemoryBytes = 256 << 20
	if got := mustRun(t, new(Runner), job); got.Succeeded() {
		t.Errorf("allocated more than the limit: %s", got.out)
	}
	job = newJob(t, "allocate", strconv.Itoa(64<<20))
	job.Limits.MemoryBytes = 256 << 20
	if got := mustRun(t, new(Runner), job); !got.Succeeded() {
		t.Errorf("within the limit it ended with %d; stderr: %s", got.ExitCode, got.err)
	} else if got.MaxRSS < 64<<20 {
		t.Errorf("largest resident set %d bytes; want 64 MiB or more", got.MaxRSS)
	}
}

func TestProcessesAreBounded(t *testing.T) {
	job := newJob(t, "fork", "400")
	job.Limits.Processes = 16
	got := mustRun(t, new(Runner), job)
	if got.Succeeded() {
		t.Error("started 400 processes with a limit of 16")
	}
	var started int
	if _, err := fmt.Sscanf(got.err, "process %d:", &started); err != nil {
		t.Fatalf("stderr %q: %v", got.err, err)
	}
	limit := 16
	if os.Geteuid() != 0 {
		limit += 2 * ownThreads
	}
	if started >= limit {
		t.Errorf("started %d processes beside the first with a limit of %d", started, limit)
	}
}

func TestWhatIsLeftBehindIsKilled(t *testing.T) {
	done := make(chan result, 1)
	job := newJob(t, "outlive")
	go func() { done <- mustRun(t, new(Runner), job) }()
	select {
	case got := <-done:
		if !strings.HasPrefix(got.out, "left ") || !got.Succeeded() {
			t.Errorf("ended with %d and printed %q", got.ExitCode, got.out)
		}
	case <-time.After(time.Minute):
		t.Fatal("Run waits for a process that the algorithm left behind")
	}
}

func TestCancel(t *testing.T) {
	cause := errors.New("the run was stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	started, w := io.Pipe()
	go func() {
		// Cancelled only once it runs.
		_, _ = io.ReadFull(started, make([]byte, len("started\n")))
		cancel(cause)
		_, _ = io.Copy(io.Discard, started)
	}()
	job := newJob(t, "sleep")
	job.Stdout = w
	if _, err := new(Runner).Run(ctx, job); !errors.Is(err, cause) {
		t.Errorf("Run: %v; want %v", err, cause)
	}
	w.Close()
	if _, err := new(Runner).Run(ctx, newJob(t, "exit", "0")); !errors.Is(err, cause) {
		t.Errorf("Run of a cancelled context: %v; want %v", err, cause)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk is gone") }

func TestOutputThatCannotBeKept(t *testing.T) {
	job := newJob(t, "print", "10")
	job.Stdout = failingWriter{}
	if _, err := new(Runner).Run(t.Context(), job); err == nil || !strings.Contains(err.Error(), "disk is gone") {
		t.Errorf("Run: %v", err)
	}
}

func TestBadJobs(t *testing.T) {
	tests := map[string]struct {
		change func(*Job, *Runner)
		want   string
	}{
		"type":          {func(j *Job, _ *Runner) { j.Type = "perl" }, `algorithm type "perl"`},
		"no program":    {func(j *Job, _ *Runner) { j.Program += "x" }, "no such file"},
		"a folder":      {func(j *Job, _ *Runner) { j.Program = j.Dir }, "not a regular file"},
		"no datasets":   {func(j *Job, _ *Runner) { os.RemoveAll(filepath.Join(j.Dir, "datasets")) }, "datasets"},
		"no results":    {func(j *Job, _ *Runner) { os.Remove(filepath.Join(j.Dir, "results")) }, "results"},
		"used results":  {func(j *Job, _ *Runner) { os.WriteFile(filepath.Join(j.Dir, "results", "x"), nil, 0o600) }, "not empty"},
		"relative root": {func(_ *Job, r *Runner) { r.Root = "x" }, "not an absolute path"},
		"processors":    {func(j *Job, _ *Runner) { j.Limits.CPUMilli = 500 }, "cpu_milli"},
		"no cgroup":     {func(_ *Job, r *Runner) { r.Cgroup = t.TempDir() }, "control group"},
		"negative user": {func(_ *Job, r *Runner) { r.UID = -1 }, "UID -1"},
		"script": {func(j *Job, _ *Runner) {
			os.WriteFile(j.Program, []byte("#!/bin/sh\n"+strings.Repeat("#", 100)), 0o600)
		}, "not an ELF file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			job, r := newJob(t, "exit", "0"), new(Runner)
			tt.change(&job, r)
			if _, err := r.Run(t.Context(), job); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run: %v; want %q in it", err, tt.want)
			}
		})
	}
}

// TestTheEndOfTheLineIsNotTheEnd: what follows the setup's last brace may come by
// itself, which must not be taken for the end of Run.
func TestTheEndOfTheLineIsNotTheEnd(t *testing.T) {
	s, err := new(Runner).setup(newJob(t, "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Env, cmd.ExtraFiles, cmd.SysProcAttr = []string{childName}, []string{}, []*os.File{theirs}, namespaces(s)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	defer func() {
		ours.Close()
		_ = cmd.Wait() // it ends with its lifeline
	}()
	line, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Write(line); err != nil {
		t.Fatal(err)
	}
	results, said, ready := receiveReady(ours)
	if !ready {
		t.Fatalf("it is not ready: %+v", said)
	}
	defer results.Close()
	if _, err := ours.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if err := ours.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := ours.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it ended: %d, %v", n, err)
	}
}

func TestChildAloneRefuses(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Cmd{Path: self, Args: []string{childName}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "by the agent only") {
		t.Errorf("child alone: %v: %s", err, out)
	}
}
