// Package packaging holds the tests of the scripts that install Cocos and make
// its packages: on a small source tree with stand-ins for the programs and the
// image. test/e2e/installed shows the real ones at work.
package packaging

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// nobody is who scripts run as where a test needs another user than root.
const nobody = 65534

// tree is a source tree with all that the scripts read.
type tree struct {
	t   *testing.T
	dir string
	env []string
	// umask, as in the shell.
	umask string
	// user runs scripts as nobody.
	user bool
}

var images = []string{"bzImage", "rootfs.cpio.gz", "python.img", "image.json", "disk.qcow2", "disk.json"}

func newTree(t *testing.T) *tree {
	dir := t.TempDir()
	h := &tree{t: t, dir: dir, umask: "022", env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "VERSION=1.2.3", "SOURCE_DATE_EPOCH=1700000000",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2026-11-24T01:02:03Z", "GIT_COMMITTER_DATE=2026-11-24T01:02:03Z",
	}}
	if out, err := exec.Command("cp", "-r", ".", filepath.Join(dir, "packaging")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.program("cocos-manager", `printf '# It'"'"'s a back\\slash.\n.request\n#MANAGER_LOG_LEVEL=info\n'`)
	h.program("cocos-computations", `echo '#COMPUTATIONS_LOG_LEVEL=info'`)
	h.program("cocos-cli", `echo ".TH $1"`)
	h.program("cocos-agent", `exit 1`)
	for _, name := range images {
		h.write("cmd/manager/img/"+name, "the "+name)
	}
	return h
}

func (h *tree) path(name string) string { return filepath.Join(h.dir, name) }

