package manager

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// newSuffix marks a VM's folder that is not complete.
const newSuffix = ".new"

// ending is what is kept of a run for ever, in the ledger of ended runs: one
// line, "<run> <manifest digest> <agent port> <final sequence>".
type ending struct {
	digest manifest.Digest
	port   uint16
	// final is the Manager's sequence of vm.removed, the run's last event.
	final uint64
}

// stateDir is the state directory, held by this Manager alone.
type stateDir struct {
	path string
	lock *os.File

	mu     sync.Mutex
	ledger *os.File
	endeds map[string]ending
}

// openState takes the state directory in path and makes it if it is missing.
func openState(path string) (_ *stateDir, err error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("state directory %q is not an absolute path", path)
	}
	if err := vm.CheckDir(path); err != nil {
		return nil, fmt.Errorf("MANAGER_STATE_DIR: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory (MANAGER_STATE_DIR): %w", err)
	}
	if err := ownFolder(path); err != nil {
		return nil, err
	}
	s := &stateDir{path: path, endeds: map[string]ending{}}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.checkVersion(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.vms(), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of VMs in MANAGER_STATE_DIR: %w", err)
	}
	if err := ownFolder(s.vms()); err != nil {
		return nil, err
	}
	if err := s.readLedger(); err != nil {
		return nil, err
	}
	// What was made above is there after a crash, before anything relies on it.
	if err := syncPath(path); err != nil {
		return nil, fmt.Errorf("writing the state directory (MANAGER_STATE_DIR): %w", err)
	}
	return s, nil
}

// ownFolder refuses a folder that others may write to: what lies in it says
// which programs are run.
func ownFolder(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("looking at the state directory (MANAGER_STATE_DIR): %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case !ok || int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s (MANAGER_STATE_DIR) belongs to user id %d, and this Manager is user id %d: start it as that user, or set MANAGER_STATE_DIR to another folder", path, st.Uid, os.Geteuid())
	case mode&0o002 != 0, mode&0o020 != 0 && int(st.Gid) != os.Getegid():
		return fmt.Errorf("%s (MANAGER_STATE_DIR) has mode %04o: others may write there and have this Manager run what they like; make sure that all in it is yours, then: chmod 0700 %s", path, mode, path)
	}
	return nil
}

func (s *stateDir) vms() string { return filepath.Join(s.path, vm.VMsDir) }

// Close lets the directory go.
func (s *stateDir) Close() error {
	var errs []error
	if s.ledger != nil {
		errs = append(errs, s.ledger.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *stateDir) takeLock() error {
	name := filepath.Join(s.path, vm.LockFile)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("locking the state directory (MANAGER_STATE_DIR): %w", err)
	}
	err = patiently(unix.EWOULDBLOCK, func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("state directory %s is used by another Manager (process %s): stop it, or set MANAGER_STATE_DIR to another folder",
				s.path, strings.TrimSpace(string(holder[:n])))
		}
		return fmt.Errorf("locking the state directory (MANAGER_STATE_DIR): %s: %w", name, err)
	}
	s.lock = f
	// For people; nothing depends on it.
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		return fmt.Errorf("locking the state directory (MANAGER_STATE_DIR): %w", err)
	}
	return nil
}

const (
	lockGrace = 3 * time.Second
	lockPause = 20 * time.Millisecond
)

// patiently repeats take while it fails with busy, for a short time: a Manager
// that was killed while it started a process can leave its locks to that process
// until it has executed its program, and the kernel may close the files of the
// dead a little later.
func patiently(busy error, take func() error) error {
	for deadline := time.Now().Add(lockGrace); ; time.Sleep(lockPause) {
		if err := take(); !errors.Is(err, busy) || time.Now().After(deadline) {
			return err
		}
	}
}

