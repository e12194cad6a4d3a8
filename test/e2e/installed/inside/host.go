package inside

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What is installed, and where.
const (
	unit      = "cocos-manager.service"
	envFile   = "/etc/cocos/cocos-manager.env"
	stateDir  = "/var/lib/cocos"
	payload   = "/payload"
	owner     = "cocos"
	unitGroup = "/system.slice/" + unit
)

// limit is how long anything may take: an emulated machine on a busy host.
const limit = 4 * time.Minute

// command runs a program, tells what it says, and returns that.
func (w *world) command(name string, args ...string) (string, error) {
	return w.commandIn("/", nil, name, args...)
}

func (w *world) commandIn(dir string, env []string, name string, args ...string) (string, error) {
	w.out.line("    $ " + strings.Join(append([]string{name}, args...), " "))
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "COLUMNS=160", "DEBIAN_FRONTEND=noninteractive"}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	for line := range strings.Lines(out.String()) {
		w.out.line("    " + strings.TrimRight(line, "\n"))
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out.String(), err
}

// says runs a program and wants each text in what it says.
func (w *world) says(want []string, name string, args ...string) error {
	out, err := w.command(name, args...)
	if err != nil {
		return err
	}
	return contains(out, want...)
}

func contains(out string, want ...string) error {
	for _, s := range want {
		if !strings.Contains(out, s) {
			return fmt.Errorf("%q is not in what it says", s)
		}
	}
	return nil
}

// within repeats a check until it holds.
func within(what string, check func() (bool, error)) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		ok, err := check()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %v", what, limit)
		}
	}
}

// property is one of the unit's, as systemd knows it.
func property(name string) (string, error) {
	out, err := exec.Command("systemctl", "show", "--property="+name, "--value", unit).Output()
	return strings.TrimSpace(string(out)), err
}

// wantProperty compares one.
func wantProperty(name, want string) error {
	got, err := property(name)
	if err == nil && got != want {
		err = fmt.Errorf("the unit's %s is %q, not %q", name, got, want)
	}
	return err
}

// mainPID is the Manager's.
func mainPID() (string, error) {
	pid, err := property("MainPID")
	if err == nil && (pid == "" || pid == "0") {
		err = errors.New("the Manager does not run")
	}
	return pid, err
}

// process names one for as long as the machine runs.
type process struct {
	pid   string
	start string // in clock ticks since boot: tells it from a later one
}

func processOf(pid string) (process, error) {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return process{}, err
	}
	// The name, in parentheses, may hold anything.
	_, rest, _ := strings.Cut(string(stat), ") ")
	if f := strings.Fields(rest); len(f) > 19 && f[0] != "Z" {
		return process{pid, f[19]}, nil
	}
	return process{}, fmt.Errorf("process %s has ended", pid)
}

// same wants that it goes on.
func (p process) same() error {
	now, err := processOf(p.pid)
	if err == nil && now != p {
		err = fmt.Errorf("process %s is another one now", p.pid)
	}
	return err
}

// ofUnit lists the processes in the unit's control group.
func ofUnit() ([]string, error) {
	b, err := os.ReadFile("/sys/fs/cgroup" + unitGroup + "/cgroup.procs")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(b)), err
}

// status is a field of /proc/PID/status.
func status(pid, field string) (string, error) {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && name == field {
			return strings.Join(strings.Fields(value), " "), nil
		}
	}
	return "", fmt.Errorf("process %s has no %s", pid, field)
}

// wantFile checks mode and owner.
func wantFile(name string, mode fs.FileMode, who string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	u, err := user.LookupId(strconv.Itoa(int(stat.Uid)))
	if err != nil {
		return err
	}
	if info.Mode() != mode || u.Username != who {
		return fmt.Errorf("%s is %v of %s, not %v of %s", name, info.Mode(), u.Username, mode, who)
	}
	return nil
}

func wantGone(names ...string) error {
	for _, name := range names {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is still there (%v)", name, err)
		}
	}
	return nil
}

// passing are folders whose content comes and goes by itself.
var passing = []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/payload", "/root", "/var/tmp", "/var/log", "/var/cache", "/var/lib/dpkg", "/var/lib/systemd"}

// files is the file system: what is at each path. Accounts count by name.
func files() (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir("/", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(passing, name) {
			return filepath.SkipDir
		}
		if filepath.Dir(name) == "/etc" && (strings.HasSuffix(name, "-") || name == "/etc/.pwd.lock") {
			return nil // backups of the account files
		}
		all[name] = d.Type().String()
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		lines := strings.Split(string(b), "\n")
		slices.Sort(lines)
		all[name] = fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(lines, "\n"))))
	}
	return all, nil
}

// differences lists what was added, removed or changed.
func differences(before, after map[string]string) []string {
	var out []string
	for name, was := range before {
		if now, ok := after[name]; !ok {
			out = append(out, name+" is gone")
		} else if now != was {
			out = append(out, name+" is another")
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			out = append(out, name+" is new")
		}
	}
	slices.Sort(out)
	return out
}

// wantSame wants nothing changed since before but what is allowed.
func wantSame(before map[string]string, allowed ...string) error {
	after, err := files()
	if err != nil {
		return err
	}
	after = maps.Clone(after)
	var wrong []string
	for _, d := range differences(before, after) {
		if !slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(d, a) }) {
			wrong = append(wrong, d)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("something was left or lost:\n%s", strings.Join(wrong, "\n"))
	}
	return nil
}
