package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/hal"
)

// modulesDisabled takes a 1 and no word after it until the machine is off.
const modulesDisabled = "/proc/sys/kernel/modules_disabled"

func loadModules(context.Context) error {
	b, err := os.ReadFile(hal.ModulesList)
	if err != nil {
		return fmt.Errorf("reading the list of modules: %w", err)
	}
	files, err := parseModules(string(b))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := loadModule(file); err != nil {
			return err
		}
	}
	return nil
}

// parseModules takes one clean absolute path per line.
func parseModules(list string) ([]string, error) {
	var files []string
	for i, line := range strings.Split(strings.TrimSuffix(list, "\n"), "\n") {
		if list == "" {
			break // everything is built into the kernel
		}
		if !path.IsAbs(line) || path.Clean(line) != line {
			return nil, fmt.Errorf("%s line %d: %q is not a clean absolute path", hal.ModulesList, i+1, line)
		}
		files = append(files, line)
	}
	return files, nil
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("loading a module: %w", err)
	}
	defer f.Close()
	switch err := unix.FinitModule(int(f.Fd()), "", 0); {
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.ENODEV):
		return nil // a driver of a device that this machine has not
	default:
		return fmt.Errorf("loading module %s: %w", file, err)
	}
}

func lockModules(context.Context) error {
	if err := os.WriteFile(modulesDisabled, []byte("1\n"), 0); err != nil {
		return fmt.Errorf("locking the loading of modules: %w", err)
	}
	return nil
}
