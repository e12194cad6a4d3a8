package oci_test

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/oci"
)

func checkOwner(t *testing.T, name string, owner *oci.Owner) {
	t.Helper()
	want := oci.Owner{UID: os.Geteuid(), GID: os.Getegid()}
	if owner != nil {
		want = *owner
	}
	info, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != want.UID || int(st.Gid) != want.GID {
		t.Errorf("%s belongs to %d:%d; want %+v", name, st.Uid, st.Gid, want)
	}
}

func checkNoAttributes(t *testing.T, name string) {
	t.Helper()
	n, err := unix.Llistxattr(name, nil)
	if err != nil || n != 0 {
		t.Errorf("%s has %d bytes of attributes' names, %v", name, n, err)
	}
}
