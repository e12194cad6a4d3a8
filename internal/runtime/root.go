package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// runtimeEntries are what the algorithm sees of the runtime disk.
var runtimeEntries = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt"}

// deviceNodes are all that there are.
var deviceNodes = []string{"null", "zero", "full", "random", "urandom"}

const (
	noPrivilege = unix.MS_NOSUID | unix.MS_NODEV
	readOnly    = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
)

// maxInodes bounds the files of one memory file system.
var maxInodes = fmt.Sprintf("nr_inodes=%d", MaxFiles)

// buildRoot makes the algorithm's root, makes it this process's, and lets go of
// the old one. It returns the results folder, whose file system is the one that
// the algorithm writes to.
func buildRoot(s setup) (results *os.File, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("making mounts private: %w", err)
	}
	// Everything that is mounted later is opened now: the new root covers the
	// working folder.
	b := &rootBuilder{root: s.Dir}
	defer b.close()
	datasets := b.open(filepath.Join(s.Dir, datasetsDir))
	files := b.open(filepath.Join(s.Dir, filesDir))
	devices := map[string]string{}
	for _, n := range deviceNodes {
		devices[n] = b.open("/dev/" + n)
	}
	if s.Image {
		b.bind(b.open(s.Root), "", readOnly)
	} else {
		b.skeleton(s)
	}
	b.devices(devices)
	b.scratch(s.ScratchBytes)
	b.bind(datasets, "work/"+datasetsDir, readOnly|unix.MOUNT_ATTR_NOEXEC)
	b.bind(files, "work/"+filesDir, readOnly|unix.MOUNT_ATTR_NOEXEC)
	// Room for what the sizes of files don't count: Run compares those exactly.
	b.mount("tmpfs", "work/"+resultsDir, noPrivilege,
		fmt.Sprintf("mode=0755,uid=%d,gid=%d,size=%d,%s", s.UID, s.GID, s.Limits.OutputBytes+1<<20, maxInodes))
	b.mount("proc", "proc", noPrivilege|unix.MS_NOEXEC, "hidepid=2")
	b.setattr("", readOnly, 0)
	results = b.openResults()
	b.enter()
	if b.err != nil {
		return nil, fmt.Errorf("building the algorithm's root: %w", b.err)
	}
	return results, nil
}

// skeleton is the root of an algorithm that brings none: folders to mount on, the
// runtime disk's, and the program.
func (b *rootBuilder) skeleton(s setup) {
	program := b.open(s.Program)
	engine := ""
	if s.Engine != "" {
		engine = b.open(s.Engine)
	}
	runtime, links := map[string]string{}, map[string]string{}
	if s.Root != "" {
		runtime, links = b.openRuntime(s.Root)
	}
	b.mount("tmpfs", "", noPrivilege, "mode=0755,size=1m,nr_inodes=256")
	for n, source := range runtime {
		b.mkdir(n)
		b.bind(source, n, readOnly)
	}
	for n, target := range links {
		b.symlink(target, n)
	}
	b.mkdir("work")
	for _, n := range mountPoints {
		b.mkdir(n)
	}
	b.mkdir("algorithm")
	b.bindFile(program, s.Target[1:], readOnly)
	if engine != "" {
		b.bindFile(engine, s.Exec[1:], readOnly)
	}
}

// rootBuilder builds under root; after the first error it does nothing.
type rootBuilder struct {
	root string
	fds  []int
	err  error
}

func (b *rootBuilder) path(name string) string { return filepath.Join(b.root, name) }

func (b *rootBuilder) do(what, name string, f func() error) {
	if b.err != nil {
		return
	}
	if err := f(); err != nil {
		b.err = fmt.Errorf("%s /%s: %w", what, name, err)
	}
}

// open returns a path that stays good when what is at name is covered.
func (b *rootBuilder) open(name string) (proc string) {
	b.do("opening", name[1:], func() error {
		fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		b.fds = append(b.fds, fd)
		proc = "/proc/self/fd/" + strconv.Itoa(fd)
		return err
	})
	return proc
}

