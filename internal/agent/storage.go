package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/scratch"
	"github.com/ultravioletrs/cocos/manifest"
)

// Storage is where the agent keeps inputs and outputs: a folder of its own on
// one file system, in memory or on a disk. What goes to Scratch is mounted in it.
type Storage interface {
	// Dir is the folder; it exists and is empty.
	Dir() string
	// Room is how many bytes it can take.
	Room() (int64, error)
}

// FolderStorage is a folder that exists, such as the mount point of a memory
// file system. Its room is what the file system has free.
type FolderStorage string

// Dir implements Storage.
func (s FolderStorage) Dir() string { return string(s) }

// Room implements Storage.
func (s FolderStorage) Room() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(string(s), &st); err != nil {
		return 0, fmt.Errorf("asking for the room in %s: %w", string(s), err)
	}
	if st.Blocks == 0 {
		return math.MaxInt64, nil // a memory file system without a bound
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// folders of the agent, below Storage's.
type folders struct{ top string }

// images is where the scratch disk's files are mounted, a folder each, before they
// are bound to their places.
func (f folders) images() string { return filepath.Join(f.top, "images") }

// incoming holds what has arrived of the inputs, one file each.
func (f folders) incoming() string { return filepath.Join(f.top, "incoming") }

// program is the verified algorithm.
func (f folders) program() string { return filepath.Join(f.top, "program") }

// work is the folder that the algorithm sees: datasets/, files/ and results/.
func (f folders) work() string     { return filepath.Join(f.top, "work") }
func (f folders) datasets() string { return filepath.Join(f.work(), "datasets") }
func (f folders) files() string    { return filepath.Join(f.work(), "files") }
func (f folders) results() string  { return filepath.Join(f.work(), "results") }

// output is the folder whose archive consumers get.
func (f folders) output() string { return filepath.Join(f.top, "output") }

func makeFolders(dir string) (folders, error) {
	f := folders{top: dir}
	left, err := os.ReadDir(dir)
	if err != nil {
		return f, fmt.Errorf("opening the agent's folder: %w", err)
	}
	if len(left) > 0 {
		return f, fmt.Errorf("the agent's folder %s is not empty: it has %s; give it one of its own", dir, left[0].Name())
	}
	// The algorithm's user passes through work and reads datasets.
	for _, d := range []struct {
		name string
		mode fs.FileMode
	}{{f.incoming(), 0o700}, {f.images(), 0o700}, {f.output(), 0o700}, {f.work(), 0o755}, {f.datasets(), 0o755}, {f.files(), 0o755}, {f.results(), 0o755}} {
		if err := makeFolder(d.name, d.mode); err != nil {
			return f, errors.Join(err, f.remove())
		}
	}
	return f, nil
}

// makeFolder gives the mode whatever the umask is.
func makeFolder(name string, mode fs.FileMode) error {
	if err := os.Mkdir(name, mode); err != nil {
		return fmt.Errorf("making the agent's folders: %w", err)
	}
	if err := os.Chmod(name, mode); err != nil {
		return fmt.Errorf("making the agent's folders: %w", err)
	}
	return nil
}

func (f folders) remove() error {
	for _, name := range []string{f.incoming(), f.images(), f.work(), f.output(), f.program()} {
		if err := os.RemoveAll(name); err != nil {
			// The path may be a name that the algorithm chose.
			var at *fs.PathError
			if errors.As(err, &at) {
				err = at.Err
			}
			return fmt.Errorf("removing the agent's folders in %s: %w", f.top, err)
		}
	}
	return nil
}

// checkRoom refuses a manifest whose inputs can't all be held at once, in memory and
// on the scratch disk, if there is one.
func checkRoom(inputs []*input, m *manifest.Manifest, room int64, disk Scratch) error {
	// An archive stays until all of it is unpacked. Bounds of a manifest keep the
	// sums far from overflow.
	memory, scratched := m.Algorithm.Image.UnpackedMax, int64(0)
	for _, in := range inputs {
		if disk != nil && onScratch(m, in.ref) {
			scratched += scratch.Need(in.size) + scratch.Need(in.unpackedMax)
		} else {
			memory += in.size + in.unpackedMax
		}
	}
	switch {
	case memory > room && disk != nil:
		return fmt.Errorf("what stays in memory of the inputs needs %d bytes (of the program its size and, in a container, /algorithm/image/unpacked_max), and the agent has room for %d: give the VM more memory", memory, room)
	case memory > room:
		return fmt.Errorf("the inputs need %d bytes (the sizes and unpacked_max of /algorithm, /algorithm/files and /datasets), and the agent has room for %d: give the VM more memory, or the manifest a scratch disk (/scratch_bytes)", memory, room)
	case disk != nil && scratched > disk.Room():
		return fmt.Errorf("what goes to the scratch disk of the inputs needs %d bytes (sizes and unpacked_max of /datasets, /algorithm/files and a container, with the hashes over them), and the disk has %d: raise /scratch_bytes", scratched, disk.Room())
	}
	return nil
}
