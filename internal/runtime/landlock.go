package runtime

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock is a second line behind mounts, user and filter: should one of them
// have a hole, files can still be written only where the algorithm has business,
// and nothing but its own processes be reached. It takes what the kernel has; a
// kernel without it is no reason to refuse, for it stands behind the others.

// Rights to files by the version of Landlock's ABI that has them.
var fileRights = []struct {
	abi    int
	rights uint64
}{
	{1, unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM},
	{2, unix.LANDLOCK_ACCESS_FS_REFER},
	{3, unix.LANDLOCK_ACCESS_FS_TRUNCATE},
	{5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
}

const (
	readRights   = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	deviceRights = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	// neverRights are granted nowhere.
	neverRights = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

	scopeABI = 6
	scopes   = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
)

// writablePaths are the folders that the algorithm writes to.
var writablePaths = []string{workPath + "/" + resultsDir, "/tmp", "/dev/shm"}

// LandlockABI is the version of Landlock's ABI that this kernel has, and under
// which algorithms run; 0: none, or not switched on.
func LandlockABI() int {
	n, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// landlock restricts this thread, which must have no way to new privileges, and
// what it starts, with what version abi of the ABI can: reading everywhere below
// the root, writing to writablePaths and the device nodes, no ioctl on devices,
// and no signal or abstract socket beyond its own processes.
func landlock(abi int) error {
	if abi == 0 {
		return nil
	}
	var attr unix.LandlockRulesetAttr
	for _, r := range fileRights {
		if abi >= r.abi {
			attr.Handled_access_fs |= r.rights
		}
	}
	if abi >= scopeABI {
		attr.Scoped = scopes
	}
	// A kernel takes a longer structure than its own if the rest is zero.
	ruleset, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("making Landlock rules for ABI %d: %w", abi, errno)
	}
	defer unix.Close(int(ruleset))
	allow := func(path string, rights uint64) error {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("making a Landlock rule for %s: %w", path, err)
		}
		defer unix.Close(fd)
		rule := unix.LandlockPathBeneathAttr{Allowed_access: rights & attr.Handled_access_fs, Parent_fd: int32(fd)}
		_, _, errno := unix.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
		if errno != 0 {
			return fmt.Errorf("making a Landlock rule for %s: %w", path, errno)
		}
		return nil
	}
	if err := allow("/", readRights); err != nil {
		return err
	}
	for _, path := range writablePaths {
		if err := allow(path, attr.Handled_access_fs&^neverRights); err != nil {
			return err
		}
	}
	for _, name := range deviceNodes {
		if err := allow("/dev/"+name, deviceRights); err != nil {
			return err
		}
	}
	return raw("landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0)
}
