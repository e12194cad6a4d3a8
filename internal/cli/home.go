package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"
)

// Files of the CLI's own folder: what this person knows of others, which no
// service and no host has a say in.
const (
	contactsFile = "contacts.json"
)

const (
	// homeVersion is the version of these files.
	homeVersion = 1
	// maxHomeFile in bytes.
	maxHomeFile = 16 << 20
)

var errNoHome = errors.New("no folder for the address book and what else this program remembers: neither COCOS_HOME nor HOME is set")

// home is the CLI's own folder, which may not be there yet.
func (a *app) home() (string, error) {
	if dir := a.env.Getenv("COCOS_HOME"); dir != "" {
		return dir, nil
	}
	// A relative one is to be ignored, says the XDG Base Directory Specification.
	if dir := a.env.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "cocos"), nil
	}
	if dir := a.env.Getenv("HOME"); dir != "" {
		return filepath.Join(dir, ".config", "cocos"), nil
	}
	return "", advise(errNoHome,
		"set COCOS_HOME to a folder that is yours alone")
}

// versioned is a file's content that can be read back.
type versioned interface {
	version() *int
	// check wants everything in it to be as this program writes it.
	check() error
}

// readHome reads a file of the CLI's folder into content, which stays as it is
// if there is no such file.
func (a *app) readHome(name string, content versioned) error {
	dir, err := a.home()
	if err != nil {
		return err
	}
	return readOwn(filepath.Join(dir, name), content)
}

// updateHome reads a file, lets change have its way with content and writes it
// back. Other commands that do so wait. An error of change leaves the file as
// it was.
func (a *app) updateHome(name string, content versioned, change func() error) error {
	dir, err := a.home()
	if err != nil {
		return err
	}
	return updateOwn(dir, name, content, change)
}

// writableHint is what to do about a folder that can't be used.
const writableHint = "set COCOS_HOME to a folder that you can write to"

// updateOwn is updateHome for a folder of one's own, which it makes.
func updateOwn(dir, name string, content versioned, change func() error) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return advise(fmt.Errorf("making the folder of this program: %w", err), writableHint)
	}
	file := filepath.Join(dir, name)
	unlock, err := lockFile(file + ".lock")
	if err != nil {
		return advise(fmt.Errorf("locking %s: %w", file, err), writableHint)
	}
	defer unlock()
	if err := readOwn(file, content); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	*content.version() = homeVersion
	b, err := json.Marshal(content, jsontext.WithIndent("  "), json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := replaceFile(file, append(b, '\n')); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// lockFile waits for the file's lock. The file stays: a lock on one that another
// process removes would be no lock.
func lockFile(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// readOwn reads a file that nobody else could have written: whoever writes it
// says who a key belongs to.
func readOwn(name string, content versioned) error {
	for _, f := range []struct{ name, mode string }{{filepath.Dir(name), "700"}, {name, "600"}} {
		info, err := os.Stat(f.name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !ownedBy(info, uint32(os.Geteuid())) {
			return advise(fmt.Errorf("%s belongs to another user, who could have written what stands there", f.name),
				"set COCOS_HOME to a folder that is yours alone")
		}
		if mode := info.Mode().Perm(); mode&0o022 != 0 {
			return advise(fmt.Errorf("%s has mode %04o: others could have written what stands there", f.name, mode),
				"look through %s, then: chmod %s %s", name, f.mode, f.name)
		}
	}
	b, err := readSmall(name, maxHomeFile)
	if err != nil {
		return err
	}
	err = json.Unmarshal(b, content, json.RejectUnknownMembers(true))
	switch {
	case err != nil:
	case *content.version() != homeVersion:
		err = fmt.Errorf("/version is %d; this program reads %d", *content.version(), homeVersion)
	default:
		err = content.check()
	}
	if err != nil {
		return advise(fmt.Errorf("%s is not as this program writes it: %w", name, err), "correct it, or move it away and begin anew")
	}
	return nil
}

// ownedBy tells whether a file is that user's, or root's, who can write any.
func ownedBy(info fs.FileInfo, uid uint32) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == uid || st.Uid == 0)
}

// replaceFile puts data in the place of a file at once and for good.
func replaceFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // once it has its name there is nothing left here
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncFile(filepath.Dir(name))
}
