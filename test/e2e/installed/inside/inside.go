// Package inside is what happens in the VM that boots systemd: the Manager is
// installed from the source tree and taken away again, then installed as Debian
// packages, run with a VM of its own, upgraded under that VM, and removed; and the
// service beside it.
//
// The steps run as root, in order; each relies on those before it. What they do
// is told line by line, for a person and for the test on the host, which knows
// the steps by their names: the first failure is the end, with all that systemd
// has to say.
package inside

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Lines in which a step's outcome is told; %s is its name.
const (
	Passed = "--- PASS: %s"
	Failed = "--- FAIL: %s"
	// Over is the last line.
	Over = "--- OVER"
)

type step struct {
	name string
	do   func(*world) error
}

// steps in their order.
var steps = []step{
	{"boot", boot},
	{"make install", makeInstall},
	{"make run and stop", makeRunAndStop},
	{"make uninstall", makeUninstall},
	{"install packages", installPackages},
	{"unit is sound and hardened", unitIsHardened},
	{"manual pages", manualPages},
	{"the service", theService},
	{"run a VM", runVM},
	{"VM is confined", vmIsConfined},
	{"operator sees what happens", operatorSees},
	{"upgrade under the VM", upgradeUnderVM},
	{"restart and crash under the VM", restartUnderVM},
	{"VM that hangs is killed", hungVM},
	{"QEMU through sudo", throughSudo},
	{"remove packages", removePackages},
	{"purge packages", purgePackages},
}

// Names lists the steps.
func Names() []string {
	var names []string
	for _, s := range steps {
		names = append(names, s.name)
	}
	return names
}

// world is what the steps know.
type world struct {
	out *teller
	// before is the file system as it was before anything was installed.
	before map[string]string
	server *serverProcess
	vm     process
}

// Run runs all steps and tells of them.
func Run(to io.Writer) {
	w := &world{out: &teller{to: to}}
	for _, s := range steps {
		start := time.Now()
		w.out.line("=== " + s.name)
		err := s.do(w)
		took := time.Since(start).Round(100 * time.Millisecond)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				w.out.line("    ERROR: " + strings.TrimRight(line, "\n"))
			}
			w.out.line(fmt.Sprintf(Failed, s.name) + fmt.Sprintf(" (%v)", took))
			w.autopsy()
			break
		}
		w.out.line(fmt.Sprintf(Passed, s.name) + fmt.Sprintf(" (%v)", took))
	}
	w.out.line(Over)
}

// autopsy tells what may explain a failure.
func (w *world) autopsy() {
	for _, command := range [][]string{
		{"systemctl", "--no-pager", "--lines=0", "status", unit},
		{"journalctl", "--no-pager", "-n", "60"},
		{"sh", "-c", "tail -n 30 /var/lib/cocos/vms/*/shim.log"},
		{"systemd-cgls", "--no-pager", "--unit", unit},
	} {
		_, _ = w.command(command[0], command[1:]...)
	}
}

// teller writes whole lines, of several goroutines.
type teller struct {
	mu sync.Mutex
	to io.Writer
}

func (t *teller) line(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.to, "%s\n", s)
}