func (h *tree) write(name, text string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.path(name), []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *tree) program(name, body string) {
	h.t.Helper()
	h.write("build/"+name, "#!/bin/sh\n"+body+"\n")
	if err := os.Chmod(h.path("build/"+name), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func (h *tree) read(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// page is the text of a compressed manual page.
func (h *tree) page(name string) string {
	h.t.Helper()
	r, err := gzip.NewReader(strings.NewReader(h.read(name)))
	if err != nil {
		h.t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

func (h *tree) run(name string, args ...string) (string, error) {
	cmd := exec.Command("sh", append([]string{"-c", "umask " + h.umask + `; exec "$0" "$@"`, name}, args...)...)
	cmd.Dir, cmd.Env = h.dir, h.env
	if h.user && os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must runs what has to succeed.
func (h *tree) must(name string, args ...string) string {
	h.t.Helper()
	out, err := h.run(name, args...)
	if err != nil {
		h.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

// refuses runs what has to fail, saying so.
func (h *tree) refuses(want string, name string, args ...string) {
	h.t.Helper()
	out, err := h.run(name, args...)
	if err == nil || !strings.Contains(out, want) {
		h.t.Errorf("%s %q: %v; expected %q in\n%s", name, args, err, want, out)
	}
}

// files lists what lies in a folder, folders left out.
func (h *tree) files(dir string) []string {
	var all []string
	err := filepath.WalkDir(h.path(dir), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			p, err = filepath.Rel(h.path(dir), p)
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

func TestInstallPutsEverythingInPlace(t *testing.T) {
	h := newTree(t)
	h.umask = "077"
	h.env = append(h.env, "DESTDIR="+h.path("root"))
	h.must("packaging/install", "install")
	const usr = "usr/local/"
	want := map[string]fs.FileMode{
		"etc/cocos/cocos-manager.env": 0o644, usr + "bin/cocos-cli": 0o755, usr + "bin/cocos-manager": 0o755,
		usr + "lib/cocos/stop-vms": 0o755, usr + "lib/systemd/system/cocos-manager.service": 0o644,
		usr + "lib/systemd/system/cocos-vms.service": 0o644, usr + "lib/sysusers.d/cocos-manager.conf": 0o644, usr + "lib/tmpfiles.d/cocos-manager.conf": 0o644,
		usr + "share/bash-completion/completions/cocos-cli": 0o644, usr + "share/cocos/cocos-manager.env": 0o644,
		usr + "share/cocos/with-sudo.conf": 0o644, usr + "share/man/man1/cocos-cli.1.gz": 0o644,
		usr + "share/man/man5/cocos-manager.env.5.gz": 0o644, usr + "share/man/man8/cocos-manager.8.gz": 0o644,
		"etc/cocos/cocos-computations.env": 0o600, usr + "bin/cocos-computations": 0o755,
		usr + "lib/systemd/system/cocos-computations.service": 0o644, usr + "lib/sysusers.d/cocos-computations.conf": 0o644,
		usr + "lib/tmpfiles.d/cocos-computations.conf": 0o644, usr + "share/cocos/cocos-computations.env": 0o644,
		usr + "share/man/man5/cocos-computations.env.5.gz": 0o644, usr + "share/man/man8/cocos-computations.8.gz": 0o644,
		"var/lib/cocos/img/bzImage": 0o644, "var/lib/cocos/img/image.json": 0o644, "var/lib/cocos/img/python.img": 0o644,
		"var/lib/cocos/img/rootfs.cpio.gz": 0o644,
	}
	got := h.files("root")
	for _, name := range got {
		info, err := os.Stat(h.path("root/" + name))
		if err != nil {
			t.Fatal(err)
		}
		if want[name] != info.Mode() {
			t.Errorf("%s is %v, want %v", name, info.Mode(), want[name])
		}
		if info, err := os.Stat(filepath.Dir(h.path("root/" + name))); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("the folder of %s is %v, %v", name, info.Mode(), err)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files were installed, want %d: %q", len(got), len(want), got)
	}
	for unit, lines := range map[string][]string{
		"cocos-manager":      {"ExecStart=/usr/local/bin/cocos-manager", "KillMode=process", "OOMPolicy=continue", "NoNewPrivileges=yes", "User=cocos"},
		"cocos-computations": {"ExecStart=/usr/local/bin/cocos-computations", "Type=notify", "NoNewPrivileges=yes", "User=cocos-computations", "StateDirectory=cocos-computations"},
	} {
		text := h.read("root/" + usr + "lib/systemd/system/" + unit + ".service")
		for _, line := range lines {
			if !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("the unit %s has no line %q", unit, line)
			}
		}
	}
	for _, name := range got {
		if strings.HasSuffix(name, ".gz") && !strings.HasPrefix(name, "var/") {
			continue
		}
		if text := h.read("root/" + name); regexp.MustCompile(`@[A-Z]+@`).MatchString(text) {
			t.Errorf("something was not filled in in %s", name)
		}
	}
	if page := h.page("root/" + usr + "share/man/man5/cocos-manager.env.5.gz"); !strings.Contains(page, "\n# It\\(aqs a back\\eslash.\n\\&.request\n#MANAGER_LOG_LEVEL=info\n.fi\n") {
		t.Errorf("the page of the configuration is\n%s", page)
	}
	if page := h.page("root/" + usr + "share/man/man5/cocos-computations.env.5.gz"); !strings.Contains(page, "\n#COMPUTATIONS_LOG_LEVEL=info\n.fi\n") {
		t.Errorf("the page of the service's configuration is\n%s", page)
	}
	if page := h.page("root/" + usr + "share/man/man8/cocos-manager.8.gz"); !strings.Contains(page, "\n.I /usr/local/lib/cocos/stop\\-vms\n") {
		t.Errorf("the Manager's page does not name where its helper is:\n%s", page)
	}
}

func TestEditedConfigurationIsKept(t *testing.T) {
	for _, program := range []string{"cocos-manager", "cocos-computations"} {
		t.Run(program, func(t *testing.T) { editedIsKept(t, program) })
	}
}

func editedIsKept(t *testing.T, program string) {
	config := "root/etc/cocos/" + program + ".env"
	h := newTree(t)
	h.env = append(h.env, "DESTDIR="+h.path("root"))
	h.must("packaging/install", "install")
	// A newer text replaces one that nobody touched.
	h.program(program, `echo '#NEW=1'`)
	if out := h.must("packaging/install", "install"); out != "" || h.read(config) != "#NEW=1\n" {
		t.Errorf("it said %q, and the file is %q", out, h.read(config))
	}
	h.write(config, "NEW=2\n")
	h.program(program, `echo '#NEWER=1'`)
	for range 2 {
		out := h.must("packaging/install", "install")
		if !strings.Contains(out, "kept "+h.path(config)) || h.read(config) != "NEW=2\n" {
			t.Errorf("it said %q, and the file is %q", out, h.read(config))
		}
	}
	out := h.must("packaging/install", "uninstall")
	if got := h.files("root"); !slices.Equal(got, []string{"etc/cocos/" + program + ".env"}) || !strings.Contains(out, "kept") {
		t.Errorf("it said %q, and left %q", out, got)
	}
	// One that was there before the first installation is somebody's.
	h.must("packaging/install", "install")
	if h.read(config) != "NEW=2\n" {
		t.Errorf("the file is %q", h.read(config))
	}
	h.write(config, "#NEWER=1\n")
	h.must("packaging/install", "uninstall")
	if got := h.files("root"); len(got) != 0 {
		t.Errorf("it left %q", got)
	}
}

func TestInstallRefuses(t *testing.T) {
	t.Run("what is not built", func(t *testing.T) {
		h := newTree(t)
		h.env = append(h.env, "DESTDIR="+h.path("root"))
		for _, name := range []string{"build/cocos-manager", "build/cocos-computations", "build/cocos-cli", "cmd/manager/img/python.img", "cmd/manager/img/image.json"} {
			away := h.path("away")
			if err := os.Rename(h.path(name), away); err != nil {
				t.Fatal(err)
			}
			h.refuses(name+" is missing: run `make build hal`", "packaging/install", "install")
			if err := os.Rename(away, h.path(name)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(h.path("root")); err == nil {
			t.Errorf("something was installed: %q", h.files("root"))
		}
	})
	t.Run("a program that does not tell its configuration", func(t *testing.T) {
		for _, program := range []string{"cocos-manager", "cocos-computations"} {
			h := newTree(t)
			h.env = append(h.env, "DESTDIR="+h.path("root"))
			h.program(program, "exit 1")
			h.refuses(program+" env failed", "packaging/install", "install")
			if _, err := os.Stat(h.path("root")); err == nil {
				t.Errorf("something was installed: %q", h.files("root"))
			}
		}
	})
	t.Run("who is not root", func(t *testing.T) {
		h := newTree(t)
		h.user = true
		// Scripts lie below folders that root alone may enter.
		for dir := h.dir; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, what := range []string{"install", "uninstall"} {
			h.refuses("sudo make "+what, "packaging/install", what)
		}
	})
	t.Run("wrong arguments", func(t *testing.T) {
		h := newTree(t)
		h.refuses("usage", "packaging/install")
		h.refuses("usage", "packaging/install", "everything")
		h.refuses("usage", "packaging/deb")
		h.refuses("usage", "packaging/release")
	})
}

// The same commit in other folders, by other users with other masks, clocks and
// languages, gives the same bytes.
func TestPackagesAreReproducible(t *testing.T) {
	var first [][]byte
	for i, change := range []func(*tree){
		func(*tree) {},
		func(h *tree) { h.umask = "077" },
		func(h *tree) {
			h.umask = "002"
			h.env = append(h.env, "TZ=Asia/Tokyo", "LC_ALL=de_DE.UTF-8", "LANG=fr_FR.UTF-8")
		},
		func(h *tree) { h.user = true },
	} {
		h := newTree(t)
		change(h)
		if h.user {
			err := filepath.WalkDir(h.dir, func(p string, _ fs.DirEntry, err error) error {
				if err != nil || os.Getuid() != 0 {
					return err
				}
				return os.Chown(p, nobody, nobody)
			})
			if err != nil {
				t.Fatal(err)
			}
			for dir := h.dir; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		out := h.must("packaging/deb", "out")
		names := []string{h.path("out/cocos-manager_1.2.3_amd64.deb"), h.path("out/cocos-computations_1.2.3_amd64.deb"), h.path("out/cocos-cli_1.2.3_amd64.deb")}
		if got := strings.Fields(out); !slices.Equal(got, names) {
			t.Fatalf("it names %q, want %q", got, names)
		}
		if got := h.files("out"); len(got) != len(names) {
			t.Errorf("it left %q", got)
		}
		for j, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = append(first, b)
			} else if !bytes.Equal(b, first[j]) {
				t.Errorf("try %d: %s differs", i, filepath.Base(name))
			}
		}
	}
}

// Each file is in one package, and the service's holds nothing of a host's.
func TestPackagesShareNoFile(t *testing.T) {
	h := newTree(t)
	holder := map[string]string{}
	for _, deb := range strings.Fields(h.must("packaging/deb", "out")) {
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		for line := range strings.Lines(h.must("dpkg-deb", "--contents", deb)) {
			f := strings.Fields(line)
			if file := f[5]; !strings.HasSuffix(file, "/") {
				if holder[file] != "" {
					t.Errorf("%s is in %s and %s", file, holder[file], name)
				}
				holder[file] = name
				if name == "cocos-computations" && !strings.Contains(file, name) {
					t.Errorf("%s holds %s", name, file)
				}
				if file == "./etc/cocos/cocos-computations.env" && f[0] != "-rw-------" {
					t.Errorf("the service's configuration, which may hold a password, is %s", f[0])
				}
			}
		}
		conffile := map[string]string{"cocos-manager": "/etc/cocos/cocos-manager.env\n", "cocos-computations": "/etc/cocos/cocos-computations.env\n"}[name]
		if got, _ := h.run("dpkg-deb", "--info", deb, "conffiles"); conffile != "" && got != conffile {
			t.Errorf("the configuration of %s is %q", name, got)
		}
	}
	for _, file := range []string{"./usr/bin/cocos-computations", "./usr/lib/systemd/system/cocos-computations.service", "./usr/share/man/man8/cocos-computations.8.gz"} {
		if holder[file] != "cocos-computations" {
			t.Errorf("%s is in %q", file, holder[file])
		}
	}
}

// The units are such that systemd finds no fault with them, and confined.
func TestUnitsAreSound(t *testing.T) {
	for unit, most := range map[string]float64{"cocos-manager": 2.5, "cocos-computations": 2.5} {
		h := newTree(t)
		text := h.read("packaging/systemd/" + unit + ".service.in")
		h.write(unit+".service", regexp.MustCompile(`/?@BINDIR@/cocos-[a-z]+`).ReplaceAllString(text, "/bin/true"))
		// What it says of other units of this machine is not this test's; an unknown
		// key is said, and does not fail.
		out, _ := h.run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", h.path(unit+".service"))
		if out != "" {
			t.Errorf("systemd-analyze verify: %s", out)
		}
		out = h.must("systemd-analyze", "--no-pager", "security", "--offline=true", h.path(unit+".service"))
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+) `).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("systemd-analyze security: %s", out)
		}
		if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > most {
			t.Errorf("%s: the exposure level is %s, %v", unit, m[1], err)
		} else {
			t.Logf("%s: exposure level %s", unit, m[1])
		}
	}
}

func TestVersionComesFromGit(t *testing.T) {
	h := newTree(t)
	h.env = slices.DeleteFunc(h.env, func(s string) bool {
		return strings.HasPrefix(s, "VERSION=") || strings.HasPrefix(s, "SOURCE_DATE_EPOCH=")
	})
	h.refuses("set VERSION (such as 1.2.3) and SOURCE_DATE_EPOCH", "packaging/deb", "out")
	git := func(args ...string) string {
		return strings.TrimSpace(h.must("git", append([]string{"-c", "init.defaultBranch=main", "-c", "safe.directory=*"}, args...)...))
	}
	built := func() string {
		t.Helper()
		names := strings.Fields(h.must("packaging/deb", "out"))
		version := strings.TrimSpace(h.must("dpkg-deb", "--field", names[0], "Version"))
		h.must("rm", "-r", "out")
		return version
	}
	h.write(".gitignore", "/out/\n")
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	commit := git("rev-parse", "--short=12", "HEAD")
	if got, want := built(), "0.0.0+git20261124.010203."+commit; got != want {
		t.Errorf("without a tag: %s, want %s", got, want)
	}
	git("tag", "v2.0.0")
	if got := built(); got != "2.0.0" {
		t.Errorf("with a tag: %s", got)
	}
	h.write("changed", "x")
	changed := built()
	if want := "2.0.0+git20261124.010203." + commit + ".dirty"; changed != want {
		t.Errorf("a changed tree: %s, want %s", changed, want)
	}
	h.must("dpkg", "--compare-versions", changed, "gt", "2.0.0")
	h.must("dpkg", "--compare-versions", changed, "lt", "2.0.1")
	h.env = append(h.env, "VERSION=two")
	h.refuses("VERSION=two is not a package's version", "packaging/deb", "out")
}

func TestReleaseGathersEverything(t *testing.T) {
	h := newTree(t)
	h.must("packaging/release", "out/release")
	want := []string{"SHA256SUMS", "bzImage", "cocos-agent", "cocos-cli", "cocos-cli_1.2.3_amd64.deb", "cocos-computations", "cocos-computations_1.2.3_amd64.deb", "cocos-manager", "cocos-manager_1.2.3_amd64.deb", "disk.json", "disk.qcow2", "image.json", "python.img", "rootfs.cpio.gz"}
	if got := h.files("out/release"); !slices.Equal(got, want) {
		t.Errorf("it holds %q, want %q", got, want)
	}
	if got := h.read("out/release/SHA256SUMS"); strings.Count(got, "\n") != len(want)-1 {
		t.Errorf("the digests are\n%s", got)
	}
	h.must("sh", "-c", "cd out/release && sha256sum --check --strict --quiet SHA256SUMS")
	// Made again: as a whole, in place of the old one.
	h.write("out/release/stale", "x")
	h.must("packaging/release", "out/release")
	if got := h.files("out/release"); !slices.Equal(got, want) {
		t.Errorf("it holds %q, want %q", got, want)
	}
	if err := os.Remove(h.path("cmd/manager/img/disk.qcow2")); err != nil {
		t.Fatal(err)
	}
	h.refuses("disk.qcow2 is missing: run `make release`", "packaging/release", "out/release")
	if got := h.files("out"); len(got) != len(want) {
		t.Errorf("a release that failed leaves %q", got)
	}
	h.write("photos/one.jpg", "x")
	h.refuses("holds something else than a release", "packaging/release", "photos")
}
