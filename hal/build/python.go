package build

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/verity"
)

// pythonPackages are what algorithms may import; with all they depend on.
var pythonPackages = []string{"python3", "python3-joblib", "python3-numpy", "python3-pandas", "python3-pip-whl", "python3-sklearn"}

// notOnDisk are packages that apt's resolution names and no algorithm needs:
// package management, terminals, headers, tools.
var notOnDisk = []string{
	"ca-certificates", "debconf", "dpkg", "gcc-14-base", "init-system-helpers", "libacl1", "libaudit-common", "libaudit1",
	"libcap-ng0", "libcap2", "libcrypt1", "libdb5.3t64", "libmd0", "libncursesw6", "libpcre2-8-0", "libproc2-0",
	"libreadline8t64", "libselinux1", "libsystemd0", "libtinfo6", "media-types", "netbase",
	"openssl", "openssl-provider-legacy", "procps", "python3-numpy-dev", "readline-common", "tar",
}

// dropped are path prefixes that are left out of the disk.
var dropped = []string{
	"usr/include/", "usr/lib/binfmt.d/", "usr/lib/debug/", "usr/lib/systemd/", "usr/lib/valgrind/",
	"usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/x86_64-linux-gnu/engines-3/", "usr/lib/x86_64-linux-gnu/ossl-modules/",
	"usr/lib/python3.13/idlelib/", "usr/lib/python3.13/pydoc_data/", "usr/lib/python3.13/test/",
	"usr/lib/python3.13/lib-dynload/_curses", "usr/lib/python3.13/lib-dynload/_dbm", "usr/lib/python3.13/lib-dynload/readline",
	"usr/lib/python3.13/lib-dynload/_gdbm", "usr/lib/python3.13/lib-dynload/_crypt",
}

// keptBin are the only programs on the disk.
var keptBin = []string{"usr/bin/python3", "usr/bin/python3.13"}

// keptTests is imported by numpy.testing, which scipy imports.
const keptTests = "usr/lib/python3/dist-packages/numpy/_core/tests/_natype.py"

// pip comes as a wheel. It is unpacked, so that its bytecode can be made, into a
// folder where no script finds it unasked (internal/runtime names it, too).
const (
	wheelDir = "usr/share/python-wheels"
	pipWheel = wheelDir + "/pip-"
	pipDir   = "usr/lib/cocos-pip"
)

// pipStart starts pip. There is no network where it runs and no certificate authority
// on the disk: it can do without TLS, but not with half of it.
const pipStart = `import sys
sys.modules["ssl"] = None
from pip._internal.cli.main import main
sys.exit(main())
`

// links are what the packages' maintainer scripts would make: the alternatives
// of the linear algebra libraries, and the folders of the merged /usr.
var links = map[string]string{
	"usr/lib/x86_64-linux-gnu/libblas.so.3":   "blas/libblas.so.3",
	"usr/lib/x86_64-linux-gnu/liblapack.so.3": "lapack/liblapack.so.3",
	"bin":   "usr/bin",
	"lib":   "usr/lib",
	"lib64": "usr/lib64",
}

// runtimeDirs are empty: the agent mounts there what one algorithm needs.
var runtimeDirs = []string{"dev", "proc", "run", "sys", "tmp", "work"}

// AlgorithmUID is the user and group id that algorithms run under; the disk's
// passwd and group files name it.
const AlgorithmUID = 10001

var etcFiles = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/:/nonexistent\nalgorithm:x:" + strconv.Itoa(AlgorithmUID) + ":" + strconv.Itoa(AlgorithmUID) + ":algorithm:/work:/nonexistent\n",
	"etc/group":         "root:x:0:\nalgorithm:x:" + strconv.Itoa(AlgorithmUID) + ":\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
}

