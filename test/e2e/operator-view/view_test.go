// Package view shows that a host's operator sees what its Manager and VMs do,
// and ends them, through cocos-cli alone.
package view

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestOperatorView(t *testing.T) {
	h := harness.Start(t, harness.Env("MANAGER_EOS_VERSION=seven"))
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}, nil)
	r.Ready()

	ask := func(into any, args ...string) {
		t.Helper()
		out, _, err := h.CLI(append([]string{"manager", "--json"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(out), into); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	var status struct {
		EOS    string `json:"eos_version"`
		Server struct{ Connected bool }
		QEMU   struct{ Version string }
		Images []struct{ Role, Path, SHA256 string }
		Limits []struct {
			Name string
			Used uint64
		}
	}
	ask(&status, "status")
	if status.EOS != "seven" || !status.Server.Connected || status.QEMU.Version == "" || len(status.Images) < 2 {
		t.Errorf("status: %+v", status)
	}
	for _, i := range status.Images {
		if len(i.SHA256) != 64 && (i.Role == "kernel" || i.Role == "initrd") {
			t.Errorf("no digest of the %s: %+v", i.Role, i)
		}
	}
	if len(status.Limits) == 0 || status.Limits[0].Name != "vms" || status.Limits[0].Used != 1 {
		t.Errorf("limits: %+v", status.Limits)
	}

	var list struct {
		Runs []struct {
			ID      string `json:"run_id"`
			State   string
			Agent   string `json:"agent_address"`
			PID     int    `json:"qemu_pid"`
			Answers bool   `json:"shim_answers"`
			Digest  string `json:"manifest_digest"`
		}
	}
	ask(&list, "list")
	if len(list.Runs) != 1 {
		t.Fatalf("list: %+v", list)
	}
	run := list.Runs[0]
	if run.ID != r.ID || run.State != string(vm.Running) || run.Agent != r.Address || run.PID == 0 || !run.Answers || run.Digest != r.Manifest.Digest.String() {
		t.Errorf("list: %+v", run)
	}

	// What it prints is what runs.
	var args struct{ Argv []string }
	ask(&args, "qemu-args", r.ID[:18])
	real, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", run.PID))
	if err != nil {
		t.Fatal(err)
	}
	argv := strings.Split(strings.TrimSuffix(string(real), "\x00"), "\x00")
	// Where QEMU was unpacked beside an installed one, the program is a script
	// that tells it first where its files are.
	begin := len(argv) - len(args.Argv)
	for i := 1; i <= begin; i += 2 {
		if argv[i] != "-L" {
			t.Errorf("QEMU has an argument that qemu-args does not know: %q", argv[i])
		}
	}
	if begin < 0 || !slices.Equal(argv[1+begin:], args.Argv[1:]) || filepath.Base(argv[0]) != filepath.Base(args.Argv[0]) || begin == 0 && argv[0] != args.Argv[0] {
		t.Errorf("QEMU runs as\n%q, qemu-args says\n%q", argv, args.Argv)
	}

	var show struct {
		Folder string
		Events []struct{ Kind string }
	}
	ask(&show, "show", r.ID[:18])
	var kinds []string
	for _, e := range show.Events {
		kinds = append(kinds, e.Kind)
	}
	for _, kind := range []string{vm.EventAccepted, vm.EventBooting, vm.EventReady} {
		if !slices.Contains(kinds, kind) {
			t.Errorf("show has no %s: %q", kind, kinds)
		}
	}
	if show.Folder != string(r.Dir()) {
		t.Errorf("its folder is %s", show.Folder)
	}

	lines := func(args ...string) string {
		t.Helper()
		out, _, err := h.CLI(append([]string{"manager", "logs", r.ID}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := lines()
	for _, source := range []string{" agent ", " shim ", " manager "} {
		if !strings.Contains(all, source) {
			t.Errorf("no line of%sin\n%s", source, all)
		}
	}
	if out := lines("--source", "console", "--lines", "1000"); !strings.Contains(out, "cocos: serving on") {
		t.Errorf("the console does not say that the agent serves:\n%s", out)
	}

	if out, _, err := h.CLI("manager", "stop", r.ID[:18], "--wait", "--yes"); err != nil || !strings.Contains(out, r.ID+"  gone") {
		t.Errorf("stop: %q, %v", out, err)
	}
	if _, err := os.Stat(string(r.Dir())); err == nil || !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}
	if _, err := os.Stat(filepath.Join("/proc", fmt.Sprint(run.PID))); err == nil {
		t.Error("QEMU still runs")
	}
	r.Gone()
	if _, _, err := h.CLI("manager", "show", r.ID); err == nil || !strings.Contains(err.Error(), "has ended and was removed") {
		t.Errorf("afterwards: %v", err)
	}

	// The socket is its user's alone.
	info, err := os.Lstat(filepath.Join(h.StateDir, vm.ControlSocket))
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}
