// Package scripts holds the tests of the shell scripts beside it.
package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// host is a made-up machine: a folder that is the whole PATH.
type host struct {
	t   *testing.T
	dir string
	env []string
}

func newHost(t *testing.T, osRelease string) *host {
	h := &host{t: t, dir: t.TempDir()}
	h.write("os-release", osRelease)
	h.write("ca", "")
	h.write("keyring", "")
	h.env = []string{
		"PATH=" + filepath.Join(h.dir, "bin"), "OS_RELEASE_FILE=" + filepath.Join(h.dir, "os-release"),
		"CA_FILE=" + filepath.Join(h.dir, "ca"), "KEYRING_FILE=" + filepath.Join(h.dir, "keyring"),
		"POSTGRESQL_DIR=" + filepath.Join(h.dir, "postgresql"),
	}
	for _, tool := range []string{"sh", "sed", "tr", "dirname"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(h.bin(), tool)); err != nil {
			t.Fatal(err)
		}
	}
	h.program("go", `case $2 in GOVERSION) echo go1.26.8 ;; GOTOOLCHAIN) echo auto ;; esac`)
	h.program("gcc", `exit 0`)
	h.program("chromium", `exit 0`)
	h.program("systemd-analyze", `exit 0`)
	h.program("id", `echo 1000`)
	h.server()
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb", "sudo"} {
		h.program(tool, `echo "$(basename "$0") $*" >>`+filepath.Join(h.dir, "log"))
	}
	h.program("basename", `echo "${1##*/}"`)
	return h
}

