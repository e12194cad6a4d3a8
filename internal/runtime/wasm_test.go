package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/runtime/wasm"
	"github.com/ultravioletrs/cocos/internal/runtime/wasm/wasmtest"
	"github.com/ultravioletrs/cocos/manifest"
)

// module is testdata/module, and engine the path of testdata/engine, built once.
var (
	module = sync.OnceValues(func() ([]byte, error) { return buildModule() })
	engine = sync.OnceValues(func() (string, error) {
		out := filepath.Join(filepath.Dir(probe), "engine")
		return out, build(out, "testdata/engine/main.go", "CGO_ENABLED=0")
	})
)

func buildModule(flags ...string) ([]byte, error) {
	dir, err := os.MkdirTemp(filepath.Dir(probe), "module-")
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "module.wasm")
	if err := build(out, "testdata/module/main.go", append(flags, "GOOS=wasip1", "GOARCH=wasm")...); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// build builds a program; settings are flags and variables.
func build(out, source string, settings ...string) error {
	cmd := exec.Command("go", "build", "-o", out)
	cmd.Env = os.Environ()
	for _, s := range settings {
		if strings.HasPrefix(s, "-") {
			cmd.Args = append(cmd.Args, s)
		} else {
			cmd.Env = append(cmd.Env, s)
		}
	}
	cmd.Args = append(cmd.Args, source)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", source, err, said)
	}
	return nil
}

// wasmRunner runs modules with an engine that is static, whatever this program is.
func wasmRunner(t *testing.T) *Runner {
	t.Helper()
	path, err := engine()
	if err != nil {
		t.Fatal(err)
	}
	return &Runner{Engine: path}
}

// newModuleJob is a job of testdata/module.
func newModuleJob(t *testing.T, args ...string) Job {
	t.Helper()
	code, err := module()
	if err != nil {
		t.Fatal(err)
	}
	return wasmJob(t, code, args...)
}

func wasmJob(t *testing.T, code []byte, args ...string) Job {
	t.Helper()
	job := newJob(t, args...)
	job.Type = manifest.Wasm
	if err := os.WriteFile(job.Program, code, 0o600); err != nil {
		t.Fatal(err)
	}
	return job
}

// said are the lines that testdata/module printed, by what was asked.
func said(t *testing.T, out string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	for line := range strings.Lines(out) {
		what, answer, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			t.Fatalf("the module printed %q", line)
		}
		lines[what] = answer
	}
	return lines
}

