package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxDepth bounds the nesting of folders in results.
	maxDepth = 64
	// moveChunk is how much of a file is there twice while it is moved, in bytes.
	moveChunk = 4 << 20
)

// errTooLarge: the results are larger than the manifest allows.
var errTooLarge = errors.New("results are too large")

// moveResults moves files and folders from the algorithm's file system into the
// folder to, with owners and modes of our own, at most limit bytes. Nothing runs
// any more that could change them. Memory is given back as it goes. Whatever is
// neither file nor folder is an ErrResults. It returns how many bytes the files
// have.
func moveResults(from *os.File, to string, limit int64) (total int64, err error) {
	src, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(from.Fd())))
	if err != nil {
		return 0, fmt.Errorf("opening results: %w", err)
	}
	defer src.Close()
	dst, err := os.OpenRoot(to)
	if err != nil {
		return 0, fmt.Errorf("opening results: %w", err)
	}
	defer dst.Close()
	// First all is measured, so that nothing is moved of what is too large.
	err = fs.WalkDir(src.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		size, err := checkResult(name, d, err)
		if total += size; total > limit {
			return errTooLarge
		}
		return err
	})
	if err != nil {
		return total, err
	}
	buf := make([]byte, moveChunk)
	return total, fs.WalkDir(src.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return unreadable(name, err)
		case name == ".":
			return nil
		case d.IsDir():
			return dst.Mkdir(name, 0o755)
		}
		return moveFile(src, dst, name, buf)
	})
}

// checkResult returns the size of a file.
func checkResult(name string, d fs.DirEntry, err error) (int64, error) {
	switch {
	case err != nil:
		return 0, unreadable(name, err)
	case strings.Count(name, "/") >= maxDepth:
		return 0, fmt.Errorf("%w: %.100q… is nested more than %d folders deep", ErrResults, name, maxDepth)
	case d.IsDir():
		return 0, nil
	case !d.Type().IsRegular():
		return 0, fmt.Errorf("%w: %q is neither a file nor a folder", ErrResults, name)
	}
	info, err := d.Info()
	if err != nil {
		return 0, unreadable(name, err)
	}
	return info.Size(), nil
}

func unreadable(name string, err error) error {
	return fmt.Errorf("%w: reading %q: %w", ErrResults, name, err)
}

func moveFile(src, dst *os.Root, name string, buf []byte) error {
	in, err := src.OpenFile(name, os.O_RDWR, 0)
	punch := err == nil
	if err != nil {
		in, err = src.Open(name)
	}
	if err != nil {
		return unreadable(name, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return unreadable(name, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		punch = false // its other names are still to be moved
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	out, err := dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("moving results: %w", err)
	}
	var at int64
	for err == nil {
		var n int
		if n, err = io.ReadFull(in, buf); n == 0 {
			break
		}
		if _, werr := out.Write(buf[:n]); werr != nil {
			err = fmt.Errorf("moving results: %w", werr)
			break
		}
		if punch {
			// At worst the memory is there twice for a while.
			_ = unix.Fallocate(int(in.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, int64(n))
		}
		at += int64(n)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return errors.Join(err, out.Close())
}
