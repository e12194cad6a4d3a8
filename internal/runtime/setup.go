package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/manifest"
)

// Places in a working folder, on both sides.
const (
	datasetsDir = "datasets"
	filesDir    = "files"
	resultsDir  = "results"
)

// Places that the algorithm sees.
const (
	workPath   = "/work"
	binaryPath = "/algorithm/main"
	scriptPath = "/algorithm/main.py"
	pythonPath = "/usr/bin/python3"
)

// maxSeconds keeps a limit inside what a timer takes (68 years).
const maxSeconds = 1<<31 - 1

// setup is all that the child needs, checked.
type setup struct {
	// Root is the runtime disk; with Image the unpacked image.
	Root  string
	Image bool
	// Program is put at Target; empty in a container, which has its own.
	Program string
	Target  string
	Dir     string
	// Exec is the file that is started: the program or what runs it.
	Exec    string
	Argv    []string
	Env     []string
	WorkDir string
	// Install, if any, is started first, and the program only if that succeeds.
	Install *command
	// Engine is the file of Exec if that is the engine of WebAssembly modules.
	Engine string
	// UID and GID are what the algorithm sees; HostUID and HostGID are the same
	// two outside its namespace.
	UID, GID         int
	HostUID, HostGID int
	// Limits have no zero left but that of memory: none.
	Limits       manifest.Limits
	LimitData    bool // bound each process's memory
	ScratchBytes int64
	// DropGroups: Run is root, the child and the algorithm are two users, and
	// supplementary groups can be given up.
	DropGroups bool
}

// limitsData tells whether each process's memory is bounded by itself.
func (s *setup) limitsData() bool { return s.LimitData && s.Limits.MemoryBytes > 0 }

// setup checks job and says what is missing.
func (r *Runner) setup(job Job) (setup, error) {
	s := setup{
		Root: r.Root, Program: job.Program, Dir: job.Dir,
		Env: environment(defaultPath, nil, job.Env), WorkDir: workPath, UID: r.UID, GID: r.GID,
		Limits: r.limits(job.Limits), LimitData: r.Cgroup == "", ScratchBytes: r.ScratchBytes,
		DropGroups: os.Geteuid() == 0,
	}
	if s.Limits.CPUMilli > 0 && r.Cgroup == "" {
		return s, errors.New("the manifest limits processors (/algorithm/limits/cpu_milli), and this machine has no control group that could hold the limit; leave it out, or run in a VM")
	}
	setDefault(&s.UID, AlgorithmID)
	setDefault(&s.GID, AlgorithmID)
	setDefault(&s.ScratchBytes, defaultScratch)
	if s.UID < 0 || s.GID < 0 {
		return s, fmt.Errorf("runner's UID %d and GID %d: want positive numbers", s.UID, s.GID)
	}
	s.HostUID, s.HostGID = s.UID, s.GID
	if !s.DropGroups {
		// An ordinary user's processes are that user's.
		s.HostUID, s.HostGID = os.Geteuid(), os.Getegid()
	}
	// The child looks paths up from another folder.
	for _, path := range []*string{&s.Program, &s.Dir} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return s, fmt.Errorf("working folder: %w", err)
		}
		*path = abs
	}
	if s.Root != "" && !filepath.IsAbs(s.Root) {
		return s, fmt.Errorf("runner's Root %q is not an absolute path", s.Root)
	}
	if err := makeFilesDir(job.Dir); err != nil {
		return s, err
	}
	for _, dir := range []string{datasetsDir, filesDir, resultsDir} {
		switch info, err := os.Stat(filepath.Join(job.Dir, dir)); {
		case err != nil:
			return s, fmt.Errorf("working folder: %w", err)
		case !info.IsDir():
			return s, fmt.Errorf("working folder: %s in %s is not a folder", dir, job.Dir)
		}
	}
	if left, err := os.ReadDir(filepath.Join(job.Dir, resultsDir)); err != nil {
		return s, fmt.Errorf("working folder: %w", err)
	} else if len(left) > 0 {
		return s, fmt.Errorf("working folder: %s in %s is not empty", resultsDir, job.Dir)
	}
	if job.Python != (manifest.Packages{}) && job.Type != manifest.Python {
		return s, fmt.Errorf("there are packages (/algorithm/python), and the algorithm is of type %q, not %q", job.Type, manifest.Python)
	}
	info, err := os.Lstat(job.Program)
	switch {
	case err != nil:
		return s, fmt.Errorf("algorithm: %w", err)
	case !info.Mode().IsRegular():
		return s, fmt.Errorf("algorithm: %s is not a regular file", job.Program)
	}
	switch job.Type {
	case manifest.Binary:
		s.Target, s.Exec, s.Argv = binaryPath, binaryPath, []string{binaryPath}
		err = r.checkBinary(job.Program)
	case manifest.Python:
		s.Target, s.Exec, s.Argv = scriptPath, pythonPath, []string{pythonPath, scriptPath}
		if err = r.checkPython(); err == nil && job.Python != (manifest.Packages{}) {
			err = r.setupPackages(&s, job.Python)
		}
	case manifest.Wasm:
		err = r.setupModule(&s)
	case manifest.Container:
		return s, nil // the rest is in the image
	default:
		err = fmt.Errorf("algorithm type %q is not one of %q", job.Type, manifest.AlgorithmTypes())
	}
	if err != nil {
		return s, err
	}
	s.Argv = append(s.Argv, job.Args...)
	if err := os.Chmod(job.Program, 0o555); err != nil {
		return s, fmt.Errorf("making the algorithm executable: %w", err)
	}
	return s, nil
}

