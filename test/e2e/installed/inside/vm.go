package inside

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// runVM starts the Manager and has it boot a VM.
func runVM(w *world) error {
	if err := w.startServer("first"); err != nil {
		return err
	}
	err := configure("MANAGER_GRPC_SERVER_CA_CERTS=ca.pem", "MANAGER_QEMU_ENABLE_KVM=false", "MANAGER_QEMU_MEMORY_SIZE=512M",
		"MANAGER_QEMU_SMP_COUNT=1", "MANAGER_BOOT_TIMEOUT=1h")
	if err != nil {
		return err
	}
	if _, err := w.command("systemctl", "start", unit); err != nil {
		return err
	}
	if err := w.server.wait(vm.EventBooting); err != nil {
		return err
	}
	pid, err := w.server.attribute(vm.EventBooting, "qemu_pid")
	if err != nil {
		return err
	}
	w.vm, err = processOf(pid)
	return err
}

// vmIsConfined reads from the kernel what the unit's settings became.
func vmIsConfined(w *world) error {
	pids, err := ofUnit()
	if err != nil {
		return err
	}
	if !slices.Contains(pids, w.vm.pid) || len(pids) < 3 {
		return fmt.Errorf("the unit has processes %v; expected Manager, shim, and QEMU (%s)", pids, w.vm.pid)
	}
	id, err := exec.Command("id", "-u", owner).Output()
	if err != nil {
		return err
	}
	uid := strings.TrimSpace(string(id))
	for _, pid := range pids {
		for field, want := range map[string]string{
			"Uid":        strings.TrimSpace(strings.Repeat(uid+" ", 4)),
			"NoNewPrivs": "1",
			"Seccomp":    "2",
			"CapEff":     "0000000000000000",
			"CapBnd":     "0000000000000000",
		} {
			got, err := status(pid, field)
			if err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("process %s has %s %q, not %q", pid, field, got, want)
			}
		}
	}
	// Through the VM's own view of the file system, with all of root's rights.
	view := "/proc/" + w.vm.pid + "/root"
	for _, place := range []string{"/etc", "/usr/bin", "/var/lib", stateDir + "/img"} {
		err := os.WriteFile(view+place+"/intruder", nil, 0o600)
		if !errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("writing to %s in the VM's view: %v; expected a read-only file system", place, err)
		}
	}
	probe := view + stateDir + "/probe"
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return fmt.Errorf("the state directory can't be written: %w", err)
	}
	return os.Remove(probe)
}

func operatorSees(w *world) error {
	err := w.says([]string{"Active: active (running)", "/usr/bin/cocos-manager shim", "qemu-system-x86_64"},
		"systemctl", "--no-pager", "--full", "status", unit)
	if err != nil {
		return err
	}
	err = w.says([]string{"Started " + unit, "the Manager starts", w.server.run},
		"journalctl", "--no-pager", "-u", unit, "-n", "20")
	if err != nil {
		return err
	}
	// As the manual page says.
	if err := w.says([]string{" QEMU 1", "image python.img", "0 failed"}, "systemd-run", "--pipe", "--quiet", "--uid="+owner,
		"--working-directory=/etc/cocos", "-p", "EnvironmentFile="+envFile, "cocos-manager", "check"); err != nil {
		return err
	}
	// Members of the group may ask the Manager, others not.
	member := []string{"--reuid=65534", "--regid=65534", "--groups=" + owner, "cocos-cli", "manager", "list"}
	if err := w.says([]string{w.server.run}, "setpriv", member...); err != nil {
		return err
	}
	member[2] = "--clear-groups"
	if out, err := w.command("setpriv", member...); err == nil || strings.Contains(out, w.server.run) {
		return errors.New("a user who is not in the group may use the control socket")
	}
	for _, err := range []error{
		wantFile("/run/cocos", os.ModeDir|0o750, owner),
		wantFile("/run/cocos/manager.sock", os.ModeSocket|0o660, owner),
	} {
		if err != nil {
			return err
		}
	}
	shims, err := filepath.Glob(stateDir + "/vms/*/shim.sock")
	if err == nil && len(shims) != 1 {
		err = fmt.Errorf("%d VMs are in the state directory, not 1", len(shims))
	}
	return err
}

// goesOn wants another Manager than the one of that process, connected to the
// server for the nth time, and the same VM.
func (w *world) goesOn(manager string, nth int) error {
	err := within("another Manager runs", func() (bool, error) {
		pid, err := property("MainPID")
		return pid != "0" && pid != manager, err
	})
	if err != nil {
		return err
	}
	err = within(fmt.Sprintf("the Manager connects for time %d", nth), func() (bool, error) {
		n, err := w.server.connections()
		return n >= nth, err
	})
	if err != nil {
		return err
	}
	if err := w.vm.same(); err != nil {
		return fmt.Errorf("the VM did not go on: %w", err)
	}
	_, err = w.command("systemctl", "--no-pager", "--lines=3", "status", unit)
	return err
}