// openOwnSpool opens the Manager's spool of a run.
func openOwnSpool(dir vm.Dir) (sp *spool.Spool, err error) {
	err = patiently(spool.ErrLocked, func() error {
		sp, err = spool.Open(dir.ManagerSpool())
		return err
	})
	return sp, err
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// neighbours may lie in a state directory that has no version yet: the guest
// image where it is installed, what a file system of its own begins with, the
// keys of the simulated TEE, which outlive the rest, and how the host joined its
// server, which is before its first start.
var neighbours = []string{"img", "lost+found", vm.SimDir, vm.EnrolledDir}

// checkVersion refuses a directory of another format, and gives an empty one
// its version.
func (s *stateDir) checkVersion() error {
	name := filepath.Join(s.path, vm.VersionFile)
	b, err := os.ReadFile(name)
	if err == nil {
		if got := strings.TrimSpace(string(b)); got != vm.StateVersion {
			return fmt.Errorf("state directory %s has version %q; this Manager reads version %s: let the Manager that wrote it end its VMs, or set MANAGER_STATE_DIR to another folder",
				s.path, got, vm.StateVersion)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the version of the state directory (MANAGER_STATE_DIR): %w", err)
	}
	entries, err := os.ReadDir(s.path)
	if err != nil {
		return fmt.Errorf("reading the state directory (MANAGER_STATE_DIR): %w", err)
	}
	for _, e := range entries {
		if e.Name() != vm.LockFile && e.Name() != vm.VersionFile+newSuffix && !slices.Contains(neighbours, e.Name()) {
			return fmt.Errorf("%s has no file %q but other things, such as %q: it is no state directory; set MANAGER_STATE_DIR to an empty folder",
				s.path, vm.VersionFile, e.Name())
		}
	}
	if err := writeFile(name+newSuffix, vm.StateVersion+"\n"); err != nil {
		return fmt.Errorf("writing the version of the state directory (MANAGER_STATE_DIR): %w", err)
	}
	if err := os.Rename(name+newSuffix, name); err != nil {
		return fmt.Errorf("writing the version of the state directory (MANAGER_STATE_DIR): %w", err)
	}
	return syncPath(s.path)
}

// readLedger reads the ledger of ended runs. A crash can leave its last line
// unfinished: that run had not ended then, and the line is cut off.
func (s *stateDir) readLedger() error {
	name := filepath.Join(s.path, vm.EndedFile)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the ledger of ended runs in MANAGER_STATE_DIR: %w", err)
	}
	s.ledger = f
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("reading the ledger of ended runs in MANAGER_STATE_DIR: %w", err)
	}
	whole := bytes.LastIndexByte(b, '\n') + 1
	if whole < len(b) {
		if err := f.Truncate(int64(whole)); err != nil {
			return fmt.Errorf("mending the ledger of ended runs in MANAGER_STATE_DIR: %w", err)
		}
	}
	line := 0
	for text := range strings.Lines(string(b[:whole])) {
		line++
		id, e, err := parseEnding(strings.TrimSuffix(text, "\n"))
		if err != nil {
			return fmt.Errorf("%s:%d: %w: restore the file, or remove the line if you know that the run can't be asked for again", name, line, err)
		}
		s.endeds[id] = e
	}
	return nil
}

func (e ending) line(runID string) string {
	return fmt.Sprintf("%s %s %d %d\n", runID, e.digest, e.port, e.final)
}

func parseEnding(line string) (string, ending, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 4 || !isRunID(fields[0]) {
		return "", ending{}, fmt.Errorf("%.80q is not the record of a run", line)
	}
	digest, err := manifest.ParseDigest(fields[1])
	if err != nil {
		return "", ending{}, fmt.Errorf("manifest digest %q %w", fields[1], err)
	}
	port, err := strconv.ParseUint(fields[2], 10, 16)
	if err != nil {
		return "", ending{}, fmt.Errorf("port: %w", err)
	}
	final, err := strconv.ParseUint(fields[3], 10, 64)
	if err != nil || final < 2 {
		return "", ending{}, fmt.Errorf("final sequence %q is not one", fields[3])
	}
	return fields[0], ending{digest: digest, port: uint16(port), final: final}, nil
}

