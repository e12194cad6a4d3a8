// Package emulator finds a QEMU that can run the guest, and on Debian brings
// one when the machine has none; it also brings given versions of QEMU side by
// side (Version) and firmware for them (Firmware).
//
// Where the CPU offers virtualisation any QEMU from 7.2 on does. Everywhere
// else guests are emulated, and older versions than 10 crash them now and
// then, so 10 is the least. What the machine lacks comes from Debian's archive
// (backports on Debian 12), verified by apt, unpacked with its libraries and
// firmware into the cache folder: nothing is installed, the machine's package
// sources stay as they are, and no root rights are needed. What Find brings runs
// on the host's own C library, which is why host and package must be of one
// release there; what Version brings has its own, and runs on any host.
//
// A folder appears under its final name only when it is complete and the
// program in it has answered for itself.
package emulator

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/progress"
)

// Program is the emulator's file name.
const Program = "qemu-system-x86_64"

// Variable names the environment variable that says which QEMU to use.
const Variable = "MANAGER_QEMU_BIN_PATH"

// Finder says where to look. All fields are required.
type Finder struct {
	Getenv    func(string) string
	CPUInfo   string // /proc/cpuinfo
	OSRelease string // /etc/os-release
	EtcApt    string // /etc/apt
	CacheDir  string // the one folder for downloads
	Log       *progress.Log
}

// New returns a Finder for this machine: its own package sources, the cache
// folder that debian.CacheDir names.
func New(getenv func(string) string, log *progress.Log) (*Finder, error) {
	cacheDir, err := debian.CacheDir(getenv)
	if err != nil {
		return nil, err
	}
	return &Finder{
		Getenv: getenv, CPUInfo: "/proc/cpuinfo", OSRelease: "/etc/os-release",
		EtcApt: "/etc/apt", CacheDir: cacheDir, Log: log,
	}, nil
}

// suites lists, by the host's code name, where its QEMU comes from: the first
// suite holds QEMU, the others what it depends on.
var suites = map[string][]string{
	"bookworm": {"bookworm-backports", "bookworm", "bookworm-updates", "bookworm-security"},
	"trixie":   {"trixie", "trixie-updates", "trixie-security"},
}

// Find returns the path of a usable QEMU: the one that Variable names, the one
// on PATH, the one fetched before, or one that it fetches now.
func (f *Finder) Find(ctx context.Context) (string, error) {
	least := f.leastMajor()
	if named := f.Getenv(Variable); named != "" {
		path, err := exec.LookPath(named)
		if err == nil {
			err = Check(ctx, path, least)
		}
		if err != nil {
			return "", fmt.Errorf("%s=%q: %w; correct it or unset it", Variable, named, err)
		}
		return filepath.Abs(path)
	}
	var unfit error
	if path, err := lookPath(f.Getenv("PATH")); err == nil {
		if unfit = Check(ctx, path, least); unfit == nil {
			return path, nil
		}
	}
	id, codename, err := debian.HostRelease(f.OSRelease)
	if err != nil {
		return "", err
	}
	if id != "debian" || suites[codename] == nil {
		why := Program + " is not on PATH"
		if unfit != nil {
			why = unfit.Error()
		}
		return "", fmt.Errorf("no usable QEMU: %s. This is not Debian 12 or 13, where it is fetched by itself: install QEMU 10 or later with your distribution's package manager, or set %s to one", why, Variable)
	}
	if unfit != nil {
		f.Log.Printf("not using the QEMU on PATH: %v", unfit)
	}
	dir := f.dir()
	if path := newest(dir, codename); path != "" && Check(ctx, path, least) == nil {
		return path, nil
	}
	return f.fetch(ctx, codename, least)
}

func (f *Finder) dir() string { return filepath.Join(f.CacheDir, "qemu") }

// leastMajor is the least version that runs guests reliably on this CPU.
func (f *Finder) leastMajor() version {
	b, err := os.ReadFile(f.CPUInfo)
	if err == nil && regexp.MustCompile(`(?m)^flags\s*:.*\b(svm|vmx)\b`).Match(b) {
		return version{7, 2}
	}
	return version{10, 0}
}

func lookPath(path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, Program)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 && filepath.IsAbs(p) {
			return p, nil
		}
	}
	return "", exec.ErrNotFound
}

func newest(dir, codename string) string {
	names, err := filepath.Glob(filepath.Join(dir, codename+"-*", "bin", Program))
	if err != nil || len(names) == 0 {
		return ""
	}
	slices.SortFunc(names, func(a, b string) int { return modTime(a).compare(modTime(b)) })
	return names[len(names)-1]
}

func modTime(name string) stamp {
	st, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return stamp(st.ModTime().UnixNano())
}

type stamp int64

func (s stamp) compare(t stamp) int { return int(min(max(s-t, -1), 1)) }

type version [2]int

func (v version) String() string { return fmt.Sprintf("%d.%d", v[0], v[1]) }

var versionRE = regexp.MustCompile(`QEMU emulator version (\d{1,4})\.(\d{1,4})`)

func parse(re *regexp.Regexp, s string) (version, bool) {
	m := re.FindStringSubmatch(s)
	if m == nil {
		return version{}, false
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return version{major, minor}, true
}

// Check runs the program and refuses one that is older than least, or lacks
// what every Cocos VM is made of.
func Check(ctx context.Context, path string, least version) error {
	out, err := output(ctx, path, "--version")
	if err != nil {
		return err
	}
	v, ok := parse(versionRE, out)
	if !ok {
		return fmt.Errorf("%s --version says %q: not QEMU", path, strings.TrimSpace(out))
	}
	if slices.Compare(v[:], least[:]) < 0 {
		return fmt.Errorf("%s is QEMU %s, older than %s, the least that runs guests reliably on this CPU", path, v, least)
	}
	for _, c := range []struct {
		arg  string
		want []string
	}{
		{"-accel", []string{"tcg"}},
		{"-device", []string{`"vhost-user-vsock-pci"`, `"virtio-net-pci"`, `"virtio-blk-pci"`}},
		{"-object", []string{"memory-backend-memfd"}},
	} {
		out, err := output(ctx, path, c.arg, "help")
		if err != nil {
			return err
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				return fmt.Errorf("%s %s help lists no %s: this QEMU was built without it", path, c.arg, strings.Trim(w, `"`))
			}
		}
	}
	return nil
}

func output(ctx context.Context, path string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running %s %s: %w: %s", path, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