func TestWhatAModuleSeesAtLength(t *testing.T) {
	steps := []struct{ what, answer string }{
		{"cwd", "/work"},
		{"env", `["COCOS_DATASETS=/work/datasets" "COCOS_FILES=/work/files" "COCOS_RESULTS=/work/results" "HOME=/tmp" "LANG=C" "MODE=x=y" "PATH=/usr/local/bin:/usr/bin:/bin" "TMPDIR=/tmp"]`},
		{"list .", "datasets files results"},
		{"list /", "datasets files results"}, // what relative paths start from, for programs in Rust and C
		{"list /work", "datasets files results"},
		{"list /tmp", ""},
		{"stdin", `""`},
		{"read datasets/one.csv", `"a,b\n1,2\n"`},
		{"read /work/datasets/one.csv", `"a,b\n1,2\n"`},
		{"write results/sub/a x", "done"},
		{"write /tmp/a x", "done"},
		{"rename results/sub/a results/b", "done"},
		{"sleep 50ms", "true"},
		{"stderr hello", "done"},

		{"read datasets/none", "error: open datasets/none: No such file or directory"},
		{"write datasets/x x", "error: open datasets/x: Read-only file system"},
		{"write x x", "error: open x: Read-only file system"},
		{"read ../proc/1/status", "error: open ../proc/1/status: No such file or directory"},
		{"read /proc/1/status", "error: open /proc/1/status: No such file or directory"},
		{"read /proc/self/environ", "error: open /proc/self/environ: No such file or directory"},
		{"read /algorithm/main.wasm", "error: open /algorithm/main.wasm: No such file or directory"},
		{"read /work/../algorithm/engine", "error: open /work/../algorithm/engine: No such file or directory"},
		{"read /dev/zero", "error: open /dev/zero: No such file or directory"},
		{"open-at ../proc/1/status", "error: Operation not permitted"},
		{"open-at /proc/1/status", "error: Operation not permitted"},
		{"open-at datasets/../../algorithm/engine", "error: Operation not permitted"},
		{"open-at datasets/one.csv", "done"},
		{"symlink / results/root", "error: symlink / results/root: Operation not permitted"},
		{"symlink ../datasets results/d", "error: symlink ../datasets results/d: Operation not permitted"},
	}
	args := []string{"args", "clock", "random", "dial 127.0.0.1:22"}
	for _, s := range steps {
		args = append(args, s.what)
	}
	t.Setenv("SECRET_OF_THE_AGENT", "must not be seen")
	job := newModuleJob(t, args...)
	job.Env = map[string]string{"MODE": "x=y", "LANG": "C"}
	got := mustRun(t, wasmRunner(t), job)
	if !got.Succeeded() || got.err != "hello\n" {
		t.Fatalf("ended with %d %q %q; stderr: %s", got.ExitCode, got.Signal, got.LimitExceeded, got.err)
	}
	lines := said(t, got.out)
	for _, s := range steps {
		if lines[s.what] != s.answer {
			t.Errorf("%s: %s; want %s", s.what, lines[s.what], s.answer)
		}
	}
	if want := fmt.Sprintf("%q", append([]string{"/algorithm/main.wasm"}, args...)); lines["args"] != want {
		t.Errorf("arguments %s; want %s", lines["args"], want)
	}
	if !strings.HasPrefix(lines["dial 127.0.0.1:22"], "error: ") {
		t.Errorf("dial: %s", lines["dial 127.0.0.1:22"])
	}
	if at, err := strconv.ParseInt(lines["clock"], 10, 64); err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		t.Errorf("the clock says %s", lines["clock"])
	}
	if b, err := os.ReadFile(filepath.Join(job.Dir, "results", "b")); err != nil || string(b) != "x" {
		t.Errorf("result %q, %v", b, err)
	}
	job = newModuleJob(t, "random", "allocate "+strconv.Itoa(64<<20))
	job.Limits.MemoryBytes = 256 << 20
	again := said(t, mustRun(t, wasmRunner(t), job).out)
	if len(again["random"]) != 32 || again["random"] == lines["random"] {
		t.Errorf("random numbers %s, and then %s", lines["random"], again["random"])
	}
	if again["allocate 67108864"] != "67108864" {
		t.Errorf("within the limit on memory: %v", again)
	}
}

// TestHowAModuleEndsAtLength: what a module says of itself, and what the engine says of
// a module that fails.
func TestHowAModuleEndsAtLength(t *testing.T) {
	const pages = 2                                                          // of 64 KiB
	grow := func(n byte) []byte { return []byte{0x41, n, 0x40, 0x00, 0x1a} } // memory.grow, drop
	for name, tt := range map[string]struct {
		code   wasmtest.Module
		limits manifest.Limits
		exit   int
		limit  string
		stderr string
	}{
		"return":        {code: wasmtest.Command()},
		"unreachable":   {code: wasmtest.Command(0x00), exit: 134, stderr: "unreachable"},
		"out of bounds": {code: wasmtest.Command(0x41, 0x7f, 0x28, 0x02, 0x00, 0x1a), exit: 134, stderr: "out of bounds memory access"},
		"recursion":     {code: wasmtest.Command(0x10, 0x00), exit: 134, stderr: "stack overflow"},
		"loop":          {code: wasmtest.Command(0x03, 0x40, 0x0c, 0x00, 0x0b), limits: manifest.Limits{Seconds: 2}, exit: -1, limit: LimitSeconds},
		"grows":         {code: wasmtest.Command(grow(pages)...), limits: manifest.Limits{MemoryBytes: 256 << 20}},
		// 1 + 0x2000 pages are one more than 512 MiB.
		"grows too much": {code: wasmtest.Command(0x41, 0x80, 0xc0, 0x00, 0x40, 0x00, 0x1a), limits: manifest.Limits{MemoryBytes: 512 << 20},
			exit: -1, limit: LimitMemory, stderr: "needs 536936448 bytes of memory; /algorithm/limits/memory_bytes allows 536870912"},
		"begins with too much": {code: wasmtest.Module{Exports: wasmtest.Command().Exports, Pages: 8192 + 1}, limits: manifest.Limits{MemoryBytes: 512 << 20},
			exit: -1, limit: LimitMemory, stderr: "allows 536870912"},
		// The engine's own memory counts where each process is bounded.
		"just as much": {code: wasmtest.Module{Exports: wasmtest.Command().Exports, Pages: 8192}, limits: manifest.Limits{MemoryBytes: 512 << 20},
			exit: -1, limit: LimitMemory, stderr: "beside what the engine takes: cannot allocate memory"},
		"one process": {code: wasmtest.Command(), limits: manifest.Limits{Processes: 1}},
		"not valid":   {code: wasmtest.Command(0x1a), exit: 126, stderr: "the module is not valid"}, // drops nothing
		"no such function": {code: wasmtest.Module{Exports: wasmtest.Command().Exports, Imports: []wasmtest.Name{{Module: "wasi_snapshot_preview1", Name: "fork"}}},
			exit: 126, stderr: `"fork"`},
	} {
		t.Run(name, func(t *testing.T) {
			job := wasmJob(t, tt.code.Bytes())
			job.Limits = tt.limits
			if job.Limits.Seconds == 0 {
				job.Limits.Seconds = 120
			}
			got := mustRun(t, wasmRunner(t), job)
			if got.ExitCode != tt.exit || got.LimitExceeded != tt.limit {
				t.Errorf("ended with %d %q %q; want %d, %q", got.ExitCode, got.Signal, got.LimitExceeded, tt.exit, tt.limit)
			}
			if !strings.Contains(got.err, tt.stderr) || (tt.stderr != "") != strings.HasPrefix(got.err, wasm.Name+": ") || got.out != "" {
				t.Errorf("stdout %q, stderr %q; want %q from the engine", got.out, got.err, tt.stderr)
			}
		})
	}
	for asked, want := range map[uint16]int{0: 0, 7: 7, 255: 255, 256: 255, 512: 255} {
		t.Run(fmt.Sprint("exit ", asked), func(t *testing.T) {
			code := wasmtest.Command(0x41, byte(asked)|0x80, byte(asked>>7)|0x80, 0, 0x10, 0) // i32.const, call
			code.Imports = []wasmtest.Name{{Module: "wasi_snapshot_preview1", Name: "proc_exit"}}
			got := mustRun(t, wasmRunner(t), wasmJob(t, code.Bytes()))
			if got.ExitCode != want || got.Signal != "" || got.err != "" {
				t.Errorf("ended with %d %q; want %d; stderr: %s", got.ExitCode, got.Signal, want, got.err)
			}
		})
	}
}

