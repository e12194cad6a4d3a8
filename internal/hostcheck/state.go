package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	stateVar  = "MANAGER_STATE_DIR"
	socketVar = "MANAGER_CONTROL_SOCKET"
	groupVar  = "MANAGER_CONTROL_GROUP"
	// maxSocketPath is what fits into sockaddr_un (unix(7)) with its final NUL.
	maxSocketPath = 107
)

// stateDir looks whether a Manager could take the state directory.
func stateDir(_ context.Context, h *host, c Config) []Finding {
	dir := c.StateDir
	if err := vm.CheckDir(dir); err != nil {
		return fail(fmt.Sprintf("%s: %v", stateVar, err), "a shorter path", "set "+stateVar)
	}
	name := stateVar + "=" + dir
	st, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		above := there(dir)
		if err := h.access(above, unix.W_OK|unix.X_OK); err != nil {
			return fail(fmt.Sprintf("%s does not exist, and user %s may not make it: %s: %v", name, h.user, above, err), "a folder of user "+h.user+"'s",
				fmt.Sprintf("install -d -o %s -m 0700 %s", h.user, dir))
		}
		return ok(name + " will be made")
	}
	if err != nil {
		return fail(fmt.Sprintf("%s: %v", name, err), "a folder that user "+h.user+" may use", "correct its permissions, or "+stateVar)
	}
	if !st.IsDir() {
		return fail(name+" is not a folder", "a folder", "correct "+stateVar)
	}
	if err := h.access(dir, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		mend := fmt.Sprintf("chown -R %s %s, if it is this Manager's", h.user, dir)
		if errors.Is(err, unix.EROFS) {
			mend = "mount its file system for writing: mount -o remount,rw " + dir
		}
		return fail(fmt.Sprintf("%s: user %s may not write there: %v", name, h.user, err), "a folder that it may write", mend)
	}
	if fs := h.stateFormat(name, dir); fs != nil {
		return fs
	}
	var out []Finding
	if sys, isStat := st.Sys().(*syscall.Stat_t); isStat && int(sys.Uid) != h.uid {
		out = fail(fmt.Sprintf("%s belongs to user id %d, and this is %s", name, sys.Uid, h.user), "the Manager's own user, here and when it runs",
			fmt.Sprintf("run this check as the user that runs the Manager; or chown -R %s %s", h.user, dir))
	}
	if mode := st.Mode().Perm(); mode&0o022 != 0 {
		out = append(out, fail(fmt.Sprintf("%s has mode %04o: others may write there", name, mode), "0700", "chmod 0700 "+dir)...)
	}
	if out != nil {
		return out
	}
	if pid, held := lockHolder(dir); held {
		return info(fmt.Sprintf("%s is used by a Manager, process %s: another one on it will not start", name, pid))
	}
	return ok(name)
}

