package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	goruntime "runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/runtime/wasm"
)

// childName is the argv[0] of the child.
const childName = "cocos-exec"

// childSocket is the descriptor of the child's end of the pair.
const childSocket = 3

// Child is the first statement of main, and of the TestMain of packages whose
// tests run algorithms. In a process that Run started, and in the engine of a
// WebAssembly module, it does not return; otherwise it does nothing.
func Child() {
	wasm.Main()
	if len(os.Args) == 0 || os.Args[0] != childName {
		return
	}
	// This thread, whose user is the one that signals are checked against, keeps
	// its own; another gives up what the processes that it starts must not have.
	goruntime.LockOSThread()
	status := make(chan int)
	go func() {
		goruntime.LockOSThread()
		status <- childStatus()
	}()
	// The end of the first process is the end of all in its namespace.
	unix.Exit(<-status)
}

func childStatus() int {
	conn, err := connOf(os.NewFile(childSocket, "run"))
	if err != nil || os.Getpid() != 1 {
		fmt.Fprintf(os.Stderr, "%s is started by the agent only\n", childName)
		return 2
	}
	// Of the signals that the algorithm sends, those without a handler are
	// ignored by the kernel; Go's own handlers would end this process.
	signal.Notify(make(chan os.Signal, 1))
	said, err := child(conn)
	if err != nil {
		said = report{Error: err.Error()}
	}
	if err := json.NewEncoder(conn).Encode(said); err != nil {
		return 1
	}
	return 0
}

func child(conn *net.UnixConn) (report, error) {
	var s setup
	if err := json.NewDecoder(conn).Decode(&s); err != nil {
		return report{}, fmt.Errorf("reading what to run: %w", err)
	}
	go func() {
		// Nothing more comes but the line's end, which the decoder may have left:
		// whatever this returns, nobody waits any more.
		_, _ = io.Copy(io.Discard, conn)
		unix.Exit(1)
	}()
	if err := keepThreads(); err != nil {
		return report{}, err
	}
	// Whatever the agent's own starter left open stays here.
	if err := unix.CloseRange(childSocket, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return report{}, fmt.Errorf("closing descriptors: %w", err)
	}
	results, err := isolate(s)
	if err != nil {
		return report{}, err
	}
	if err := giveUp(s); err != nil {
		return report{}, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return report{}, err
	}
	if err := sendReady(conn, results); err != nil {
		return report{}, err
	}
	said, err := runAll(s, null.Fd())
	if err != nil {
		return said, err
	}
	said.OutOfMemory = s.Engine != "" && said.Signal == "SIGKILL"
	said.Landlock = LandlockABI()
	said.OutputFull, said.FilesFull = fullness(results)
	if scratch, err := os.Open("/tmp"); err == nil {
		full, noFiles := fullness(scratch)
		said.ScratchFull = full || noFiles
		scratch.Close()
	}
	return said, nil
}

// runAll installs what is to be installed, and starts the algorithm if that
// succeeded.
func runAll(s setup, stdin uintptr) (said report, err error) {
	var before report
	if s.Install != nil {
		if before, err = runOne(s, *s.Install, stdin); err != nil {
			return before, fmt.Errorf("installing its packages: %w", err)
		}
		if before.ExitCode != 0 {
			before.Installing = true
			return before, nil
		}
	}
	said, err = runOne(s, s.algorithm(), stdin)
	said.MaxRSS, said.CPU = max(said.MaxRSS, before.MaxRSS), said.CPU+before.CPU
	return said, err
}

// runOne starts a program and waits for its end.
func runOne(s setup, c command, stdin uintptr) (report, error) {
	pid, err := start(s, c, stdin)
	if err != nil {
		return report{}, fmt.Errorf("starting %s in %s: %w", c.Exec, c.Dir, err)
	}
	return reapUntil(pid)
}

// keepThreads makes as many threads as this process ever needs, for when the
// algorithm has taken all that the control group allows it could make no more.
// They are idle afterwards, and Go's scheduler takes idle ones first.
func keepThreads() error {
	var idle sync.WaitGroup
	defer idle.Wait()
	enough := make(chan struct{})
	defer close(enough)
	for range ownThreads {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("counting threads: %w", err)
		}
		if len(threads) >= ownThreads {
			break
		}
		locked := make(chan struct{})
		idle.Go(func() {
			goruntime.LockOSThread()
			close(locked)
			<-enough
			goruntime.UnlockOSThread()
		})
		<-locked
	}
	return nil
}

