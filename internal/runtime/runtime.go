// Package runtime runs one verified algorithm and lets it see nothing else.
//
// The algorithm is an unprivileged user's process without capabilities, in
// user, mount, process, IPC, host name, network and control group namespaces of
// its own. Its root is a read-only skeleton with the runtime disk's folders, a
// /proc of its own processes, five device nodes, a bounded /tmp, the program,
// and /work: datasets/ and files/ read-only, results/ bounded. There is no network but an
// own loopback, and no vsock: that is not divided by namespaces, so a filter on
// system calls keeps it away, with what else leads out of the namespaces or deep
// into the kernel. Landlock, where the kernel has it, repeats for files what the
// mounts say. It inherits no descriptor, no variable and no key.
//
// Time, memory, processors, processes and output are bounded by the manifest's
// limits, from outside the algorithm, and its files by bounds of their own. When the algorithm ends, or the context does, every
// process that it started is killed before Run returns.
//
// A container's root is its image, unpacked, read-only, with the same mounted over
// it. It runs as the user that the image names, which is the same unprivileged
// user outside: root in an image has no capability either, and no way to one.
//
// Run starts this program again (Child) as the first process of the namespaces:
// it builds the root, gives up what the algorithm must not have, starts it and
// reaps. A WebAssembly module is no program: there this program is started a
// third time, as the engine, where other algorithms are themselves (package
// wasm). As root and as an ordinary user it is the same isolation; where the
// kernel refuses, nothing is run.
package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/manifest"
)

// AlgorithmID is the user and group of an algorithm where a Runner names none.
const AlgorithmID = 10001

// Defaults of limits that neither the manifest nor the Runner sets. There is
// none for memory: a Runner in a VM names one.
const (
	defaultProcesses = 1024
	defaultSeconds   = 24 * 60 * 60
	defaultOutput    = 1 << 30
	defaultScratch   = 1 << 30
)

// pipeDelay bounds the wait for the algorithm's output after its processes are
// all gone.
const pipeDelay = 10 * time.Second

// Job is one run.
type Job struct {
	Type manifest.AlgorithmType
	// Program is the file that holds the algorithm, its digest checked. Run
	// makes it readable and executable for everyone, unless it is an image archive.
	Program string
	// Image is what a container's archive is held to.
	Image manifest.Image
	// Args follow the program's name, or take the place of an image's command.
	Args []string
	// Python is what a script's packages are installed from, by names in files;
	// zero: it has none.
	Python manifest.Packages
	// Env is added to PATH, HOME, TMPDIR, LANG, COCOS_DATASETS, COCOS_FILES,
	// COCOS_RESULTS and what an image sets, or takes their place.
	Env    map[string]string
	Limits manifest.Limits
	// Dir holds the folders datasets and files, readable for everyone, and results,
	// empty; files is made if it is missing. An image is unpacked there, too, and
	// gone when Run returns.
	// What the algorithm leaves in its results/ is moved there when it ended with
	// status 0, as files and folders of the caller's own.
	Dir string
	// Stdout and Stderr take the algorithm's output, up to Limits.OutputBytes;
	// nil discards it.
	Stdout, Stderr io.Writer
}

// Outcome is how a run ended.
type Outcome struct {
	// ExitCode is -1 if a signal ended the algorithm.
	ExitCode int
	// Signal is its name, such as "SIGSEGV"; empty if it exited.
	Signal string
	// PackagesFailed: the algorithm was not started, for its packages could not be
	// installed; status or signal is pip's.
	PackagesFailed bool
	Started, Ended time.Time
	// MaxRSS is the largest resident set of one process, in bytes.
	MaxRSS int64
	// CPU is the time that all processes used.
	CPU time.Duration
	// OutputBytes is what it printed and left in results/.
	OutputBytes int64
	// ProcessesRefused is how often a process was not started for there were too
	// many; 0 also where nothing counts (no Runner.Cgroup).
	ProcessesRefused int64
	// Landlock is the version of its ABI that was in force; 0: none.
	Landlock int
	// LimitExceeded is one of the limits below: the one that ended the run, or
	// that the algorithm had reached when it failed. Empty: none.
	LimitExceeded string
}