// makeFilesDir makes the folder of files where there are none.
func makeFilesDir(dir string) error {
	name := filepath.Join(dir, filesDir)
	switch err := os.Mkdir(name, 0o755); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return fmt.Errorf("working folder: %w", err)
	}
	if err := os.Chmod(name, 0o755); err != nil { // whatever the umask is
		return fmt.Errorf("working folder: %w", err)
	}
	return nil
}

func (r *Runner) limits(asked manifest.Limits) manifest.Limits {
	setDefault(&asked.MemoryBytes, r.Limits.MemoryBytes)
	setDefault(&asked.Processes, r.Limits.Processes)
	setDefault(&asked.Processes, min(defaultProcesses, mostProcesses()))
	setDefault(&asked.Seconds, r.Limits.Seconds)
	setDefault(&asked.Seconds, defaultSeconds)
	setDefault(&asked.OutputBytes, r.Limits.OutputBytes)
	setDefault(&asked.OutputBytes, defaultOutput)
	asked.Seconds = min(asked.Seconds, maxSeconds)
	return asked
}

// mostProcesses is what this machine's kernel lets an algorithm of any type have: half
// as many as it has threads in all, which goes by its memory.
func mostProcesses() int64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &l); err != nil || l.Max > math.MaxInt64 {
		return math.MaxInt64
	}
	return max(1, int64(l.Max)-2*ownThreads-engineThreads)
}

func setDefault[T int | int64](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

func (r *Runner) checkBinary(program string) error {
	f, err := os.Open(program)
	if err != nil {
		return fmt.Errorf("algorithm: %w", err)
	}
	defer f.Close()
	loader, err := loaderOf(f)
	switch {
	case err != nil:
		return fmt.Errorf("algorithm: %w", err)
	case loader == "":
		return nil
	case r.Root == "":
		return fmt.Errorf("algorithm is dynamically linked (%s), and this machine has no runtime disk; link it statically", loader)
	}
	if err := existsIn(r.Root, loader); err != nil {
		return fmt.Errorf("algorithm is dynamically linked with %s, which the runtime disk has not: %w", loader, err)
	}
	return nil
}

func (r *Runner) checkPython() error {
	if r.Root == "" {
		return errors.New("algorithm is a Python script, and this machine has no runtime disk")
	}
	if err := existsIn(r.Root, pythonPath); err != nil {
		return fmt.Errorf("algorithm is a Python script, and the runtime disk has no %s: %w", pythonPath, err)
	}
	return nil
}

// existsIn tells whether root has the absolute path, with links resolved inside
// root as far as they are relative.
func existsIn(root, path string) error {
	_, err := fs.Lstat(os.DirFS(root), path[1:])
	return err
}

// defaultPath is where programs of the runtime disk are.
const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// environment is all that the algorithm finds, sorted: defaults, what an image
// sets, where its data is, and what the manifest adds or has in their place.
func environment(search string, image, added map[string]string) []string {
	env := map[string]string{
		"PATH":   search,
		"HOME":   "/tmp",
		"TMPDIR": "/tmp",
		"LANG":   "C.UTF-8",
	}
	maps.Copy(env, image)
	for name, dir := range map[string]string{"COCOS_DATASETS": datasetsDir, "COCOS_FILES": filesDir, "COCOS_RESULTS": resultsDir} {
		env[name] = workPath + "/" + dir
	}
	maps.Copy(env, added)
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}
