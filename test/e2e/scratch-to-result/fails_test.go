package scratch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

// failing stands before QEMU and puts a scratch disk on one that breaks: %[1]s are
// rules of blkdebug, QEMU's driver for this, and %[2]s is QEMU.
const failing = `#!/bin/bash
args=()
for a in "$@"; do
	case $a in *,node-name=scratch,*) a=${a/file.driver=file,file.filename=/file.driver=blkdebug,%[1]s,file.image.driver=file,file.image.filename=} ;; esac
	args+=("$a")
done
exec '%[2]s' "${args[@]}"
`

// rule makes QEMU fail the requests of a kind that touch a byte of the disk.
func rule(i int, kind string, at int64, once string) string {
	p := fmt.Sprintf("file.inject-error.%d.", i)
	return fmt.Sprintf("%[1]sevent=none,%[1]siotype=%[2]s,%[1]serrno=5,%[1]ssector=%[3]d,%[1]sonce=%[4]s", p, kind, at/512, once)
}

// TestDiskFails: a write that fails is an upload that fails, and another one may do
// well; a read that fails ends the VM, for a program could take the error for the end
// of the file.
func TestDiskFails(t *testing.T) {
	qemu, err := exec.LookPath(os.Getenv("MANAGER_QEMU_BIN_PATH"))
	if err != nil {
		t.Fatalf("%v; set MANAGER_QEMU_BIN_PATH to the output of scripts/qemu", err)
	}
	dir := t.TempDir()
	wrapper := filepath.Join(dir, "qemu-system-x86_64")
	rules := rule(0, "read", dataAt+mib, "off") + "," + rule(1, "write", region+dataAt+mib, "on")
	if err := os.WriteFile(wrapper, fmt.Appendf(nil, failing, rules, qemu), 0o700); err != nil {
		t.Fatal(err)
	}
	h := harness.Start(t, harness.Env("MANAGER_QEMU_MEMORY_SIZE="+memory), harness.Env("MANAGER_QEMU_BIN_PATH="+wrapper))
	c := server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"careless"}}
	for _, name := range []string{"first", "second"} {
		file := filepath.Join(dir, name)
		data(t, file, name, attacked)
		c.Data = append(c.Data, file)
	}
	r := h.Submit(c, onScratch)
	r.Ready()
	r.MustCLI("data", c.Data[0])
	_, stderr, err := r.CLI("data", c.Data[1])
	if err == nil || !strings.Contains(stderr, "the VM's scratch disk can't take the dataset second") {
		t.Errorf("the disk failed, and cocos-cli data says %v:\n%s", err, stderr)
	}
	r.MustCLI("data", c.Data[1])
	r.MustCLI("algo", c.Algorithm)
	// A kernel that panics resets the machine.
	if exited := r.Event(vm.EventExited, harness.RunLimit).GetAttributes(); exited["reason"] != "guest-reset" {
		t.Errorf("the VM ended with %v", exited)
	}
	for _, e := range h.Server.Events(r.ID) {
		if e.GetKind() == vm.EventState && e.GetAttributes()["to"] == "ResultReady" {
			t.Error("there is a result")
		}
	}
	r.Gone()
}
