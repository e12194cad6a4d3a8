package qemu

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestShell(t *testing.T) {
	nasty := []string{
		"plain", "", " ", "two words", "tab\tand\nline", "$HOME", "`id`", "$(id)", "a;b", "a&b", "a|b", "a>b", "a<b", "*", "?", "[a]", "{a,b}",
		"~", "~root", "#x", "!x", "a=b", "-n", "--", "it's", "''", "'", `"`, `\`, `\n`, `"$x"`, "é漢", "\x01\x7f\xff", "^", "%s", "console=ttyS0 x=1,,2",
	}
	argv := append([]string{"printf", `%s\0`}, nasty...)
	out, err := exec.Command("sh", "-c", Shell(argv)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, nasty) {
		t.Errorf("the shell sees\n%q, want\n%q", got, nasty)
	}
	// An assignment is no program.
	if out, err := exec.Command("sh", "-c", Shell([]string{"a=b"})).CombinedOutput(); err == nil || !strings.Contains(string(out), "a=b") {
		t.Errorf("a=b runs: %q, %v", out, err)
	}
	for _, w := range nasty {
		if !strings.ContainsAny(w, `'"\`) && strings.ContainsAny(Shell([]string{"x", w}), `"\`) {
			t.Errorf("%q becomes %s: not to be pasted from a log", w, Shell([]string{w}))
		}
	}
	if got := Shell([]string{"/usr/bin/qemu-system-x86_64", "-m", "4096M,slots=5", "-append", "a b"}); got != "/usr/bin/qemu-system-x86_64 -m 4096M,slots=5 -append 'a b'" {
		t.Errorf("got %s", got)
	}
}

func TestPasteable(t *testing.T) {
	spec := testSpec()
	spec.Machine.Vsock.Way = vm.VsockKernel
	spec.Machine.Boot.CommandLine = "x,vhostfd=3" // stays
	args, paste := CommandLine(spec, testDir), Pasteable(spec, testDir)
	var changed []string
	for i := range args {
		if args[i] != paste[i] {
			changed = append(changed, args[i], paste[i])
		}
	}
	if want := []string{"vhost-vsock-pci,id=vhost-vsock-pci0,guest-cid=3,vhostfd=3", "vhost-vsock-pci,id=vhost-vsock-pci0,guest-cid=3"}; len(args) != len(paste) || !slices.Equal(changed, want) {
		t.Errorf("changed %q", changed)
	}
	for name, change := range map[string]func(*vm.Machine){
		"through sudo": func(m *vm.Machine) { m.Sudo = true },
		"user's vsock": func(m *vm.Machine) { m.Vsock.Way = vm.VsockUser },
	} {
		s := spec
		change(&s.Machine)
		if !slices.Equal(CommandLine(s, testDir), Pasteable(s, testDir)) {
			t.Errorf("%s: changed", name)
		}
	}
}