// stateFormat refuses what a Manager would refuse.
func (h *host) stateFormat(name, dir string) []Finding {
	b, err := readFile(filepath.Join(dir, vm.VersionFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // the Manager judges whether it is empty
	case err != nil:
		return fail(fmt.Sprintf("%s: reading its version: %v", name, err), "a file that user "+h.user+" may read", fmt.Sprintf("chown -R %s %s, if it is this Manager's", h.user, dir))
	}
	if got := strings.TrimSpace(string(b)); got != vm.StateVersion {
		return fail(fmt.Sprintf("%s has version %.20q", name, got), "version "+vm.StateVersion, "let the Manager that wrote it end its VMs, or set "+stateVar+" to another folder")
	}
	return nil
}

// lockHolder tells whether a Manager holds the state directory, and which
// process says so. The lock is asked for shared and for a moment: a Manager
// that starts just then asks again.
func lockHolder(dir string) (pid string, held bool) {
	f, err := os.Open(filepath.Join(dir, vm.LockFile))
	if err != nil {
		return "", false
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return "", false
	}
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	return strings.TrimSpace(string(b[:n])), true
}

// controlSocket looks whether the control API can be served.
func controlSocket(_ context.Context, h *host, c Config) []Finding {
	if c.ControlSocket == "" {
		return info("no control API")
	}
	name := socketVar + "=" + c.ControlSocket
	if n := len(c.ControlSocket); n > maxSocketPath {
		return fail(fmt.Sprintf("%s has %d bytes", name, n), fmt.Sprintf("%d at most, as the path of a unix socket", maxSocketPath), "set "+socketVar+" to a shorter path")
	}
	if c.ControlGroup != "" {
		gid, err := h.groupID(c.ControlGroup)
		if err != nil {
			return fail(fmt.Sprintf("%s=%s: there is no such group", groupVar, c.ControlGroup), "a group of this host", "groupadd --system "+c.ControlGroup+"; or correct "+groupVar)
		}
		if !h.member(gid) {
			return fail(fmt.Sprintf("%s=%s: user %s is no member, and can't give the socket to it", groupVar, c.ControlGroup, h.user), "a group that the Manager's user is in",
				fmt.Sprintf("usermod -aG %s %s; then restart the Manager", c.ControlGroup, h.user))
		}
	}
	st, err := os.Lstat(c.ControlSocket)
	if err == nil && st.Mode().Type() != fs.ModeSocket {
		return fail(name+" is there and is no socket", "a path that is free", "move that file away, or correct "+socketVar)
	}
	dir := filepath.Dir(c.ControlSocket)
	above := there(dir)
	if above != dir && dir != filepath.Clean(c.StateDir) {
		return fail(fmt.Sprintf("%s: the folder %s does not exist", name, dir), "a folder that user "+h.user+" may write",
			fmt.Sprintf("install -d -o %s -m 0755 %s; the packaged unit makes /run/cocos when it starts", h.user, dir))
	}
	if err := h.access(above, unix.W_OK|unix.X_OK); err != nil {
		return fail(fmt.Sprintf("%s: user %s may not write to %s: %v", name, h.user, above, err), "a folder that it may write",
			fmt.Sprintf("install -d -o %s -m 0755 %s; or correct %s", h.user, dir, socketVar))
	}
	who := "user " + h.user + " only"
	if c.ControlGroup != "" {
		who = "the members of group " + c.ControlGroup
	}
	return ok(fmt.Sprintf("%s, for %s", name, who))
}

// Kinds of file systems (statfs(2)) that a restart of the host empties.
const (
	tmpfs = 0x01021994
	ramfs = 0x858458f6
)

// disk looks at the room on the state directory's file system.
func disk(_ context.Context, h *host, c Config) []Finding {
	dir := there(c.StateDir)
	s, err := h.statfs(dir)
	if err != nil {
		return fail(fmt.Sprintf("%s: %v", dir, err), "a file system", "correct "+stateVar)
	}
	free := int64(s.Bavail) * s.Bsize
	need := c.Limits.MinFreeDisk + c.Limits.DiskPerVM
	found := fmt.Sprintf("%s free at %s", bytesText(free), dir)
	room := fmt.Sprintf("free room there, `df -h %s`; or set %s to a larger file system", dir, stateVar)
	switch {
	case s.Flags&unix.ST_RDONLY != 0:
		return fail(dir+" lies on a file system that is mounted read-only", "one that can be written", "mount -o remount,rw on it; `dmesg` says whether an error made it so")
	case free < need:
		return fail(found, fmt.Sprintf("%s: MANAGER_MIN_FREE_DISK, and what one VM may write", bytesText(need)), room)
	case s.Files > 0 && s.Ffree < 1000:
		return fail(fmt.Sprintf("%s, but %d inodes only", found, s.Ffree), "some hundred for each VM", room)
	case s.Type == tmpfs || s.Type == ramfs:
		return warn(found+", in memory: after a restart of the host nobody is told how its VMs ended", "a disk", "set "+stateVar+" to a folder on a disk")
	}
	if all := c.Limits.MinFreeDisk + c.Limits.DiskPerVM*int64(c.Limits.MaxVMs); free < all {
		return warn(found, fmt.Sprintf("%s for all VMs that MANAGER_MAX_VMS allows", bytesText(all)), room+"; or lower MANAGER_MAX_VMS")
	}
	return ok(found)
}
