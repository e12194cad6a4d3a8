package hostcheck

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// volume is a firmware volume's header at the start of a file of size bytes.
func volume(guid []byte, size int) []byte {
	b := make([]byte, size)
	copy(b[16:], guid)
	binary.LittleEndian.PutUint64(b[32:], uint64(size))
	copy(b[40:], "_FVH")
	binary.LittleEndian.PutUint16(b[48:], 72)
	var sum uint16
	for i := 0; i < 72; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	binary.LittleEndian.PutUint16(b[50:], -sum)
	return b
}

func TestFirmware(t *testing.T) {
	const codeSize, varsSize = 3653632, 540672 // of 4 MiB
	set := func(code, vars []byte) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, c *Config) {
			dir := t.TempDir()
			c.Firmware = Firmware{Code: filepath.Join(dir, "a"), CodeFormat: "raw", Vars: filepath.Join(dir, "b"), VarsFormat: "raw"}
			write(t, c.Firmware.Code, string(code))
			write(t, c.Firmware.Vars, string(vars))
		}
	}
	code, vars := volume(ffs2, codeSize), volume(variable, varsSize)
	changed := func(b []byte, at int, with byte) []byte {
		b = append([]byte(nil), b...)
		b[at] = with
		return b
	}
	qcow := []byte("QFI\xfb and more")
	runCases(t, firmware, map[string]probeCase{
		"none, not installed": {nil, []want{{Info, "OVMF is not installed", "", "apt install ovmf"}}},
		"none, installed":     {func(t *testing.T, h *host, _ *Config) { h.put(t, "usr/share/OVMF/OVMF_CODE_4M.fd", "") }, []want{{Info, "is installed and not used", "", ""}}},
		"none, and a disk":    {func(_ *testing.T, _ *host, c *Config) { c.Image.Disk = "/d" }, []want{{Fail, "none is set", "OVMF", "apt install ovmf"}}},
		"a pair":              {set(code, vars), []want{{OK, "together 4 MiB", "", ""}}},
		"no code":             {func(t *testing.T, h *host, c *Config) { set(code, vars)(t, h, c); c.Firmware.Code += "x" }, []want{{Fail, "no such file", "", "MANAGER_QEMU_OVMF_CODE_FILE"}}},
		"a folder":            {func(t *testing.T, h *host, c *Config) { set(code, vars)(t, h, c); c.Firmware.Code = "/" }, []want{{Fail, "not a regular file", "", ""}}},
		"empty code":          {set(nil, vars), []want{{Fail, "_FVH", "", "apt install ovmf"}}},
		"not firmware":        {set(changed(code, 40, 'x'), vars), []want{{Fail, "no _FVH at byte 40", "", ""}}},
		"cut off":             {set(code[:codeSize-1], vars), []want{{Fail, "cut off", "", ""}}},
		"damaged header":      {set(changed(code, 60, 1), vars), []want{{Fail, "the sum over its header", "", ""}}},
		"header of 0 bytes":   {set(changed(code, 48, 0), vars), []want{{Fail, "a header of 0 bytes", "", ""}}},
		"another volume":      {set(volume(make([]byte, 16), codeSize), vars), []want{{Fail, "unknown kind", "", ""}}},
		"vars for code":       {set(vars, vars), []want{{Fail, "begins with variables", "", ""}}},
		"code for vars":       {set(code, code), []want{{Fail, "not a VARS file", "", "MANAGER_QEMU_OVMF_VARS_FILE"}}},
		"damaged vars":        {set(code, changed(vars, 60, 1)), []want{{Fail, "the sum over its header", "", ""}}},
		"no vars":             {func(t *testing.T, h *host, c *Config) { set(code, vars)(t, h, c); c.Firmware.Vars = "" }, []want{{Warn, "without a file of variables", "VARS", "MANAGER_QEMU_OVMF_VARS_FILE"}}},
		"of two builds":       {set(code, volume(variable, 131072)), []want{{Fail, "do not belong together: 3653632 and 131072 bytes", "OVMF_VARS_4M.fd", ""}}},
		"qcow2, set as raw":   {set(qcow, vars), []want{{Fail, `not in the format "raw"`, "", ""}}},
		"raw, set as qcow2": {func(t *testing.T, h *host, c *Config) { set(code, vars)(t, h, c); c.Firmware.CodeFormat = "qcow2" },
			[]want{{Fail, `not in the format "qcow2"`, "", ""}}},
		"qcow2": {func(t *testing.T, h *host, c *Config) { set(qcow, vars)(t, h, c); c.Firmware.CodeFormat = "qcow2" }, []want{{OK, "not looked into", "", ""}}},
	})
}