// The limits, by their fields in the manifest, and two that it has no field for.
// A limit on processors slows a run and ends none.
const (
	LimitSeconds = "seconds"
	LimitMemory  = "memory_bytes"
	LimitOutput  = "output_bytes"
	// LimitProcesses, LimitFiles and LimitScratch: what goes beyond just fails,
	// and the algorithm may cope.
	LimitProcesses = "processes"
	LimitFiles     = "files"   // MaxFiles in results/
	LimitScratch   = "scratch" // bytes or MaxFiles in /tmp and /dev/shm together
)

// MaxFiles bounds the files, folders and links in results/, and those in /tmp
// and /dev/shm together.
const MaxFiles = 65536

// Succeeded tells whether the algorithm ended by itself with status 0.
func (o Outcome) Succeeded() bool {
	return o.ExitCode == 0 && o.Signal == "" && o.LimitExceeded == ""
}

// ErrResults says that the algorithm succeeded, but left something in results/
// that can't be released.
var ErrResults = errors.New("results can't be released")

// Runner runs algorithms. Its zero value runs static binaries and WebAssembly
// modules.
type Runner struct {
	// Root is where the runtime disk is mounted; empty: there is none.
	Root string
	// Engine is the program that runs WebAssembly modules, static, whose main calls
	// Child; empty: this program.
	Engine string
	// UID and GID of the algorithm; zero means AlgorithmID.
	UID, GID int
	// Limits take the place of what a manifest leaves at zero.
	Limits manifest.Limits
	// ScratchBytes bounds /tmp and /dev/shm together; zero means 1 GiB.
	ScratchBytes int64
	// Cgroup is a folder of a cgroup v2 file system that is this process's to
	// divide; it bounds the memory of all processes together. Empty: memory is
	// bounded for each process alone (RLIMIT_DATA), and a job with a limit on
	// processors is refused, for nothing could hold it.
	Cgroup string
}

// Run runs job and waits for its end. An error means that the algorithm was
// not run, or that its results can't be had; the end of ctx kills it and is
// returned as its cause. How the algorithm itself fared is in the Outcome.
func (r *Runner) Run(ctx context.Context, job Job) (out Outcome, err error) {
	if cause := context.Cause(ctx); cause != nil {
		return Outcome{}, fmt.Errorf("running the algorithm: %w", cause)
	}
	s, err := r.setup(job)
	if err != nil {
		return Outcome{}, err
	}
	if job.Type == manifest.Container {
		defer func() { err = errors.Join(err, os.RemoveAll(filepath.Join(s.Dir, imageDir))) }()
		if err := r.container(ctx, job, &s); err != nil {
			return Outcome{}, fmt.Errorf("running the algorithm: %w", err)
		}
	}
	out, err = r.run(ctx, job, s)
	if err != nil {
		return out, fmt.Errorf("running the algorithm: %w", err)
	}
	return out, nil
}

// limitError is the cause with which a run is cancelled that reached a limit.
type limitError string

func (e limitError) Error() string { return "limit " + string(e) + " reached" }

func (r *Runner) run(ctx context.Context, job Job, s setup) (out Outcome, err error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return out, err
	}
	defer ours.Close()
	defer theirs.Close()
	group, err := newCgroup(r.Cgroup, s.Limits)
	if err != nil {
		return out, err
	}
	defer group.remove()

	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	budget := &budget{limit: s.Limits.OutputBytes, left: s.Limits.OutputBytes, exceeded: func() { stop(limitError(LimitOutput)) }}
	cmd := exec.CommandContext(inner, "/proc/self/exe")
	cmd.Args = []string{childName}
	cmd.Env = []string{}
	cmd.Stdout = budget.writer(job.Stdout)
	cmd.Stderr = budget.writer(job.Stderr)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.WaitDelay = pipeDelay
	cmd.SysProcAttr = namespaces(s)
	group.use(cmd.SysProcAttr)

	out.Started = time.Now()
	if err := cmd.Start(); err != nil {
		return out, fmt.Errorf("making namespaces: %w; this kernel must allow user namespaces to this user (user.max_user_namespaces), and none can be made in a chroot", err)
	}
	theirs.Close() // so that the end of the child is the end of the stream
	results, said := converse(ours, s, stop)
	waitErr := cmd.Wait()
	out.Ended = time.Now()
	if results != nil {
		defer results.Close()
	}
	if cause := context.Cause(ctx); cause != nil {
		return out, cause
	}
	if err := judge(&out, cmd.ProcessState, said, group, context.Cause(inner)); err != nil {
		return out, err
	}
	var exit *exec.ExitError
	if out.LimitExceeded == "" && waitErr != nil && !errors.As(waitErr, &exit) {
		return out, fmt.Errorf("taking its output: %w", waitErr)
	}
	return out, collect(&out, results, job, budget)
}

