// Package wasm runs WebAssembly modules that were built as commands for WASI
// preview 1.
//
// It has two halves that never meet in one process. Check is for the agent: it
// reads what a stranger's file says about itself, and compiles nothing. Main is
// the engine (wazero): internal/runtime starts this program once more, as the
// unprivileged process that an algorithm is, inside the algorithm's namespaces
// and under its limits, and the module runs in that. So nothing rests on the
// engine alone: a module that breaks out of it is where any binary is anyway.
//
// A module sees the working folder, as "/work" and as what relative paths
// start from, and "/tmp"; no other path leads anywhere. Clocks and random
// numbers are the system's. The engine's own messages go to standard error and
// begin with its Name.
package wasm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/experimental/sysfs"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

// Name is the argv[0] of the engine.
const Name = "cocos-wasm"

// Exit statuses of the engine that are not the module's own. A module can give
// itself the same ones.
const (
	statusUsage   = 2
	statusInvalid = 126 // as a shell's, for what can't be executed
	statusTrap    = 134 // as a shell's, for what was aborted
)

// job is what the engine is asked to run.
type job struct {
	memory int64    // bytes; 0: as much as there is
	env    []string // NAME=VALUE
	args   []string // the first one is the module's path
}

// Command begins the engine's argument vector for a module; the arguments of the
// module itself follow. memory bounds its linear memory in bytes; 0 does not. env
// is the module's: the engine's own may be empty.
func Command(module string, memory int64, env []string) []string {
	argv := []string{Name, strconv.FormatInt(memory, 10), strconv.Itoa(len(env))}
	return append(append(argv, env...), module)
}

// parse undoes Command, without the name.
func parse(argv []string) (job, error) {
	var j job
	if len(argv) < 3 {
		return j, fmt.Errorf("%s is started by the agent only", Name)
	}
	memory, err := strconv.ParseInt(argv[0], 10, 64)
	if err != nil || memory < 0 {
		return j, fmt.Errorf("%q is no size of memory; %s is started by the agent only", argv[0], Name)
	}
	n, err := strconv.Atoi(argv[1])
	if rest := len(argv) - 3; err != nil || n < 0 || n > rest {
		return j, fmt.Errorf("%q is no count of %d variables; %s is started by the agent only", argv[1], rest, Name)
	}
	return job{memory: memory, env: argv[2 : 2+n], args: argv[2+n:]}, nil
}

// Main does not return in a process that was started as Command says, in the
// working folder; otherwise it does nothing.
func Main() {
	if len(os.Args) == 0 || os.Args[0] != Name {
		return
	}
	status := statusUsage
	j, err := parse(os.Args[1:])
	if err == nil {
		status, err = run(j)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
	}
	os.Exit(status)
}

// run runs a module to its end, and says with which status this process ends.
func run(j job) (status int, err error) {
	ctx := experimental.WithMemoryAllocator(context.Background(), &allocator{limit: uint64(j.memory)})
	ctx = experimental.WithCompilationWorkers(ctx, goruntime.GOMAXPROCS(0))
	// Compiled where the processor allows it, otherwise interpreted. What
	// debuggers read of a module is not parsed: functions have their names anyway.
	engine := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithDebugInfoEnabled(false))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, engine); err != nil {
		return statusInvalid, fmt.Errorf("preparing WASI: %w", err)
	}
	code, err := os.ReadFile(j.args[0])
	if err != nil {
		return statusInvalid, fmt.Errorf("reading the module: %w", err)
	}
	compiled, err := engine.CompileModule(ctx, code)
	if err != nil {
		return statusInvalid, fmt.Errorf("the module is not valid: %w", err)
	}
	config, err := configOf(j)
	if err != nil {
		return statusInvalid, err
	}
	debug.FreeOSMemory() // what compiling took is the module's to use
	module, err := engine.InstantiateModule(ctx, compiled, config)
	if err != nil {
		return statusOf(err, "the module can't be started", statusInvalid)
	}
	start := module.ExportedFunction(startFunction)
	if start == nil {
		return statusInvalid, errNoStart
	}
	if _, err := start.Call(ctx); err != nil {
		return statusOf(err, "the module was stopped", statusTrap)
	}
	return 0, nil
}

// statusOf tells a module that ended itself from one that failed.
func statusOf(err error, what string, status int) (int, error) {
	var exit *sys.ExitError
	if !errors.As(err, &exit) {
		return status, fmt.Errorf("%s: %w", what, err)
	}
	// The kernel keeps the last eight bits: a failure must not become a success.
	return int(min(exit.ExitCode(), 255)), nil
}

// configOf is what the module sees.
func configOf(j job) (wazero.ModuleConfig, error) {
	c := wazero.NewModuleConfig().
		WithName("").
		WithStartFunctions(). // run calls it
		WithArgs(j.args...).
		WithStdout(os.Stdout).
		WithStderr(os.Stderr).
		WithRandSource(rand.Reader).
		WithSysWalltime().
		WithSysNanotime().
		WithSysNanosleep().
		WithOsyield(goruntime.Gosched)
	for _, v := range j.env {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return nil, fmt.Errorf("%q is no variable", v)
		}
		c = c.WithEnv(name, value)
	}
	folders, ok := wazero.NewFSConfig().(sysfs.FSConfig)
	if !ok {
		return nil, errors.New("the engine takes no folders")
	}
	// The first one is what Go programs take for the working folder, "." what
	// those with wasi-libc (Rust, C) do.
	work := folder{sysfs.DirFS(".")}
	for _, p := range []struct {
		fs   experimentalsys.FS
		path string
	}{{work, "/work"}, {folder{sysfs.DirFS("/tmp")}, "/tmp"}, {work, "."}} {
		folders = folders.WithSysFSMount(p.fs, p.path).(sysfs.FSConfig)
	}
	return c.WithFSConfig(folders.(wazero.FSConfig)), nil
}

// folder is one that the module may use. The engine keeps paths inside it by
// their text alone, so no link may be made that leads out.
type folder struct{ experimentalsys.FS }

// Symlink is always refused.
func (folder) Symlink(string, string) experimentalsys.Errno { return experimentalsys.EPERM }
