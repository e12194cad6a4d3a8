package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/internal/runtime/wasm"
)

// Places that a WebAssembly module's engine sees; the module does not.
const (
	modulePath = "/algorithm/main.wasm"
	enginePath = "/algorithm/engine"
)

// engineThreads is room for the engine's own threads: a module has one, and no
// way to more.
const engineThreads = 64

// setupModule has the engine run the program, which is a WebAssembly module, and
// checks both.
func (r *Runner) setupModule(s *setup) error {
	s.Target, s.Exec = modulePath, enginePath
	s.Argv = wasm.Command(modulePath, s.Limits.MemoryBytes, s.Env)
	s.Env, s.Root = nil, "" // the engine needs neither
	s.Limits.Processes += engineThreads
	f, err := os.Open(s.Program)
	if err != nil {
		return fmt.Errorf("algorithm: %w", err)
	}
	defer f.Close()
	if err := wasm.Check(f); err != nil {
		return fmt.Errorf("algorithm: %w", err)
	}
	s.Engine, err = r.engine()
	return err
}

// engine returns the path of the program that runs modules.
func (r *Runner) engine() (string, error) {
	const self = "/proc/self/exe"
	name := r.Engine
	if name == "" {
		// By its name: the link is of this process's mounts, and can't be bound
		// among the child's.
		var err error
		if name, err = os.Executable(); err != nil {
			return "", fmt.Errorf("engine: %w", err)
		}
		running, runningErr := os.Stat(self)
		found, foundErr := os.Stat(name)
		if err := errors.Join(runningErr, foundErr); err != nil {
			return "", fmt.Errorf("engine: %w", err)
		}
		if !os.SameFile(running, found) {
			return "", fmt.Errorf("engine: %s is no longer the program that runs", name)
		}
	}
	name, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("engine: %w", err)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("engine: %w", err)
	}
	defer f.Close()
	switch loader, err := loaderOf(f); {
	case err != nil:
		return "", fmt.Errorf("engine: %s: %w", name, err)
	case loader != "":
		return "", fmt.Errorf("engine: %s is dynamically linked (%s); build it with CGO_ENABLED=0", name, loader)
	}
	return name, nil
}