func (h *host) bin() string {
	bin := filepath.Join(h.dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return bin
}

func (h *host) write(name, text string) {
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) program(name, body string) {
	if err := os.WriteFile(filepath.Join(h.bin(), name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// server puts PostgreSQL's where Debian does.
func (h *host) server() {
	dir := filepath.Join(h.dir, "postgresql", "15", "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) remove(names ...string) {
	for _, n := range names {
		if err := os.Remove(filepath.Join(h.dir, n)); err != nil {
			h.t.Fatal(err)
		}
	}
}

// deps runs the script and returns what it said and which tools it called.
func (h *host) deps(args ...string) (said, called string, err error) {
	cmd := exec.Command("./deps", args...)
	cmd.Env = h.env
	out, err := cmd.CombinedOutput()
	log, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	return string(out), string(log), err
}

const (
	debian = "ID=debian\n"
	fedora = "NAME=Fedora\nID=\"fedora\"\n"
)

func TestDepsSaysNothingWhenNothingIsMissing(t *testing.T) {
	for _, for_ := range []string{"demo", "test"} {
		for _, osRelease := range []string{debian, fedora} {
			if said, called, err := newHost(t, osRelease).deps(for_); err != nil || said != "" || called != "" {
				t.Errorf("%s on %q: %v, said %q, called %q", for_, osRelease, err, said, called)
			}
		}
	}
}

func TestDepsInstalls(t *testing.T) {
	noGCC := func(h *host) { h.remove("bin/gcc") }
	noServer := func(h *host) { h.remove("postgresql/15/bin/postgres") }
	for name, tc := range map[string]struct {
		args   string
		change func(h *host)
		called string
	}{
		"compiler": {"test", noGCC, "sudo apt-get update -q\nsudo apt-get install -q -y --no-install-recommends gcc libc6-dev\n"},
		"headers":  {"test", func(h *host) { h.program("gcc", "exit 1") }, "sudo apt-get update -q\nsudo apt-get install -q -y --no-install-recommends gcc libc6-dev\n"},
		"keyrings": {"demo", func(h *host) { h.remove("ca", "keyring") }, "sudo apt-get update -q\nsudo apt-get install -q -y --no-install-recommends ca-certificates debian-archive-keyring\n"},
		"as root": {"test", func(h *host) { noGCC(h); h.program("id", "echo 0"); h.remove("bin/sudo") },
			"apt-get update -q\napt-get install -q -y --no-install-recommends gcc libc6-dev\n"},
		"browser":          {"test", func(h *host) { h.remove("bin/chromium") }, "sudo apt-get update -q\nsudo apt-get install -q -y --no-install-recommends chromium\n"},
		"unit checker":     {"test", func(h *host) { h.remove("bin/systemd-analyze") }, "sudo apt-get update -q\nsudo apt-get install -q -y --no-install-recommends systemd\n"},
		"database":         {"test", noServer, "sudo apt-get update -q\nsudo apt-get install -q -y --no-install-recommends postgresql\n"},
		"database on PATH": {"test", func(h *host) { noServer(h); h.program("postgres", "exit 0") }, ""},
		"no compiler, browser and database for the demo": {"demo", func(h *host) { noGCC(h); noServer(h); h.remove("bin/chromium"); h.remove("bin/systemd-analyze") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, debian)
			tc.change(h)
			said, called, err := h.deps(tc.args)
			if err != nil || called != tc.called {
				t.Errorf("%v, said %q, called %q, want %q", err, said, called, tc.called)
			}
			if strings.Contains(called, "sudo") && !strings.Contains(said, "sudo") {
				t.Errorf("asks for sudo without saying so: %q", said)
			}
		})
	}
}

func TestDepsRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		osRelease string
		args      []string
		change    func(h *host)
		want      []string
	}{
		"no arguments":       {debian, nil, func(*host) {}, []string{"usage"}},
		"wrong argument":     {debian, []string{"all"}, func(*host) {}, []string{"usage"}},
		"another system":     {fedora, []string{"test"}, func(h *host) { h.remove("bin/gcc") }, []string{"fedora", "install these", "gcc"}},
		"no apt":             {fedora, []string{"demo"}, func(h *host) { h.remove("bin/apt-get") }, []string{"apt-get is missing", "fedora", "Debian 12 or 13"}},
		"no sudo":            {debian, []string{"test"}, func(h *host) { h.remove("bin/gcc", "bin/sudo") }, []string{"no sudo", "as root", "gcc libc6-dev"}},
		"sudo refuses":       {debian, []string{"test"}, func(h *host) { h.remove("bin/gcc"); h.program("sudo", "exit 1") }, []string{"installing gcc libc6-dev failed"}},
		"no Go":              {debian, []string{"demo"}, func(h *host) { h.remove("bin/go") }, []string{"Go is missing", "1.21"}},
		"old Go":             {debian, []string{"demo"}, func(h *host) { h.program("go", "echo go1.19.8") }, []string{"go1.19.8", "1.21 or later"}},
		"toolchain is fixed": {debian, []string{"demo"}, func(h *host) { h.program("go", `case $2 in GOVERSION) echo go1.22.1 ;; *) echo local ;; esac`) }, []string{"GOTOOLCHAIN=local", "go env -w GOTOOLCHAIN=auto"}},
		"not Go":             {debian, []string{"demo"}, func(h *host) { h.program("go", "echo a board game") }, []string{"really Go"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, tc.osRelease)
			tc.change(h)
			said, _, err := h.deps(tc.args...)
			if err == nil {
				t.Fatalf("no error; said %q", said)
			}
			for _, w := range tc.want {
				if !strings.Contains(said, w) {
					t.Errorf("said %q, which lacks %q", said, w)
				}
			}
		})
	}
}

// An older Go that may fetch the right one is enough.
func TestDepsTakesGoThatFetches(t *testing.T) {
	h := newHost(t, debian)
	h.program("go", `case $2 in GOVERSION) echo go1.22.1 ;; *) echo auto ;; esac`)
	if said, _, err := h.deps("demo"); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

// TestFuzzTellsFailureFromTheEnd runs scripts/fuzz with a go command that says
// what the real one said: the end of its time isn't a failure, an input is.
func TestFuzzTellsFailureFromTheEnd(t *testing.T) {
	const progress = "fuzz: elapsed: 20s, execs: 29493 (1868/sec), new interesting: 0 (total: 60)\n"
	for name, c := range map[string]struct {
		log    string
		status string
		want   string
	}{
		"passes": {log: progress + "PASS\n", status: "0", want: "FuzzIt: 29493 inputs"},
		"time": {
			log:    progress + "--- FAIL: FuzzIt (20.16s)\n    context deadline exceeded\nFAIL\nexit status 1\n",
			status: "1", want: "FuzzIt: 29493 inputs",
		},
		"input": {
			log: progress + "--- FAIL: FuzzIt (1.16s)\n    --- FAIL: FuzzIt (0.00s)\n        it_test.go:5: context deadline exceeded\n" +
				"    Failing input written to testdata/fuzz/FuzzIt/1\nFAIL\nexit status 1\n",
			status: "1", want: "FuzzIt failed:",
		},
		"crash":   {log: progress + "panic: oops\nexit status 2\n", status: "1", want: "FuzzIt failed:"},
		"nothing": {log: "PASS\n", status: "0", want: "FuzzIt ran nothing:"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{
				"it_test.go": "package it\n\nfunc FuzzIt(f *testing.F) {}\n",
				"log":        c.log,
				"go":         "#!/bin/sh\nif [ $1 = list ]; then echo example.org/it " + dir + "; exit; fi\ncat " + dir + "/log\nexit " + c.status + "\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("./fuzz", "20s", "./...")
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			if passes := strings.Contains(c.want, "inputs"); passes != (err == nil) {
				t.Errorf("ended with %v\n%s", err, out)
			}
			if !strings.Contains(string(out), c.want) {
				t.Errorf("said %q, want %q in it", out, c.want)
			}
		})
	}
}
