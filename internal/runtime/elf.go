package runtime

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
)

// Of the ELF format (System V ABI, chapter 4, and its supplement for x86-64).
const (
	elfHeaderSize  = 64
	elfProgramSize = 56
	elfX8664       = 62
	elfExec        = 2 // ET_EXEC
	elfDyn         = 3 // ET_DYN: also position-independent executables
	elfInterp      = 3 // PT_INTERP
	maxPrograms    = 128
	maxLoaderPath  = 256
)

// loaderOf returns the dynamic loader that an ELF file for x86-64 asks for,
// empty if it is static. It reads two headers and a path, whatever the file
// says: the file is a stranger's.
func loaderOf(f io.ReaderAt) (string, error) {
	h := make([]byte, elfHeaderSize)
	if _, err := f.ReadAt(h, 0); errors.Is(err, io.EOF) {
		return "", errors.New("is too short to be an ELF file")
	} else if err != nil {
		return "", err
	}
	le := binary.LittleEndian
	switch {
	case !bytes.HasPrefix(h, []byte("\x7fELF")):
		return "", errors.New(`is not an ELF file; its type in the manifest is "binary"`)
	case h[4] != 2 || h[5] != 1 || le.Uint16(h[18:]) != elfX8664:
		return "", errors.New("is an ELF file for another machine; expected 64-bit x86-64")
	case le.Uint16(h[16:]) != elfExec && le.Uint16(h[16:]) != elfDyn:
		return "", errors.New("is an ELF file, but not an executable one")
	}
	offset, size, count := le.Uint64(h[32:]), le.Uint16(h[54:]), le.Uint16(h[56:])
	if size != elfProgramSize || count == 0 || count > maxPrograms || offset > 1<<40 {
		return "", fmt.Errorf("has a damaged ELF header: %d program headers of %d bytes at %d", count, size, offset)
	}
	programs := make([]byte, int(count)*elfProgramSize)
	if _, err := f.ReadAt(programs, int64(offset)); err != nil {
		return "", fmt.Errorf("has a damaged ELF header: reading program headers: %w", err)
	}
	for i := range int(count) {
		p := programs[i*elfProgramSize:]
		if le.Uint32(p) != elfInterp {
			continue
		}
		at, n := le.Uint64(p[8:]), le.Uint64(p[32:])
		if n < 2 || n > maxLoaderPath || at > 1<<40 {
			return "", fmt.Errorf("has a damaged ELF header: a loader's path of %d bytes", n)
		}
		name := make([]byte, n)
		if _, err := f.ReadAt(name, int64(at)); err != nil {
			return "", fmt.Errorf("has a damaged ELF header: reading the loader's path: %w", err)
		}
		loader := string(bytes.TrimRight(name, "\x00"))
		if !path.IsAbs(loader) || path.Clean(loader) != loader {
			return "", fmt.Errorf("asks for the loader %q; expected a clean absolute path", loader)
		}
		return loader, nil
	}
	return "", nil
}