// place decides where a package's entry goes on the disk, if anywhere.
func place(name string, h *tar.Header) string {
	for _, d := range []string{"bin/", "sbin/", "lib/", "lib64/"} {
		if strings.HasPrefix(name, d) {
			name = "usr/" + name
		}
	}
	switch {
	case h.Typeflag == tar.TypeDir:
		return "" // made where a file needs it
	case strings.HasPrefix(name, "usr/bin/"):
		if !slices.Contains(keptBin, name) {
			return ""
		}
	case strings.HasPrefix(name, "etc/"):
		if !strings.HasPrefix(name, "etc/python3.13/") {
			return ""
		}
	case strings.HasPrefix(name, "usr/share/"):
		if !strings.HasPrefix(name, "usr/share/zoneinfo/") && !strings.HasPrefix(name, pipWheel) {
			return ""
		}
	case !strings.HasPrefix(name, "usr/lib/") && !strings.HasPrefix(name, "usr/lib64/"):
		return ""
	case strings.HasSuffix(name, ".a") || strings.HasSuffix(name, ".h"):
		return ""
	case isTest(name):
		return ""
	}
	for _, d := range dropped {
		if strings.HasPrefix(name, d) {
			return ""
		}
	}
	return name
}

func isTest(name string) bool {
	return name != keptTests && strings.HasPrefix(name, "usr/lib/python3/dist-packages/") &&
		(strings.Contains(name, "/tests/") || strings.Contains(name, "/test/"))
}

// python builds the Python disk from the cached packages and returns its
// verity parameters.
func (b *builder) python(ctx context.Context, lock debian.Lock, work, out string) (verity.Params, error) {
	root, tools := filepath.Join(work, "python"), filepath.Join(work, "tools")
	done := b.Log.Stage("unpacking the Python runtime")
	for dir, use := range map[string]string{root: usePython, tools: useTools} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return verity.Params{}, err
		}
		at := place
		if use == useTools {
			at = func(name string, _ *tar.Header) string { return name }
		}
		for _, p := range lock.Using(use) {
			if err := debian.Unpack(ctx, b.cache.Path(p), dir, at); err != nil {
				return verity.Params{}, err
			}
		}
	}
	if err := complete(root); err != nil {
		return verity.Params{}, fmt.Errorf("completing the Python runtime: %w", err)
	}
	done()
	done = b.Log.Stage("compiling Python's modules")
	if err := compilePython(ctx, root); err != nil {
		return verity.Params{}, err
	}
	if err := checkTree(root); err != nil {
		return verity.Params{}, fmt.Errorf("checking the Python runtime: %w", err)
	}
	if err := normalise(root); err != nil {
		return verity.Params{}, fmt.Errorf("setting modes of the Python runtime: %w", err)
	}
	done()
	done = b.Log.Stage("packing the Python disk and hashing its blocks")
	if err := squash(ctx, tools, root, out, b.Processors); err != nil {
		return verity.Params{}, err
	}
	p, err := protect(out)
	if err != nil {
		return verity.Params{}, fmt.Errorf("building the Python disk's hash tree: %w", err)
	}
	done()
	return p, nil
}

// complete adds what no package holds and removes links that lead nowhere.
func complete(root string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	for name, target := range links {
		if err := r.Symlink(target, name); err != nil {
			return err
		}
	}
	if err := unpackPip(r); err != nil {
		return fmt.Errorf("unpacking pip: %w", err)
	}
	for name, text := range etcFiles {
		if err := r.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := r.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, d := range runtimeDirs {
		if err := r.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSymlink {
			return err
		}
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		at := filepath.Join(filepath.Dir(p), target)
		if filepath.IsAbs(target) {
			at = filepath.Join(root, target)
		}
		if _, err := os.Lstat(at); err == nil {
			return nil
		}
		if strings.HasPrefix(p, filepath.Join(root, "usr/lib/x86_64-linux-gnu")) {
			return fmt.Errorf("library %s leads to %s, which is missing", p, target)
		}
		return os.Remove(p)
	})
}