// ended tells how a run ended, if it did.
func (s *stateDir) ended(runID string) (ending, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.endeds[runID]
	return e, ok
}

// end writes a run into the ledger; from here on it can only be removed.
func (s *stateDir) end(runID string, e ending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.endeds[runID]; ok {
		return nil
	}
	info, err := s.ledger.Stat()
	if err != nil {
		return fmt.Errorf("writing the ledger of ended runs: %w", err)
	}
	_, err = s.ledger.WriteString(e.line(runID))
	if err == nil {
		err = s.ledger.Sync()
	}
	if err != nil {
		// Half a line must not be continued by the next one.
		return errors.Join(fmt.Errorf("writing the ledger of ended runs: %w", err), s.ledger.Truncate(info.Size()))
	}
	s.endeds[runID] = e
	return nil
}

// sweep removes what a Manager left that died while it made a folder, and
// returns the runs there are.
func (s *stateDir) sweep(log *slog.Logger) ([]string, error) {
	entries, err := os.ReadDir(s.vms())
	if err != nil {
		return nil, fmt.Errorf("reading the folder of VMs in MANAGER_STATE_DIR: %w", err)
	}
	var ids []string
	for _, e := range entries {
		switch id, isNew := strings.CutSuffix(e.Name(), newSuffix); {
		case !isRunID(id):
			log.Warn("the folder of VMs holds something that is no VM; it is left alone", "path", filepath.Join(s.vms(), e.Name()))
		case isNew:
			if err := os.RemoveAll(filepath.Join(s.vms(), e.Name())); err != nil {
				return nil, fmt.Errorf("removing an unfinished VM folder: %w", err)
			}
			log.Info("removed the unfinished folder of a run that was never accepted", "run", id)
		default:
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// create makes a run's folder with its first event. The folder appears whole,
// under its name, on disk: this is the moment in which the run is accepted.
func (s *stateDir) create(spec vm.Spec, accepted events.Event, at func(string)) (err error) {
	final := vm.DirOf(s.path, spec.RunID)
	dir := vm.Dir(string(final) + newSuffix)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making the run's folder: %w", err), os.RemoveAll(string(dir)))
		}
	}()
	if err := os.RemoveAll(string(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(string(dir), 0o700); err != nil {
		return err
	}
	at("run.folder")
	if err := vm.WriteSpec(dir, spec); err != nil {
		return err
	}
	if err := syncPath(dir.Spec()); err != nil {
		return err
	}
	if t := spec.Machine.Boot.HashTable; t != nil {
		if err := os.WriteFile(dir.Hashes(), t.Content, 0o600); err != nil {
			return err
		}
		if err := syncPath(dir.Hashes()); err != nil {
			return err
		}
	}
	at("run.spec")
	if err := firstEvent(dir, accepted); err != nil {
		return err
	}
	at("run.spooled")
	if err := syncPath(string(dir)); err != nil {
		return err
	}
	if err := os.Rename(string(dir), string(final)); err != nil {
		return err
	}
	if err := syncPath(s.vms()); err != nil {
		// It can't be told what a crash would leave: take it back.
		return errors.Join(err, os.RemoveAll(string(final)))
	}
	at("run.committed")
	return nil
}

func firstEvent(dir vm.Dir, e events.Event) error {
	payload, err := events.Encode(e)
	if err != nil {
		return err
	}
	sp, err := spool.Open(dir.ManagerSpool())
	if err != nil {
		return err
	}
	_, err = sp.Append(events.Manager, payload)
	return errors.Join(err, sp.Close())
}

// isRunID tells whether s is a UUID in the one form that names folders.
func isRunID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

func writeFile(name, text string) error {
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return err
	}
	return syncPath(name)
}

// syncPath makes a file, or a folder's entries, durable.
func syncPath(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