func TestStateDir(t *testing.T) {
	in := func(change func(t *testing.T, h *host, dir string)) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, c *Config) {
			h.uid = os.Getuid()
			if err := os.Chmod(c.StateDir, 0o700); err != nil {
				t.Fatal(err)
			}
			change(t, h, c.StateDir)
		}
	}
	denied := func(err error) func(*testing.T, *host, string) {
		return func(_ *testing.T, h *host, _ string) { h.access = func(string, uint32) error { return err } }
	}
	below := func(t *testing.T, h *host, c *Config) { h.uid = os.Getuid(); c.StateDir += "/a/b" }
	runCases(t, stateDir, map[string]probeCase{
		"new": {in(func(*testing.T, *host, string) {}), []want{{OK, "MANAGER_STATE_DIR=/", "", ""}}},
		"used": {in(func(t *testing.T, _ *host, d string) {
			write(t, d+"/version", vm.StateVersion+"\n")
			write(t, d+"/lock", "")
		}), []want{{OK, "MANAGER_STATE_DIR=/", "", ""}}},
		"missing": {below, []want{{OK, "will be made", "", ""}}},
		"missing, no rights": {func(t *testing.T, h *host, c *Config) { below(t, h, c); denied(unix.EACCES)(t, h, "") },
			[]want{{Fail, "does not exist, and user cocos may not make it", "", "install -d -o cocos -m 0700 /"}}},
		"too long":      {func(_ *testing.T, _ *host, c *Config) { c.StateDir = "/" + strings.Repeat("x", 60) }, []want{{Fail, "too long by", "", "MANAGER_STATE_DIR"}}},
		"no folder":     {func(t *testing.T, _ *host, c *Config) { c.StateDir = write(t, c.StateDir+"/f", "") }, []want{{Fail, "not a folder", "", ""}}},
		"no rights":     {in(denied(unix.EACCES)), []want{{Fail, "may not write there: permission denied", "", "chown -R cocos"}}},
		"read-only":     {in(denied(unix.EROFS)), []want{{Fail, "read-only file system", "", "mount -o remount,rw"}}},
		"other version": {in(func(t *testing.T, _ *host, d string) { write(t, d+"/version", "999\n") }), []want{{Fail, `version "999"`, "version " + vm.StateVersion, "MANAGER_STATE_DIR"}}},
		"endless version": {in(func(t *testing.T, _ *host, d string) {
			if err := unix.Mkfifo(d+"/version", 0o600); err != nil {
				t.Fatal(err)
			}
		}), []want{{Fail, "not a regular file", "", "chown"}}},
		"somebody else's": {in(func(_ *testing.T, h *host, _ string) { h.uid++ }), []want{{Fail, "belongs to user id", "", "run this check as the user"}}},
		"open to others": {in(func(t *testing.T, _ *host, d string) {
			if err := os.Chmod(d, 0o720); err != nil {
				t.Fatal(err)
			}
		}), []want{{Fail, "mode 0720", "0700", "chmod 0700"}}},
		"another Manager": {in(func(t *testing.T, _ *host, d string) { hold(t, d, "4242\n") }), []want{{Info, "used by a Manager, process 4242", "", ""}}},
	})
}