// judge fills in how the run ended. It returns an error if the algorithm was
// never started.
func judge(out *Outcome, state *os.ProcessState, said report, group *cgroup, cause error) error {
	out.ExitCode, out.Signal, out.MaxRSS, out.CPU = said.ExitCode, said.Signal, said.MaxRSS, said.CPU
	out.PackagesFailed = said.Installing
	out.Landlock, out.ProcessesRefused = said.Landlock, group.refusedProcesses()
	if !said.Ended {
		out.ExitCode, out.Signal = -1, "SIGKILL"
	}
	out.CPU = max(out.CPU, state.UserTime()+state.SystemTime())
	if u, ok := state.SysUsage().(*syscall.Rusage); ok && out.MaxRSS == 0 {
		out.MaxRSS = u.Maxrss << 10
	}
	var limit limitError
	switch {
	case errors.As(cause, &limit):
		out.LimitExceeded = string(limit)
	case group.outOfMemory() || said.OutOfMemory:
		out.LimitExceeded = LimitMemory
	case out.Succeeded():
	case said.OutputFull:
		out.LimitExceeded = LimitOutput
	case said.FilesFull:
		out.LimitExceeded = LimitFiles
	case said.ScratchFull:
		out.LimitExceeded = LimitScratch
	case said.Ended && out.ProcessesRefused > 0:
		out.LimitExceeded = LimitProcesses
	case said.Error != "":
		return errors.New(said.Error)
	case !said.Ended:
		return fmt.Errorf("its first process ended without a word: %v", state)
	}
	return nil
}

// collect moves the results of an algorithm that succeeded.
func collect(out *Outcome, results *os.File, job Job, b *budget) error {
	out.OutputBytes = b.taken()
	if !out.Succeeded() {
		return nil
	}
	if results == nil {
		return errors.New("its results folder was not handed over")
	}
	moved, err := moveResults(results, filepath.Join(job.Dir, resultsDir), b.rest())
	out.OutputBytes += moved
	if errors.Is(err, errTooLarge) {
		out.LimitExceeded = LimitOutput
		return nil
	}
	return err
}

// converse hands the child its setup, takes the results folder from it, starts
// the clock, and hears how it ended. It returns when the child closes its end.
func converse(conn *net.UnixConn, s setup, stop context.CancelCauseFunc) (results *os.File, said report) {
	if err := json.NewEncoder(conn).Encode(s); err != nil {
		// The child has ended; its wait status says more.
		return nil, report{}
	}
	results, said, ready := receiveReady(conn)
	if !ready {
		return results, said
	}
	timer := time.AfterFunc(time.Duration(s.Limits.Seconds)*time.Second, func() { stop(limitError(LimitSeconds)) })
	defer timer.Stop()
	// Without a word at the end the zero report stands.
	_ = json.NewDecoder(conn).Decode(&said)
	return results, said
}

// namespaces is what the child starts in.
func namespaces(s setup) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
			unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
		Setsid:      true,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: s.UID, HostID: s.HostUID, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: s.GID, HostID: s.HostGID, Size: 1}},
		// The child is not root in there when the algorithm is, or when an ordinary
		// user, who may map itself alone, starts it.
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SYS_RESOURCE, unix.CAP_SETPCAP},
	}
	if os.Geteuid() == 0 {
		// Two users: the algorithm may not even send the child a signal.
		a.UidMappings = append(a.UidMappings, syscall.SysProcIDMap{ContainerID: other(s.UID), HostID: 0, Size: 1})
		a.GidMappings = append(a.GidMappings, syscall.SysProcIDMap{ContainerID: other(s.GID), HostID: 0, Size: 1})
		a.GidMappingsEnableSetgroups = true
		a.AmbientCaps = append(a.AmbientCaps, unix.CAP_SETUID, unix.CAP_SETGID)
	}
	return a
}

// other is what the child's user or group is in a namespace, where the
// algorithm's is id.
func other(id int) int {
	if id == 0 {
		return 1
	}
	return 0
}
