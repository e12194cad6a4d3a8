package inside

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// boot waits until the machine is up, and does what Debian's
// package of udev would do.
func boot(w *world) error {
	if err := w.says([]string{"running"}, "systemctl", "is-system-running", "--wait"); err != nil {
		return err
	}
	if _, err := w.command("groupadd", "--system", "kvm"); err != nil {
		return err
	}
	for _, device := range []string{"/dev/kvm", "/dev/vhost-vsock"} {
		if _, err := w.command("chgrp", "kvm", device); err != nil {
			return err
		}
		if err := os.Chmod(device, 0o660); err != nil {
			return err
		}
	}
	if _, err := w.command("systemctl", "--version"); err != nil {
		return err
	}
	before, err := files()
	w.before = before
	return err
}

// make runs a target of the source tree, as sudo would.
func (w *world) make(target string) (string, error) {
	return w.commandIn(payload+"/source", []string{"SUDO_UID=1000"}, "make", target)
}

func makeInstall(w *world) error {
	out, err := w.make("install")
	if err != nil {
		return err
	}
	for _, err := range []error{
		contains(out, "Edit "+envFile, "make run", "systemctl enable --now "+serviceUnit),
		wantFile("/usr/local/bin/cocos-manager", 0o755, "root"),
		wantFile("/usr/local/bin/cocos-cli", 0o755, "root"),
		wantFile("/usr/local/bin/cocos-computations", 0o755, "root"),
		wantFile(envFile, 0o644, "root"),
		wantFile(serviceEnvFile, 0o600, "root"),
		wantFile(serviceDir, os.ModeDir|0o700, serviceOwner),
		wantFile(stateDir, os.ModeDir|0o700, owner),
		wantFile(stateDir+"/img/python.img", 0o644, "root"),
		wantProperty("FragmentPath", "/usr/local/lib/systemd/system/"+unit),
		wantProperty("UnitFileState", "enabled"),
		wantProperty("ActiveState", "inactive"),
		w.says([]string{"(kvm)"}, "id", owner),
		packageRefused(w),
		wantFile("/usr/local/bin/cocos-manager", 0o755, "root"),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// packageRefused tries to install the package beside what make has installed.
func packageRefused(w *world) error {
	names, err := debs("old")
	if err != nil {
		return err
	}
	out, err := w.command("dpkg", "--install", names[2])
	if err == nil {
		return errors.New("the package is installed over what make has installed")
	}
	return contains(out, "make uninstall")
}

func makeRunAndStop(w *world) error {
	if err := configure("MANAGER_LOG_LEVEL=debug"); err != nil {
		return err
	}
	out, err := w.make("run")
	if err != nil {
		return err
	}
	if err := contains(out, "Active: active (running)", "/usr/local/bin/cocos-manager"); err != nil {
		return err
	}
	// The group and the unit's list of devices let it open /dev/kvm, whatever
	// this VM's own processor makes of a guest.
	if err := within("the Manager has tried KVM", func() (bool, error) {
		out, err := w.commandQuietly("journalctl", "--no-pager", "-u", unit)
		return strings.Contains(out, "accelerator=kvm") || strings.Contains(out, "/dev/kvm opens"), err
	}); err != nil {
		return err
	}
	// From here on there is none: trying takes long in this VM.
	if err := configure("MANAGER_QEMU_ENABLE_KVM=false"); err != nil {
		return err
	}
	edited, err := os.ReadFile(envFile)
	if err != nil {
		return err
	}
	// Installed again under the running Manager: what was edited stays.
	first, err := mainPID()
	if err != nil {
		return err
	}
	if out, err = w.make("install"); err != nil {
		return err
	}
	if err := contains(out, "kept "+envFile, "was restarted"); err != nil {
		return err
	}
	if now, err := os.ReadFile(envFile); err != nil || string(now) != string(edited) {
		return fmt.Errorf("%s was edited, and make install has changed it (%v)", envFile, err)
	}
	second, err := mainPID()
	if err != nil {
		return err
	}
	if first == second {
		return fmt.Errorf("the Manager was not restarted: process %s goes on", first)
	}
	if _, err := w.make("stop"); err != nil {
		return err
	}
	if err := wantProperty("ActiveState", "inactive"); err != nil {
		return err
	}
	// A configuration that is wrong is told where it was started.
	if err := configure("MANAGER_LOG_LEVEL=loud"); err != nil {
		return err
	}
	out, err = w.make("run")
	if err == nil {
		return errors.New("make run succeeds with a configuration that is wrong")
	}
	if err := contains(out, `MANAGER_LOG_LEVEL="loud" is not valid`, "did not start"); err != nil {
		return err
	}
	_, err = w.make("stop")
	return err
}

// configure adds lines to the configuration; later ones win.
func configure(lines ...string) error {
	f, err := os.OpenFile(envFile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f, "%s\n", strings.Join(lines, "\n")); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func makeUninstall(w *world) error {
	out, err := w.make("uninstall")
	if err != nil {
		return err
	}
	if err := contains(out, "kept "+envFile, "kept "+stateDir); err != nil {
		return err
	}
	if err := wantGone("/usr/local/bin/cocos-manager", "/usr/local/bin/cocos-computations", serviceDir, serviceEnvFile, stateDir+"/img"); err != nil {
		return err
	}
	if err := wantProperty("LoadState", "not-found"); err != nil {
		return err
	}
	// The folders that were missing below /usr/local, and what was kept.
	if err := wantSame(w.before, "/usr/local", "/etc/cocos", stateDir, "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"); err != nil {
		return err
	}
	for _, command := range [][]string{{"rm", "-r", "/etc/cocos", stateDir}, {"userdel", owner}, {"userdel", serviceOwner}} {
		if _, err := w.command(command[0], command[1:]...); err != nil {
			return err
		}
	}
	w.before, err = files()
	return err
}