func (b *rootBuilder) openRuntime(root string) (dirs, links map[string]string) {
	dirs, links = map[string]string{}, map[string]string{}
	for _, n := range runtimeEntries {
		path := filepath.Join(root, n)
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			b.do("opening", n, func() error { return err })
		case info.IsDir():
			dirs[n] = b.open(path)
		case info.Mode().Type() == fs.ModeSymlink:
			b.do("reading", n, func() (err error) {
				links[n], err = os.Readlink(path)
				return err
			})
		}
	}
	return dirs, links
}

func (b *rootBuilder) close() {
	for _, fd := range b.fds {
		_ = unix.Close(fd)
	}
}

func (b *rootBuilder) mkdir(name string) {
	b.do("making", name, func() error {
		if err := os.Mkdir(b.path(name), 0o755); err != nil {
			return err
		}
		return os.Chmod(b.path(name), 0o755) // whatever the umask is
	})
}

func (b *rootBuilder) symlink(target, name string) {
	b.do("linking", name, func() error { return os.Symlink(target, b.path(name)) })
}

func (b *rootBuilder) mount(fstype, name string, flags uintptr, data string) {
	b.do("mounting "+fstype+" on", name, func() error {
		return unix.Mount(fstype, b.path(name), fstype, flags, data)
	})
}

// setattr adds attributes to a mount.
func (b *rootBuilder) setattr(name string, attrs uint64, flags uint) {
	b.do("restricting", name, func() error {
		return unix.MountSetattr(unix.AT_FDCWD, b.path(name), flags, &unix.MountAttr{Attr_set: attrs})
	})
}

// bind shows source, with all that is mounted in it, at name.
func (b *rootBuilder) bind(source, name string, attrs uint64) {
	b.do("binding", name, func() error {
		return unix.Mount(source, b.path(name), "", unix.MS_BIND|unix.MS_REC, "")
	})
	b.setattr(name, attrs, unix.AT_RECURSIVE)
}

func (b *rootBuilder) bindFile(source, name string, attrs uint64) {
	b.do("making", name, func() error { return os.WriteFile(b.path(name), nil, 0o644) })
	b.bind(source, name, attrs)
}

func (b *rootBuilder) devices(sources map[string]string) {
	// An image's root can't be written to.
	b.mount("tmpfs", "dev", noPrivilege, "mode=0755,size=1m,nr_inodes=64")
	for _, n := range deviceNodes {
		b.bindFile(sources[n], "dev/"+n, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	}
	b.symlink("/proc/self/fd", "dev/fd")
	for i, n := range []string{"stdin", "stdout", "stderr"} {
		b.symlink("/proc/self/fd/"+strconv.Itoa(i), "dev/"+n)
	}
	b.mkdir("dev/shm")
	b.setattr("dev", readOnly, 0)
}

// scratch makes one bounded file system for /tmp and /dev/shm. It is mounted on
// /tmp, where one of its own folders then covers it.
func (b *rootBuilder) scratch(size int64) {
	b.mount("tmpfs", "tmp", noPrivilege, fmt.Sprintf("mode=0755,size=%d,%s", size, maxInodes))
	for _, place := range []struct{ sub, name string }{{"tmp/shm", "dev/shm"}, {"tmp/tmp", "tmp"}} {
		b.mkdir(place.sub)
		b.do("opening up", place.name, func() error { return os.Chmod(b.path(place.sub), 0o777|fs.ModeSticky) })
		b.bind(b.path(place.sub), place.name, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	}
}

// coverReadOnly makes what is at name read-only for all that look it up later.
func coverReadOnly(name string) error {
	if err := unix.Mount(name, name, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("covering %s: %w", name, err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, name, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: readOnly}); err != nil {
		return fmt.Errorf("making %s read-only: %w", name, err)
	}
	return nil
}

func (b *rootBuilder) openResults() (f *os.File) {
	b.do("opening", "work/"+resultsDir, func() (err error) {
		f, err = os.Open(b.path("work/" + resultsDir))
		return err
	})
	return f
}

// enter makes root the root, and unmounts the old one.
func (b *rootBuilder) enter() {
	b.do("entering", "", func() error {
		if err := unix.Chdir(b.root); err != nil {
			return err
		}
		// The old root comes to lie over the new one (pivot_root(2), "."), where
		// the next call takes it away.
		if err := unix.PivotRoot(".", "."); err != nil {
			return fmt.Errorf("pivot_root: %w", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting the old root: %w", err)
		}
		return unix.Chdir("/")
	})
}
