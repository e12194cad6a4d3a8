package debian

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LockFolder takes the advisory lock of a cache folder, made when missing, and
// returns the function that gives it back.
func LockFolder(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the cache folder: %w; set COCOS_CACHE to a folder that you may write", err)
	}
	name := filepath.Join(dir, ".lock")
	l, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("locking the cache folder: %w; set COCOS_CACHE to a folder that you may write", err)
	}
	if err != nil {
		return nil, fmt.Errorf("locking the cache folder: %w", err)
	}
	for {
		err = unix.Flock(int(l.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("locking %s: %w", name, err)
	}
	return func() { l.Close() }, nil
}