// start starts a program as the algorithm's user.
func start(s setup, c command, stdin uintptr) (pid int, err error) {
	limitData := s.limitsData()
	pid, err = syscall.ForkExec(c.Exec, c.Argv, &syscall.ProcAttr{
		Dir: c.Dir, Env: c.Env,
		Files: []uintptr{stdin, c.Stdout, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true, Ptrace: limitData},
	})
	if err != nil || !limitData {
		return pid, err
	}
	// It stands still before its first instruction. This limit can't be set
	// before the fork, as the others are: it would hold for this process.
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return pid, fmt.Errorf("waiting for it to stand still: %w", err)
	}
	if !status.Stopped() {
		return pid, errors.New("it was killed before its memory was limited")
	}
	limit := uint64(s.Limits.MemoryBytes)
	if err := unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil {
		return pid, fmt.Errorf("limiting its memory to %d bytes: %w", limit, err)
	}
	return pid, unix.PtraceDetach(pid)
}

// isolate does what needs privilege.
func isolate(s setup) (results *os.File, err error) {
	if err := unix.Sethostname([]byte("algorithm")); err != nil {
		return nil, fmt.Errorf("setting the host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return nil, err
	}
	// The algorithm goes first when the machine runs out of memory.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return nil, fmt.Errorf("setting the out-of-memory score: %w", err)
	}
	if results, err = buildRoot(s); err != nil {
		return nil, err
	}
	// Namespaces of its own would give the algorithm back every capability.
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return nil, fmt.Errorf("forbidding user namespaces: %w", err)
	}
	// Some of these belong to whoever is root in the namespaces, capabilities or not.
	if err := coverReadOnly("/proc/sys"); err != nil {
		return nil, err
	}
	return results, setLimits(s)
}

// loopbackUp makes 127.0.0.1 of the empty network namespace usable.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	return nil
}

func setLimits(s setup) error {
	// Of this process, the one thread that starts the algorithm has its user; an
	// ordinary user's has it in all threads. A control group counts exactly, and
	// tells how often it refused: there this is a second line.
	own := int64(1)
	if !s.DropGroups || !s.LimitData {
		own = 2 * ownThreads
	}
	limits := []struct {
		name     string
		resource int
		value    uint64
	}{
		{"core", unix.RLIMIT_CORE, 0},
		{"nofile", unix.RLIMIT_NOFILE, 4096},
		{"nproc", unix.RLIMIT_NPROC, uint64(s.Limits.Processes + own)},
		{"memlock", unix.RLIMIT_MEMLOCK, 64 << 10},
		{"msgqueue", unix.RLIMIT_MSGQUEUE, 0},
	}
	for _, r := range limits {
		err := unix.Prlimit(0, r.resource, &unix.Rlimit{Cur: r.value, Max: r.value}, nil)
		if errors.Is(err, unix.EPERM) && r.resource == unix.RLIMIT_NPROC {
			return fmt.Errorf("limits.processes is %d, and the kernel of this machine allows %d: ask for fewer, or give it more memory", s.Limits.Processes, mostProcesses())
		}
		if err != nil {
			return fmt.Errorf("setting limit %s to %d: %w", r.name, r.value, err)
		}
	}
	return nil
}

// reapUntil waits for whatever ends until pid has, kills the rest, and reports
// how pid ended.
func reapUntil(pid int) (said report, err error) {
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		got, err := unix.Wait4(-1, &status, 0, &usage)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD) && said.Ended:
			return said, nil
		case err != nil:
			return said, fmt.Errorf("waiting for the algorithm: %w", err)
		case status.Stopped():
			// It asked to be traced, which nobody does.
			_ = unix.PtraceDetach(got)
		case got == pid:
			said = report{
				Ended: true, ExitCode: status.ExitStatus(),
				MaxRSS: usage.Maxrss << 10,
				CPU:    time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
			}
			if status.Signaled() {
				said.ExitCode, said.Signal = -1, unix.SignalName(status.Signal())
			}
			// ESRCH: it left nothing behind.
			_ = unix.Kill(-1, unix.SIGKILL)
		}
	}
}

// fullness tells whether no byte, or no further file, finds room in the file
// system of a folder.
func fullness(dir *os.File) (bytes, files bool) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return false, false
	}
	return s.Bavail == 0, s.Ffree == 0
}