func TestMemoryOfAModuleIsBoundedAtLength(t *testing.T) {
	job := newModuleJob(t, "allocate "+strconv.Itoa(512<<20))
	job.Limits.MemoryBytes = 256 << 20
	got := mustRun(t, wasmRunner(t), job)
	if got.LimitExceeded != LimitMemory || !strings.Contains(got.err, "/algorithm/limits/memory_bytes allows 268435456") {
		t.Errorf("ended with %d %q %q; stderr: %s", got.ExitCode, got.Signal, got.LimitExceeded, got.err)
	}
}

// TestEngineIsConfined looks at the engine's process from outside, while it runs
// a module.
func TestEngineIsConfined(t *testing.T) {
	job := wasmJob(t, wasmtest.Command(0x03, 0x40, 0x0c, 0x00, 0x0b).Bytes(), t.Name())
	job.Limits.Seconds = 600
	stop := errors.New("seen enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done, runner := make(chan error, 1), wasmRunner(t)
	go func() {
		_, err := runner.Run(ctx, job)
		done <- err
	}()
	pid := findEngine(t, t.Name())
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	uid := "10001"
	if os.Geteuid() != 0 {
		uid = strconv.Itoa(os.Geteuid())
	}
	for _, line := range []string{
		"Uid:\t" + strings.Join([]string{uid, uid, uid, uid}, "\t"),
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(string(status), "\n"+line+"\n") {
			t.Errorf("the engine's status lacks %q:\n%s", line, status)
		}
	}
	for _, ns := range []string{"user", "mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		theirs, err := os.Readlink("/proc/" + pid + "/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if ours, err := os.Readlink("/proc/self/ns/" + ns); err != nil || ours == theirs {
			t.Errorf("the engine is in this process's namespace %s, %v", theirs, err)
		}
	}
	cancel(stop)
	if err := <-done; !errors.Is(err, stop) {
		t.Errorf("Run: %v; want %v", err, stop)
	}
}

// findEngine returns the process number of the engine whose module has arg.
func findEngine(t *testing.T, arg string) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		names, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			// A process that has ended since has none.
			line, err := os.ReadFile(name)
			if err == nil && strings.HasPrefix(string(line), wasm.Name+"\x00") && strings.HasSuffix(string(line), "\x00"+modulePath+"\x00"+arg+"\x00") {
				return filepath.Base(filepath.Dir(name))
			}
		}
	}
	t.Fatal("no engine was started")
	return ""
}
