package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits into sockaddr_un (unix(7)) with its final NUL.
const maxSocketPath = 107

// controlSocket is the unix socket of the control API.
type controlSocket struct {
	net.Listener
	path string
	file fs.FileInfo
}

// listenControl makes the socket. Nobody but this process's user, and the
// members of group if one is named, can ever connect to it: it is made in a
// folder that is closed to others and gets its name with its permissions. What a
// Manager that was killed has left is replaced; a socket that somebody answers
// is not.
func listenControl(path, group string) (_ *controlSocket, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("control socket %s (MANAGER_CONTROL_SOCKET): %w", path, err)
		}
	}()
	if !filepath.IsAbs(path) {
		return nil, errors.New("is not an absolute path")
	}
	if n := len(path); n > maxSocketPath {
		return nil, fmt.Errorf("is too long for a unix socket by %d bytes; choose a shorter path", n-maxSocketPath)
	}
	mode, gid := fs.FileMode(0o600), -1
	if group != "" {
		if gid, err = groupID(group); err != nil {
			return nil, err
		}
		mode = 0o660
	}
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	if err := inTheWay(path); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(folder, ".c-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(private)) }()
	hidden, err := os.Open(private)
	if err != nil {
		return nil, err
	}
	defer hidden.Close()
	// By its descriptor: the path may be as long as one may be.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/s", hidden.Fd()), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	made := filepath.Join(private, "s")
	if err := os.Lchown(made, -1, gid); err != nil {
		return nil, fmt.Errorf("giving it to the group %q (MANAGER_CONTROL_GROUP): %w; run the Manager as root or as a member of the group", group, err)
	}
	if err := os.Chmod(made, mode); err != nil {
		return nil, err
	}
	file, err := os.Lstat(made)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(made, path); err != nil {
		return nil, err
	}
	return &controlSocket{Listener: l, path: path, file: file}, nil
}

// inTheWay tells what stands at path that must not be replaced.
func inTheWay(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("is there already and is no socket; remove it, or choose another path")
	}
	c, err := net.Dial("unix", path)
	switch {
	case err == nil:
		_ = c.Close()
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.EAGAIN): // its backlog is full, so somebody is there
	default:
		return fmt.Errorf("is there already, and who listens on it can't be told: %w", err)
	}
	return errors.New("another Manager listens on it; stop that one, or choose another path")
}

// groupID finds a group by its name, or by its number.
func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		if g, err = user.LookupGroupId(name); err != nil {
			return 0, fmt.Errorf("MANAGER_CONTROL_GROUP=%q: there is no such group; make it with: groupadd --system %s", name, name)
		}
	}
	return strconv.Atoi(g.Gid)
}

// reachable tells what keeps a group from a socket that it may use.
func (s *controlSocket) reachable(group string) error {
	if group == "" {
		return nil
	}
	gid := s.file.Sys().(*syscall.Stat_t).Gid
	for folder := filepath.Dir(s.path); ; folder = filepath.Dir(folder) {
		info, err := os.Stat(folder)
		if err != nil {
			return err
		}
		through := fs.FileMode(0o001)
		if info.Sys().(*syscall.Stat_t).Gid == gid {
			through = 0o010
		}
		if info.Mode()&through == 0 {
			return fmt.Errorf("the folder %s is closed to the group %q (MANAGER_CONTROL_GROUP): put the socket elsewhere with MANAGER_CONTROL_SOCKET, such as /run/cocos/manager.sock", folder, group)
		}
		if folder == filepath.Dir(folder) {
			return nil
		}
	}
}

// remove takes the socket away, unless another one stands there by now.
func (s *controlSocket) remove() error {
	info, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, s.file) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(s.path)
}
