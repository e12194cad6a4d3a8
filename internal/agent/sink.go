package agent

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
)

// Bounds of a folder's archive beside the manifest's unpacked_max.
const (
	maxEntries = 1 << 18
	maxDepth   = 64
)

// sink takes the bytes of one input, in order, wherever they come from.
type sink interface {
	io.Writer
	// place puts the input where the algorithm finds it. What was written is all of
	// it, and what the manifest names. A *contentError says that it is not fit for
	// its place.
	place() error
	// release lets go of what was written, unless it is in its place.
	release() error
}

// contentError says what is wrong with an archive, and what its provider can do.
type contentError struct {
	hint string
	err  error
}

func (e *contentError) Error() string { return e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// newSink makes the sink of an input of which nothing has arrived.
func (a *Agent) newSink(in *input) (sink, error) {
	if a.onDisk(in) {
		return a.newScratchSink(in)
	}
	name := filepath.Join(a.dirs.incoming(), in.fileName())
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &fileSink{File: f, target: a.target(in), unpackedMax: in.unpackedMax, check: a.check(in)}, nil
}

// fileName is that of an input among all others.
func (in *input) fileName() string { return string(in.ref.kind) + "." + in.ref.name }

// target is where the algorithm finds an input.
func (a *Agent) target(in *input) string {
	switch in.ref.kind {
	case algorithmInput:
		return a.dirs.program()
	case fileInput:
		return filepath.Join(a.dirs.files(), in.ref.name)
	}
	return filepath.Join(a.dirs.datasets(), in.ref.name)
}

// check is what else is wanted of an input's file before it has its place. A
// container is refused whose archive has not the image that the manifest pins, while
// its provider is there to hear why; layers are verified when it runs.
func (a *Agent) check(in *input) func(file string) error {
	algorithm := &a.cfg.Manifest.Algorithm
	if in.ref.kind != algorithmInput || algorithm.Type != manifest.Container {
		return func(string) error { return nil }
	}
	return func(file string) error {
		if err := runtime.CheckImage(file, algorithm.Image); err != nil {
			return &contentError{"cocos-cli container shows what the archive has; compare it with /algorithm/image in the manifest", err}
		}
		return nil
	}
}

// fileSink is a file in the agent's folder, which becomes the input, or the folder
// that is unpacked from it.
type fileSink struct {
	*os.File

	target      string
	unpackedMax int64
	check       func(file string) error
}

func (s *fileSink) place() error {
	if err := s.check(s.Name()); err != nil {
		return err
	}
	if s.unpackedMax > 0 {
		if _, err := s.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return unpackError(archive.Unpack(s.File, s.target, unpackLimits(s.unpackedMax)))
	}
	if err := s.Chmod(0o444); err != nil {
		return err
	}
	return os.Rename(s.Name(), s.target)
}

func (s *fileSink) release() error {
	return errors.Join(s.Close(), ignoreMissing(os.Remove(s.Name())))
}

func unpackLimits(unpackedMax int64) archive.Limits {
	return archive.Limits{Entries: maxEntries, Depth: maxDepth, FileBytes: unpackedMax, TotalBytes: unpackedMax}
}

// unpackError tells what is the archive's fault from what is not.
func unpackError(err error) error {
	if err == nil || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) {
		return err
	}
	return &contentError{"make the archive with cocos-cli, and check its unpacked_max in the manifest", err}
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