func restartUnderVM(w *world) error {
	manager, err := mainPID()
	if err != nil {
		return err
	}
	if _, err := w.command("systemctl", "restart", unit); err != nil {
		return err
	}
	if err := w.goesOn(manager, 3); err != nil {
		return err
	}
	if manager, err = mainPID(); err != nil {
		return err
	}
	// A crash: systemd starts the next one by itself.
	if _, err := w.command("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit); err != nil {
		return err
	}
	return w.goesOn(manager, 4)
}

func (w *world) commandQuietly(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), err
}

// dropIn and sudoers are what with-sudo.conf says to do.
const (
	dropIn  = "/etc/systemd/system/cocos-manager.service.d/with-sudo.conf"
	sudoers = "/etc/sudoers.d/cocos-manager"
)

// hungVM stops the shim, so that it can't end its VM, and ends all VMs. The next
// Manager tells what became of it.
func hungVM(w *world) error {
	pids, err := ofUnit()
	if err != nil {
		return err
	}
	manager, err := mainPID()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if pid != manager && pid != w.vm.pid {
			if _, err := w.command("kill", "-STOP", pid); err != nil {
				return err
			}
		}
	}
	if err := w.says([]string{"did not end within 2 s and are killed"}, "/usr/lib/cocos/stop-vms", "2"); err != nil {
		return err
	}
	if err := within("nothing of the unit is left", func() (bool, error) {
		pids, err := ofUnit()
		return len(pids) == 0, err
	}); err != nil {
		return err
	}
	if err := wantProperty("ActiveState", "inactive"); err != nil {
		return err
	}
	if _, err := w.command("systemctl", "start", unit); err != nil {
		return err
	}
	if err := w.server.wait(vm.EventLost, vm.EventRemoved); err != nil {
		return err
	}
	return w.server.end()
}

// throughSudo runs another VM as root.
func throughSudo(w *world) error {
	if _, err := w.command("systemctl", "stop", unit); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		return err
	}
	loose, err := os.ReadFile("/usr/share/cocos/with-sudo.conf")
	if err != nil {
		return err
	}
	// The rule is the one that the drop-in names.
	_, rule, found := strings.Cut(string(loose), "#   cocos ALL=")
	rule, _, _ = strings.Cut(rule, "\n")
	if !found {
		return errors.New("with-sudo.conf names no rule for sudo")
	}
	if err := os.WriteFile(dropIn, loose, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(sudoers, []byte("cocos ALL="+rule+"\n"), 0o440); err != nil {
		return err
	}
	if err := w.startServer("second"); err != nil {
		return err
	}
	if err := configure("MANAGER_QEMU_USE_SUDO=true"); err != nil {
		return err
	}
	if _, err := w.command("systemctl", "daemon-reload"); err != nil {
		return err
	}
	if out, err := w.command("systemd-analyze", "verify", unit); err != nil || out != "" {
		return fmt.Errorf("systemd-analyze verify is not silent (%v)", err)
	}
	if _, err := w.command("systemctl", "start", unit); err != nil {
		return err
	}
	if err := w.server.wait(vm.EventBooting); err != nil {
		return err
	}
	// As documented: sudo, and QEMU below it, both root.
	pids, err := ofUnit()
	if err != nil {
		return err
	}
	root := map[string]string{}
	for _, pid := range pids {
		name, err := status(pid, "Name")
		if err != nil {
			return err
		}
		uid, err := status(pid, "Uid")
		if err != nil {
			return err
		}
		// The second is what counts; sudo keeps the user's own as the first.
		if ids := strings.Fields(uid); len(ids) == 4 && ids[1] == "0" {
			root[name] = pid
		}
	}
	if root["sudo"] == "" || root["qemu-system-x86"] == "" {
		return fmt.Errorf("processes of root in the unit: %v; expected sudo and qemu-system-x86_64", root)
	}
	if _, err := w.command("systemctl", "--no-pager", "--lines=0", "status", unit); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Dir(dropIn)); err != nil {
		return err
	}
	if err := os.Remove(sudoers); err != nil {
		return err
	}
	if _, err := w.command("systemctl", "daemon-reload"); err != nil {
		return err
	}
	// As when the host goes down: the VM ends in order, the Manager goes on.
	if _, err := w.command("systemctl", "stop", "cocos-vms.service"); err != nil {
		return err
	}
	if err := w.server.wait(vm.EventExited, vm.EventRemoved); err != nil {
		return err
	}
	if err := wantProperty("ActiveState", "active"); err != nil {
		return err
	}
	return w.server.end()
}
