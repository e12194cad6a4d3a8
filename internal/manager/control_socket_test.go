package manager

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestControlSocketPermissions(t *testing.T) {
	own := fmt.Sprint(os.Getgid())
	for name, tt := range map[string]struct {
		group string
		mode  fs.FileMode
	}{
		"its user alone": {"", 0o600},
		"a group, too":   {own, 0o660},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			old := syscall.Umask(0) // which would leave it open to everyone
			s, err := listenControl(filepath.Join(dir, "new", "c.sock"), tt.group)
			syscall.Umask(old)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			info, err := os.Lstat(s.path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != fs.ModeSocket|tt.mode {
				t.Errorf("mode %v, want %v", info.Mode(), tt.mode)
			}
			if tt.group != "" && fmt.Sprint(info.Sys().(*syscall.Stat_t).Gid) != tt.group {
				t.Errorf("it belongs to group %d", info.Sys().(*syscall.Stat_t).Gid)
			}
			entries, err := os.ReadDir(filepath.Dir(s.path))
			if err != nil || len(entries) != 1 {
				t.Errorf("beside the socket: %v, %v", entries, err)
			}
			c, err := net.Dial("unix", s.path)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if err := s.remove(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(s.path); err == nil {
				t.Error("it is still there")
			}
		})
	}
}

func TestControlSocketRefusals(t *testing.T) {
	dir := shortDir(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := listenControl(path("live"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	long := path(strings.Repeat("x", maxSocketPath-len(dir)))
	for name, tt := range map[string]struct{ path, group, want string }{
		"a relative path":        {"c.sock", "", "not an absolute path"},
		"too long":               {long, "", "too long for a unix socket by 1 bytes"},
		"a file":                 {path("file"), "", "is no socket"},
		"a folder":               {dir, "", "is no socket"},
		"another Manager":        {path("live"), "", "another Manager listens"},
		"no such group":          {path("c"), "no-such-group", `MANAGER_CONTROL_GROUP="no-such-group"`},
		"a file is its folder":   {path("file/c"), "", "not a directory"},
		"an empty path":          {"", "", "not an absolute path"},
		"a folder made of links": {"/dev/null/c", "", "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := listenControl(tt.path, tt.group)
			if err == nil {
				s.Close()
				t.Fatal("it was made")
			}
			for _, want := range []string{tt.want, "MANAGER_CONTROL_SOCKET"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; lacks %q", err, want)
				}
			}
		})
	}
	// What is there is left as it was, and nothing is left beside it.
	if c, err := net.Dial("unix", path("live")); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// The longest path that the kernel takes is taken.
func TestControlSocketLongestPath(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, strings.Repeat("x", maxSocketPath-len(dir)-1))
	s, err := listenControl(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestStaleControlSocketIsReplaced(t *testing.T) {
	path := filepath.Join(shortDir(t), "c.sock")
	first, err := listenControl(path, "")
	if err != nil {
		t.Fatal(err)
	}
	first.Close() // as if killed: the file stays
	second, err := listenControl(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	// What the first one made is not there any more: it removes nothing.
	if err := first.remove(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestControlSocketOutOfReach(t *testing.T) {
	own := fmt.Sprint(os.Getgid())
	dir := shortDir(t)
	closed := filepath.Join(dir, "closed")
	for _, d := range []string{dir, closed} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := listenControl(filepath.Join(closed, "c.sock"), own)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.reachable(own); err != nil {
		t.Errorf("open folders: %v", err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.reachable(own); err == nil || !strings.Contains(err.Error(), closed) {
		t.Errorf("a closed folder: %v", err)
	}
	if err := s.reachable(""); err != nil {
		t.Errorf("nobody else is to use it: %v", err)
	}
}
