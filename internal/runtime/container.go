package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/manifest"
)

// ErrImage says that a container's image can't be run, and why: it is the
// algorithm's doing.
var ErrImage = errors.New("the image can't be run")

// imageDir is where an image is unpacked, in the working folder.
const imageDir = "image"

// mountPoints are what an image's root must have. What it has there itself is
// covered, but for /work, which keeps its other entries.
var mountPoints = []string{"dev", "proc", "tmp", "work/" + datasetsDir, "work/" + filesDir, "work/" + resultsDir}

// containerPath is where programs of an image are that does not say.
const containerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// container unpacks the image of a job into the working folder, and completes s by
// the image's config.
func (r *Runner) container(ctx context.Context, job Job, s *setup) error {
	archive, err := oci.OpenFile(job.Program)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	defer archive.Close()
	img, err := archive.Pinned(job.Image)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	var owner *oci.Owner
	if s.DropGroups {
		owner = &oci.Owner{UID: s.HostUID, GID: s.HostGID}
	}
	dir := filepath.Join(s.Dir, imageDir)
	err = img.Unpack(ctx, dir, oci.LimitsOf(job.Image.UnpackedMax), owner)
	switch cause := context.Cause(ctx); {
	case err != nil && cause != nil:
		return cause
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("there is no room for its image: %w", err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range mountPoints {
		if err := makeMountPoint(root, name); err != nil {
			return fmt.Errorf("preparing the image's root: %w", err)
		}
	}
	s.Root, s.Image, s.Program = dir, true, ""
	if err := s.configure(root, &img.Config, job); err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	return nil
}

// makeMountPoint makes real folders of a path, whatever the image has there.
func makeMountPoint(root *os.Root, name string) error {
	at := ""
	for part := range strings.SplitSeq(name, "/") {
		at = path.Join(at, part)
		info, err := root.Lstat(at)
		if err == nil && info.IsDir() {
			continue
		}
		if err := root.RemoveAll(at); err != nil {
			return err
		}
		if err := root.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := root.Chmod(at, 0o755); err != nil { // whatever the umask is
			return err
		}
	}
	return nil
}

// configure takes user, variables, working folder and command from the image.
func (s *setup) configure(root *os.Root, c *oci.Config, job Job) error {
	user, err := oci.LookupUser(root, c.User)
	if err != nil {
		return err
	}
	s.UID, s.GID = user.UID, user.GID
	env := map[string]string{}
	for _, v := range c.Env {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	s.Env, s.WorkDir = environment(containerPath, env, job.Env), path.Join("/", c.WorkingDir)
	if err := makeWorkDir(root, s.WorkDir); err != nil {
		return fmt.Errorf("its working folder %q: %w", c.WorkingDir, err)
	}
	s.Argv = append([]string(nil), c.Entrypoint...)
	if len(job.Args) > 0 {
		s.Argv = append(s.Argv, job.Args...)
	} else {
		s.Argv = append(s.Argv, c.Cmd...)
	}
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		return errors.New("it has neither an entrypoint nor a command, and the manifest has no arguments")
	}
	s.Exec, err = findProgram(root, s.Argv[0], s.WorkDir, pathOf(s.Env))
	return err
}

// pathOf is the folders in which programs are looked for.
func pathOf(env []string) string {
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			return p
		}
	}
	return ""
}

// makeWorkDir makes a working folder that the image lacks, as other runtimes do.
// What lies in a folder that is mounted later is looked for when it is.
func makeWorkDir(root *os.Root, name string) error {
	if mounted(name) {
		return nil
	}
	_, err := oci.MakeFolder(root, name)
	return err
}

// mounted tells whether a name lies in what the image's own root does not show.
func mounted(name string) bool {
	for _, m := range mountPoints {
		if rest, ok := strings.CutPrefix(name, "/"+m); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// findProgram finds what a container starts, as execvp(3) does, and says what
// would keep the kernel from starting it.
func findProgram(root *os.Root, name, workDir, search string) (string, error) {
	if strings.Contains(name, "/") {
		at := name
		if !path.IsAbs(at) {
			at = path.Join(workDir, at)
		}
		return at, checkProgram(root, at)
	}
	// What is there and does not run gives way to what does, and is told otherwise.
	err := fmt.Errorf("the program %q that it starts is in none of the folders of its PATH %q", name, search)
	found := false
	for dir := range strings.SplitSeq(search, ":") {
		if !path.IsAbs(dir) {
			dir = path.Join(workDir, dir)
		}
		at := path.Join(dir, name)
		bad := checkProgram(root, at)
		if bad == nil {
			return at, nil
		}
		if !found && !errors.Is(bad, errAbsent) {
			found, err = true, bad
		}
	}
	return "", err
}

// errAbsent is of a program that is not there, as opposed to one that is not fit.
var errAbsent = errors.New("is not in it")

func checkProgram(root *os.Root, name string) error {
	at, err := oci.Follow(root, name)
	if err != nil {
		return fmt.Errorf("the program %q that it starts %w: %w", name, errAbsent, err)
	}
	f, err := root.Open(path.Join(".", at))
	if err != nil {
		return fmt.Errorf("the program %q that it starts: %w", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("the program %q that it starts: %w", name, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("the program %q that it starts is not a file", name)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("the program %q that it starts is not executable (mode %#o)", name, info.Mode().Perm())
	}
	needs, err := interpreterOf(f)
	if err != nil {
		return fmt.Errorf("the program %q that it starts %w", name, err)
	}
	if needs == "" {
		return nil
	}
	if _, err := oci.Follow(root, needs); err != nil {
		return fmt.Errorf("the program %q that it starts needs %q, which is not in it: %w", name, needs, err)
	}
	return nil
}

// maxInterpreter is how much of a script's first line the kernel reads, in bytes.
const maxInterpreter = 256

// interpreterOf is the script's interpreter, or the dynamic loader of an ELF
// file; empty if it has none.
func interpreterOf(f *os.File) (string, error) {
	head := make([]byte, maxInterpreter)
	n, _ := f.ReadAt(head, 0) // a short file is no script, and no ELF file either
	line, isScript := strings.CutPrefix(string(head[:n]), "#!")
	if !isScript {
		return loaderOf(f)
	}
	line, _, _ = strings.Cut(line, "\n")
	fields := strings.Fields(line)
	if len(fields) == 0 || !path.IsAbs(fields[0]) {
		return "", errors.New("is a script that names no interpreter by its absolute path")
	}
	return fields[0], nil
}

// CheckImage says why the image in an archive that a manifest pins can't be run,
// as far as that shows before it is unpacked.
func CheckImage(archive string, pin manifest.Image) error {
	a, err := oci.OpenFile(archive)
	if err != nil {
		return err
	}
	defer a.Close()
	_, err = a.Pinned(pin)
	return err
}