// unpackPip puts pip's wheel, which is a zip, in the place of its own.
func unpackPip(r *os.Root) error {
	names, err := fs.Glob(r.FS(), pipWheel+"*.whl")
	if err != nil {
		return err
	}
	if len(names) != 1 {
		return fmt.Errorf("%d wheels are called %s*.whl, want 1", len(names), pipWheel)
	}
	wheel, err := r.Open(names[0])
	if err != nil {
		return err
	}
	defer wheel.Close()
	info, err := wheel.Stat()
	if err != nil {
		return err
	}
	z, err := zip.NewReader(wheel, info.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", names[0], err)
	}
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") {
			continue // made where a file needs it
		}
		if err := unpackFile(r, f, path.Join(pipDir, f.Name)); err != nil {
			return fmt.Errorf("%s: %s: %w", names[0], f.Name, err)
		}
	}
	if err := r.WriteFile(path.Join(pipDir, "__main__.py"), []byte(pipStart), 0o644); err != nil {
		return err
	}
	return r.RemoveAll(wheelDir)
}

func unpackFile(r *os.Root, f *zip.File, name string) error {
	if !filepath.IsLocal(f.Name) {
		return errors.New("leads out of its folder")
	}
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	if err := r.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	out, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// through returns a command that runs a program of another root with that
// root's own dynamic linker and libraries, whatever the host has.
func through(ctx context.Context, root, program string, args ...string) *exec.Cmd {
	all := append([]string{"--library-path", filepath.Join(root, "usr/lib/x86_64-linux-gnu"), filepath.Join(root, program)}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(root, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), all...)
	cmd.Env = []string{"LC_ALL=C.UTF-8", "PYTHONHASHSEED=0", "SOURCE_DATE_EPOCH=0", "TMPDIR=" + os.TempDir()}
	return cmd
}

// compilePython makes the bytecode of every module with the Python that will
// read it. One process in a fixed order with a fixed hash seed makes the same
// bytes every time; paths in it are those on the disk; and it is never compared
// with its source, which costs time and proves nothing on a protected disk.
func compilePython(ctx context.Context, root string) error {
	cmd := through(ctx, root, "usr/bin/python3.13", "-S", "-s", "-m", "compileall", "-q", "-f",
		"--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/",
		filepath.Join(root, "usr/lib/python3.13"), filepath.Join(root, "usr/lib/python3"), filepath.Join(root, pipDir))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling Python's modules: %w: %s", err, lastLines(out))
	}
	return nil
}

// normalise sets every mode, whatever the user's mask.
func normalise(root string) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		if d.IsDir() {
			return os.Chmod(p, 0o755)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode()&0o100 != 0 {
			return os.Chmod(p, 0o755)
		}
		return os.Chmod(p, 0o644)
	})
}

// squash packs the tree. Order, owners, times and the absence of extended
// attributes are fixed, so the same tree gives the same image.
func squash(ctx context.Context, tools, root, out string, processors int) error {
	cmd := through(ctx, tools, "usr/bin/mksquashfs", root, out,
		"-noappend", "-all-root", "-no-xattrs", "-reproducible", "-no-progress", "-quiet",
		"-processors", strconv.Itoa(processors), "-b", "131072", "-comp", "zstd", "-Xcompression-level", "15")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("packing the Python disk: %w: %s", err, lastLines(text))
	}
	return nil
}

// protect appends the hash tree to the image.
func protect(name string) (verity.Params, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return verity.Params{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return verity.Params{}, err
	}
	salt, err := verity.Salt(io.NewSectionReader(f, 0, size))
	if err != nil {
		return verity.Params{}, err
	}
	p, tree, err := verity.Build(io.NewSectionReader(f, 0, size), size, salt)
	if err != nil {
		return verity.Params{}, err
	}
	if _, err := f.Write(tree); err != nil {
		return verity.Params{}, err
	}
	return p, f.Close()
}

func lastLines(out []byte) string {
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
