package build

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// programs are the only files on the disk that may be started as programs.
// The C library and the linker can be: both are also libraries.
var programs = []string{
	"usr/bin/python3.13",
	"usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
	"usr/lib/x86_64-linux-gnu/libc.so.6",
}

// unwanted names what must not be on the disk under any folder.
var unwanted = []string{"sh", "bash", "dash", "busybox", "perl", "apt", "apt-get", "dpkg", "login", "su", "sudo", "sshd"}

// checkTree refuses a tree that holds a program other than those allowed, a
// shell or package manager under any path, a file that is no file, folder or
// link, or a library that needs another one which is missing.
func checkTree(root string) error {
	libraries := map[string]bool{}
	type need struct{ file, library string }
	var needs []need
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		base := path.Base(name)
		if slices.Contains(unwanted, base) && !d.IsDir() {
			return fmt.Errorf("%s: no shell, package manager or login belongs on the disk", name)
		}
		switch d.Type() {
		case fs.ModeDir:
			return nil
		case fs.ModeSymlink:
			if strings.Contains(base, ".so") {
				libraries[base] = true
			}
			return nil
		case 0:
		default:
			return fmt.Errorf("%s: a special file", name)
		}
		f, err := openELF(p)
		if err != nil || f == nil {
			return err
		}
		defer f.Close()
		libraries[base] = true
		for _, prog := range f.Progs {
			if prog.Type == elf.PT_INTERP && !slices.Contains(programs, name) {
				return fmt.Errorf("%s: a program; only Python belongs on the disk", name)
			}
		}
		imported, err := f.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, l := range imported {
			needs = append(needs, need{name, l})
		}
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range needs {
		if !libraries[n.library] {
			errs = append(errs, fmt.Errorf("%s needs %s, which is not on the disk", n.file, n.library))
		}
	}
	return errors.Join(errs...)
}

// openELF returns nil for a file that is not ELF.
func openELF(name string) (*elf.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var magic [4]byte
	if n, _ := f.Read(magic[:]); n < 4 || string(magic[:]) != elf.ELFMAG {
		return nil, nil
	}
	return elf.Open(name)
}
