package inside

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// mostExposed is where `systemd-analyze security` must stay below.
const mostExposed = 5.0

// packages are what the Debian packages are called.
var packages = []string{"cocos-cli", "cocos-computations", "cocos-manager"}

// debs are the packages of one version, "old" or "new", in that order.
func debs(version string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(payload, version, "*.deb"))
	if err == nil && len(names) != len(packages) {
		err = fmt.Errorf("%d packages are in the payload, not %d", len(names), len(packages))
	}
	return names, err
}

func installPackages(w *world) error {
	names, err := debs("old")
	if err != nil {
		return err
	}
	if err := w.says([]string{"edit " + envFile, "edit " + serviceEnvFile}, "dpkg", append([]string{"--install"}, names...)...); err != nil {
		return err
	}
	for _, err := range []error{
		wantFile("/usr/bin/cocos-manager", 0o755, "root"),
		wantFile(envFile, 0o644, "root"),
		wantFile(stateDir, os.ModeDir|0o700, owner),
		wantFile(stateDir+"/img", os.ModeDir|0o755, "root"),
		wantFile(stateDir+"/img/image.json", 0o644, "root"),
		wantProperty("FragmentPath", "/usr/lib/systemd/system/"+unit),
		wantProperty("UnitFileState", "enabled"),
		wantProperty("ActiveState", "inactive"),
		w.says([]string{"(kvm)"}, "id", owner),
	} {
		if err != nil {
			return err
		}
	}
	out, err := w.make("install")
	if err == nil {
		return errors.New("make install succeeds beside the package")
	}
	if err := contains(out, "the Debian package is installed"); err != nil {
		return err
	}
	out, err = w.command("dpkg", append([]string{"--verify"}, packages...)...)
	if err == nil && out != "" {
		err = errors.New("dpkg finds installed files that differ from the packages'")
	}
	return err
}

var exposure = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+) `)

func unitIsHardened(w *world) error {
	// An unknown key is told and does not fail: silence is what counts.
	out, err := w.command("systemd-analyze", "verify", unit, "cocos-vms.service", serviceUnit)
	if err != nil {
		return err
	}
	if out != "" {
		return errors.New("systemd-analyze verify is not silent")
	}
	for _, name := range []string{unit, serviceUnit} {
		out, err := w.command("systemd-analyze", "--no-pager", "security", name)
		if err != nil {
			return err
		}
		m := exposure.FindStringSubmatch(out)
		if m == nil {
			return errors.New("systemd-analyze security tells no exposure level")
		}
		level, err := strconv.ParseFloat(m[1], 64)
		if err == nil && level >= mostExposed {
			err = fmt.Errorf("the exposure level of %s is %v, not below %v", name, level, mostExposed)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func manualPages(w *world) error {
	for _, page := range []struct{ name, section, says string }{
		{"cocos-manager", "8", "MANAGER_GRPC_URL"},
		{"cocos-manager.env", "5", "#MANAGER_QEMU_MEMORY_SIZE="},
		{"cocos-computations", "8", "COMPUTATIONS_PUBLIC_URL"},
		{"cocos-computations.env", "5", "#COMPUTATIONS_DATABASE="},
		{"cocos-cli", "1", "--manifest-digest"},
	} {
		out, err := w.commandQuietly("man", "-w", page.section, page.name)
		if err != nil {
			return err
		}
		file := strings.TrimSpace(out)
		if out, err := w.command("mandoc", "-T", "lint", "-W", "warning", file); err != nil || out != "" {
			return fmt.Errorf("mandoc finds fault with %s (%v)", file, err)
		}
		text, err := w.commandQuietly("mandoc", "-T", "utf8", file)
		if err != nil {
			return err
		}
		// Bold is overstruck: each character, a backspace, and itself again.
		if plain := regexp.MustCompile(`.\x08`).ReplaceAllString(text, ""); !strings.Contains(plain, page.says) {
			return fmt.Errorf("%s does not tell of %s", file, page.says)
		}
	}
	return nil
}

func upgradeUnderVM(w *world) error {
	manager, err := mainPID()
	if err != nil {
		return err
	}
	names, err := debs("new")
	if err != nil {
		return err
	}
	edited, err := os.ReadFile(envFile)
	if err != nil {
		return err
	}
	if _, err := w.command("dpkg", append([]string{"--install"}, names...)...); err != nil {
		return err
	}
	if err := w.goesOn(manager, 2); err != nil {
		return err
	}
	out, err := w.command("dpkg-query", "--show", "--showformat=${Version}", "cocos-manager")
	if err != nil {
		return err
	}
	if !strings.Contains(filepath.Base(names[2]), "_"+out+"_") {
		return fmt.Errorf("version %s is installed and not that of %s", out, names[2])
	}
	if now, err := os.ReadFile(envFile); err != nil || string(now) != string(edited) {
		return fmt.Errorf("%s was edited, and the upgrade has changed it (%v)", envFile, err)
	}
	// Owners and modes are still those of the running VM's Manager.
	return wantFile(stateDir, os.ModeDir|0o700, owner)
}

// removePackages removes them while a VM runs.
func removePackages(w *world) error {
	if _, err := w.command("systemctl", "stop", unit); err != nil {
		return err
	}
	if err := w.startServer("third"); err != nil {
		return err
	}
	if err := configure("MANAGER_QEMU_USE_SUDO=false"); err != nil {
		return err
	}
	if _, err := w.command("systemctl", "start", unit); err != nil {
		return err
	}
	if err := w.server.wait(vm.EventBooting); err != nil {
		return err
	}
	if _, err := w.command("dpkg", append([]string{"--remove"}, packages...)...); err != nil {
		return err
	}
	left, err := ofUnit()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("processes %v of the unit are left", left)
	}
	// The guest was asked, not killed, and the server knows it all.
	if err := w.server.wait(vm.EventExited, vm.EventRemoved); err != nil {
		return err
	}
	for _, err := range []error{
		wantGone("/usr/bin/cocos-manager", "/usr/bin/cocos-computations", "/usr/bin/cocos-cli", "/usr/lib/systemd/system/"+unit, "/usr/lib/systemd/system/"+serviceUnit, stateDir+"/img", stateDir+"/vms/"+w.server.run, "/run/cocos"),
		wantFile(envFile, 0o644, "root"),
		wantFile(serviceEnvFile, 0o600, "root"),
		wantFile(serviceDir+"/authority.pem", 0o600, serviceOwner),
		wantFile(filepath.Join(stateDir, vm.EndedFile), 0o600, owner),
		wantProperty("LoadState", "not-found"),
		w.server.end(),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func purgePackages(w *world) error {
	if _, err := w.command("dpkg", append([]string{"--purge"}, packages...)...); err != nil {
		return err
	}
	if err := wantGone("/etc/cocos", stateDir, serviceDir); err != nil {
		return err
	}
	for _, name := range []string{owner, serviceOwner} {
		if u, err := user.Lookup(name); err == nil {
			return fmt.Errorf("the user %s is still there, with id %s", name, u.Uid)
		}
		if g, err := user.LookupGroup(name); err == nil {
			return fmt.Errorf("the group %s is still there, with id %s", name, g.Gid)
		}
	}
	out, err := w.command("systemctl", "--no-pager", "--no-legend", "list-units", "--all", "cocos*")
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) != "" {
		return errors.New("systemd still knows units of it")
	}
	return wantSame(w.before)
}