// hold locks the state directory as a Manager does.
func hold(t *testing.T, dir, pid string) {
	f, err := os.OpenFile(write(t, filepath.Join(dir, vm.LockFile), pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

func TestControlSocket(t *testing.T) {
	group := func(gid int, err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, c *Config) {
			c.ControlGroup = "operators"
			h.groupID = func(string) (int, error) { return gid, err }
		}
	}
	runCases(t, controlSocket, map[string]probeCase{
		"own":               {nil, []want{{OK, "for user cocos only", "", ""}}},
		"none":              {func(_ *testing.T, _ *host, c *Config) { c.ControlSocket = "" }, []want{{Info, "no control API", "", ""}}},
		"a group":           {group(106, nil), []want{{OK, "members of group operators", "", ""}}},
		"no group":          {group(0, errors.New("unknown group")), []want{{Fail, "no such group", "", "groupadd --system operators"}}},
		"not in the group":  {group(107, nil), []want{{Fail, "user cocos is no member", "", "usermod -aG operators cocos"}}},
		"root need not be":  {func(t *testing.T, h *host, c *Config) { group(107, nil)(t, h, c); h.uid = 0 }, []want{{OK, "operators", "", ""}}},
		"too long":          {func(_ *testing.T, _ *host, c *Config) { c.ControlSocket = "/" + strings.Repeat("x", 107) }, []want{{Fail, "108 bytes", "107 at most", "MANAGER_CONTROL_SOCKET"}}},
		"just not too long": {func(_ *testing.T, _ *host, c *Config) { c.ControlSocket = "/" + strings.Repeat("x", 106) }, []want{{OK, "", "", ""}}},
		"a file":            {func(t *testing.T, _ *host, c *Config) { write(t, c.ControlSocket, "") }, []want{{Fail, "is no socket", "", "move that file away"}}},
		"a stale socket": {func(t *testing.T, _ *host, c *Config) {
			if err := unix.Mknod(c.ControlSocket, unix.S_IFSOCK|0o600, 0); err != nil {
				t.Fatal(err)
			}
		}, []want{{OK, "", "", ""}}},
		"no folder":                    {func(_ *testing.T, _ *host, c *Config) { c.ControlSocket = "/nowhere/at/all/c.sock" }, []want{{Fail, "/nowhere/at/all does not exist", "", "install -d -o cocos"}}},
		"in a state directory to come": {func(_ *testing.T, _ *host, c *Config) { c.StateDir += "/a"; c.ControlSocket = c.StateDir + "/c.sock" }, []want{{OK, "", "", ""}}},
		"no rights":                    {func(_ *testing.T, h *host, _ *Config) { h.access = func(string, uint32) error { return unix.EACCES } }, []want{{Fail, "may not write", "", "install -d -o cocos"}}},
	})
}

func TestDisk(t *testing.T) {
	fsys := func(change func(*unix.Statfs_t)) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) {
			s, _ := h.statfs("")
			change(&s)
			h.statfs = func(string) (unix.Statfs_t, error) { return s, nil }
		}
	}
	const mib = 256 // blocks
	runCases(t, disk, map[string]probeCase{
		"enough":            {fsys(func(s *unix.Statfs_t) { s.Bavail = 3512 * mib }), []want{{OK, "3.4 GiB free at /", "", ""}}},
		"for all but one":   {fsys(func(s *unix.Statfs_t) { s.Bavail = 3512*mib - 1 }), []want{{Warn, "3.4 GiB free", "for all VMs", "MANAGER_MAX_VMS"}}},
		"just for one":      {fsys(func(s *unix.Statfs_t) { s.Bavail = 812 * mib }), []want{{Warn, "812 MiB free", "3.4 GiB", "df -h"}}},
		"not for one":       {fsys(func(s *unix.Statfs_t) { s.Bavail = 812*mib - 1 }), []want{{Fail, "812.0 MiB free", "812 MiB: MANAGER_MIN_FREE_DISK", "df -h"}}},
		"read-only":         {fsys(func(s *unix.Statfs_t) { s.Flags |= unix.ST_RDONLY }), []want{{Fail, "read-only", "", "remount,rw"}}},
		"no inodes":         {fsys(func(s *unix.Statfs_t) { s.Ffree = 999 }), []want{{Fail, "999 inodes", "", "df -h"}}},
		"btrfs counts none": {fsys(func(s *unix.Statfs_t) { s.Files, s.Ffree = 0, 0 }), []want{{OK, "16 GiB", "", ""}}},
		"in memory":         {fsys(func(s *unix.Statfs_t) { s.Type = tmpfs }), []want{{Warn, "in memory", "a disk", "MANAGER_STATE_DIR"}}},
		"no answer": {func(_ *testing.T, h *host, _ *Config) {
			h.statfs = func(string) (unix.Statfs_t, error) { return unix.Statfs_t{}, unix.ESTALE }
		}, []want{{Fail, "stale", "", "MANAGER_STATE_DIR"}}},
	})
}

