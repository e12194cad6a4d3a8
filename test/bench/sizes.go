package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/hal"
)

// imageDir is where the guest image is: where `make hal` puts it, unless the
// Manager's own variable names another place.
var imageDir = cmp.Or(os.Getenv("MANAGER_IMAGE_DIR"), "cmd/manager/img")

var sized = []struct{ row, file string }{
	{"size_kernel", filepath.Join(imageDir, hal.KernelFile)},
	{"size_rootfs", filepath.Join(imageDir, hal.InitrdFile)},
	{"size_python_disk", filepath.Join(imageDir, hal.PythonFile)},
	{"size_manager", managerBinary},
	{"size_agent", agentBinary},
	{"size_cli", cliBinary},
}

func sizeRows() []string {
	names := make([]string, len(sized))
	for i, s := range sized {
		names[i] = s.row
	}
	return names
}

// sizes needs no reference: a size is the same wherever it is measured.
func sizes(context.Context, *lab) ([]row, error) {
	var rows []row
	var errs []error
	for _, s := range sized {
		info, err := os.Stat(s.file)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w; run `make build hal`", err))
			continue
		}
		rows = append(rows, row{name: s.row, unit: "MiB", values: series{float64(info.Size()) / mib}})
	}
	return rows, errors.Join(errs...)
}
