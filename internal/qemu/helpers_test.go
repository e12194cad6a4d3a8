package qemu

import (
	"os"
	"os/exec"
	"testing"
)

// realQEMU is the emulator that make test has fetched.
func realQEMU(t *testing.T) string {
	t.Helper()
	bin := os.Getenv(Variable)
	if bin == "" {
		bin = "qemu-system-x86_64"
	}
	path, err := exec.LookPath(bin)
	if err != nil {
		t.Fatalf("no QEMU (%v): run make test, which fetches it, or set %s", err, Variable)
	}
	return path
}