func TestPorts(t *testing.T) {
	busy := func(free ...string) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, c *Config) { c.Forward.Last, c.Limits.MaxVMs = 6102, 2; only(h, free...) }
	}
	every := func(err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) { h.bind = func(string) error { return err } }
	}
	runCases(t, ports, map[string]probeCase{
		"free":              {nil, []want{{OK, "102 of 102 ports of 127.0.0.1 for agents are free; 7020 is free", "", ""}}},
		"the preferred not": {busy("6100", "6101", "6102"), []want{{OK, "3 of 4 ports of 127.0.0.1 for agents are free; 7020 is in use", "", ""}}},
		"fewer than VMs":    {busy("6100"), []want{{Warn, "1 of 4", "2, as MANAGER_MAX_VMS", "ss -ltnp"}}},
		"none":              {busy(), []want{{Fail, "0 of 4", "one at least", "ss -ltnp"}}},
		"none, but for VMs of its own": {func(t *testing.T, h *host, c *Config) {
			busy()(t, h, c)
			for i, port := range []uint16{6100, 6102} {
				dir := vm.DirOf(c.StateDir, fmt.Sprint(i))
				if err := os.MkdirAll(string(dir), 0o700); err != nil {
					t.Fatal(err)
				}
				var spec vm.Spec
				spec.Machine.Net.Forward = netip.AddrPortFrom(c.Forward.Addr, port)
				if err := vm.WriteSpec(dir, spec); err != nil {
					t.Fatal(err)
				}
			}
		}, []want{{OK, "0 of 4 ports of 127.0.0.1 for agents are free; 7020 is in use; 2 serve VMs of this Manager", "", ""}}},
		"privileged": {every(unix.EACCES), []want{{Fail, "102 are for root only", "1024", "higher ports"}}},
		"some privileged": {func(_ *testing.T, h *host, c *Config) {
			c.Forward.Preferred, c.Limits.MaxVMs = 443, 0
			h.bind = func(a string) error {
				if strings.HasSuffix(a, ":443") {
					return unix.EACCES
				}
				return nil
			}
		}, []want{{Warn, "443 is for root only; 1 are for root only", "", ""}}},
		"not our address": {every(unix.EADDRNOTAVAIL), []want{{Fail, "MANAGER_QEMU_HOST_FWD_ADDR=127.0.0.1 is no address of this host", "ip -br -4 addr", ""}}},
		"no sockets":      {every(unix.EMFILE), []want{{Fail, "too many open files", "", "MANAGER_QEMU_HOST_FWD_ADDR"}}},
		"no port":         {func(_ *testing.T, _ *host, c *Config) { c.Forward.Preferred, c.Forward.First, c.Forward.Last = 0, 0, 0 }, []want{{Fail, "there is none", "", "MANAGER_QEMU_HOST_FWD_RANGE"}}},
		"only the range":  {func(_ *testing.T, _ *host, c *Config) { c.Forward.Preferred = 0 }, []want{{OK, "101 of 101", "", ""}}},
		"only one":        {func(_ *testing.T, _ *host, c *Config) { c.Forward.First, c.Forward.Last, c.Limits.MaxVMs = 0, 0, 1 }, []want{{OK, "1 of 1", "", ""}}},
		"the last port": {func(_ *testing.T, h *host, c *Config) {
			c.Forward.First, c.Forward.Last, c.Limits.MaxVMs = 65530, 65535, 0
		}, []want{{OK, "7 of 7", "", ""}}},
		"outgoing ports": {func(_ *testing.T, _ *host, c *Config) { c.Forward.First, c.Forward.Last = 32000, 32768 }, []want{{Warn, "32768-60999", "beside", "ip_local_reserved_ports=32000-32768"}}},
		"reserved already": {func(t *testing.T, h *host, c *Config) {
			h.put(t, "proc/sys/net/ipv4/ip_local_reserved_ports", "32000-33000\n")
			c.Forward.First, c.Forward.Last = 32000, 32768
		}, []want{{OK, "", "", ""}}},
	})
}

func TestHTTPPort(t *testing.T) {
	taken := func(_ *testing.T, h *host, _ *Config) { only(h) }
	runCases(t, httpPort, map[string]probeCase{
		"free":            {nil, []want{{OK, "127.0.0.1:9101 is free", "", ""}}},
		"none":            {func(_ *testing.T, _ *host, c *Config) { c.HTTPAddr = "" }, []want{{Info, "not served", "", ""}}},
		"in use":          {taken, []want{{Fail, "in use", "", "MANAGER_HTTP_ADDR"}}},
		"a Manager's":     {func(t *testing.T, h *host, c *Config) { taken(t, h, c); hold(t, c.StateDir, "7\n") }, []want{{OK, "a Manager runs (process 7)", "", ""}}},
		"not our address": {func(_ *testing.T, h *host, _ *Config) { h.bind = func(string) error { return unix.EADDRNOTAVAIL } }, []want{{Fail, "cannot assign", "", "MANAGER_HTTP_ADDR"}}},
		"for everybody":   {func(_ *testing.T, _ *host, c *Config) { c.HTTPAddr = "0.0.0.0:9101" }, []want{{Warn, "without TLS", "loopback", "127.0.0.1:9101"}}},
		"localhost":       {func(_ *testing.T, _ *host, c *Config) { c.HTTPAddr = "localhost:9101" }, []want{{OK, "free", "", ""}}},
		"IPv6":            {func(_ *testing.T, _ *host, c *Config) { c.HTTPAddr = "[::1]:9101" }, []want{{Info, "not tried", "", ""}}},
		"no port":         {func(_ *testing.T, _ *host, c *Config) { c.HTTPAddr = "localhost" }, []want{{Fail, "missing port", "ADDRESS:PORT", ""}}},
	})
}

// A digest ends with its context, and waits for no pipe.
func TestDigest(t *testing.T) {
	name := write(t, filepath.Join(t.TempDir(), "f"), "abc")
	sum, n, err := digest(t.Context(), name)
	if err != nil || n != 3 || sum != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("%s, %d, %v", sum, n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	cancel()
	if _, _, err := digest(ctx, name); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), name) {
		t.Errorf("got %v", err)
	}
	if _, _, err := digest(t.Context(), filepath.Dir(name)); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v", err)
	}
}
