package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host stands for the machine that a script runs on: the script's paths lie
// below dir, and its tools only write down how they were called.
type host struct {
	t   *testing.T
	dir string
}

func newHost(t *testing.T) *host {
	h := &host{t: t, dir: t.TempDir()}
	for _, dir := range []string{"bin", "proc", "run/systemd/system", "etc/systemd/system/multi-user.target.wants"} {
		h.mkdir(dir)
	}
	for _, tool := range []string{"systemctl", "systemd-sysusers", "systemd-tmpfiles", "getent", "userdel", "groupdel"} {
		h.tool(tool, "")
	}
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) mkdir(name string) string {
	h.t.Helper()
	if err := os.MkdirAll(h.path(name), 0o755); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

func (h *host) write(name, text string) string {
	h.t.Helper()
	h.mkdir(filepath.Dir(name))
	if err := os.WriteFile(h.path(name), []byte(text), 0o755); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

// tool is a stand-in that does what body says.
func (h *host) tool(name, body string) {
	h.write("bin/"+name, fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >>'%s'\n%s\n", name, h.path("called"), body))
}

// called tells how the tools were called.
func (h *host) called() string {
	b, _ := os.ReadFile(h.path("called"))
	return string(b)
}

func (h *host) gone(names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		_, err := os.Lstat(h.path(name))
		return err == nil
	})
}

// run runs a script of this folder.
func (h *host) run(script string, args ...string) (string, error) {
	h.t.Helper()
	b, err := os.ReadFile(script)
	if err != nil {
		h.t.Fatal(err)
	}
	text := string(b)
	for _, place := range []string{"/proc/", "/run/systemd/system", "/var/lib/cocos", "/etc/cocos", "/etc/systemd/", "/usr/local/lib/"} {
		for _, before := range []string{" ", `"`} {
			text = strings.ReplaceAll(text, before+place, before+h.dir+place)
		}
	}
	cmd := exec.Command(h.write("script", text), args...)
	cmd.Env = []string{"PATH=" + h.path("bin") + ":" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// process starts one that the host knows as of control group, a line of
// proc(5)'s cgroup, and with a command line. ended is closed when it has ended.
func (h *host) process(command, cgroup string, argv ...string) (ended <-chan struct{}) {
	h.t.Helper()
	cmd := exec.Command("sh", "-c", command)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	dir := fmt.Sprintf("proc/%d", cmd.Process.Pid)
	h.write(dir+"/cmdline", strings.Join(argv, "\x00")+"\x00")
	h.write(dir+"/cgroup", "12:misc:/\n"+cgroup+"\n")
	over := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		_ = os.RemoveAll(h.path(dir))
		close(over)
	}()
	stop := sync.OnceFunc(func() { _ = cmd.Process.Kill(); <-over })
	h.t.Cleanup(stop)
	return over
}

func has(ended <-chan struct{}, wait time.Duration) bool {
	select {
	case <-ended:
		return true
	case <-time.After(wait):
		return false
	}
}

const (
	obeys  = "exec sleep 600"
	resist = `trap "" TERM; while :; do sleep 1; done`
)

func TestStopVMsEndsThoseOfTheUnit(t *testing.T) {
	const group = "/system.slice/cocos-manager.service"
	for name, c := range map[string]struct{ property, cgroup string }{
		"active":                        {group, "0::" + group},
		"forgotten by systemd":          {"", "0::" + group},
		"control groups of version 1":   {group, "1:name=systemd:" + group},
		"in a slice of the operator's":  {"/vms.slice/cocos-manager.service", "0::/vms.slice/cocos-manager.service"},
		"a shim that does not end":      {group, "0::" + group},
		"processes beside those shims'": {group, "0::" + group},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.tool("systemctl", `case "$*" in show*) echo `+c.property+`;; *is-active*) exit 3;; esac`)
			shim := []string{"/usr/bin/cocos-manager", "shim", "/var/lib/cocos/vms/x"}
			command, others := obeys, []<-chan struct{}{}
			if name == "a shim that does not end" {
				command = resist
			}
			if name == "processes beside those shims'" {
				others = append(others, h.process(obeys, c.cgroup, "qemu-system-x86_64", "-name", "x"))
			}
			ours := h.process(command, c.cgroup, shim...)
			strangers := []<-chan struct{}{
				h.process(obeys, "0::/system.slice/other.service", shim...),
				h.process(obeys, "0::/machine.slice/c"+group, shim...),
				h.process(obeys, "0::"+group+"x", shim...),
				h.process(obeys, "0::/system.slice/cocos-managerXservice", shim...),
			}
			out, err := h.run("stop-vms", "1")
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if said := strings.Contains(out, "did not end within 1 s"); said != (command == resist || len(others) > 0) {
				t.Errorf("it said %q", out)
			}
			for _, p := range append(others, ours) {
				if !has(p, 10*time.Second) {
					t.Error("a process of the unit goes on")
				}
			}
			for i, p := range strangers {
				if has(p, 0) {
					t.Errorf("stranger %d was ended", i)
				}
			}
			if !strings.Contains(h.called(), "systemctl stop cocos-manager.service") {
				t.Errorf("the Manager was not stopped:\n%s", h.called())
			}
		})
	}
}

// Software whose Manager can't be stopped is not removed.
func TestStopVMsFailsWhereTheManagerGoesOn(t *testing.T) {
	h := newHost(t)
	h.tool("systemctl", `case "$*" in stop*) exit 1;; esac`)
	if out, err := h.run("stop-vms", "1"); err == nil {
		t.Errorf("it succeeds, and says %q", out)
	}
	h.tool("systemctl", `case "$*" in stop*) exit 5;; *is-active*) exit 3;; esac`)
	if out, err := h.run("stop-vms", "1"); err != nil {
		t.Errorf("a unit that is not loaded: %v: %s", err, out)
	}
}

const purged = "debian/cocos-manager.postrm"

// lived is a host where the package was, and was removed.
func lived(t *testing.T) *host {
	h := newHost(t)
	h.tool("getent", `case "$1" in passwd) echo "cocos:x:997:997:Cocos Manager:`+h.path("var/lib/cocos")+`:/usr/sbin/nologin";; *) exit 2;; esac`)
	h.write("etc/cocos/cocos-manager.env", "x")
	h.write("var/lib/cocos/lock", "")
	h.write("var/lib/cocos/vms/x/spec.json", "x")
	h.write("precious", "x")
	if err := os.Symlink(h.path("precious"), h.path("var/lib/cocos/vms/x/link")); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestPurgeRemovesEverything(t *testing.T) {
	h := lived(t)
	if out, err := h.run(purged, "remove"); err != nil || h.gone("etc/cocos", "var/lib/cocos") || strings.Contains(h.called(), "userdel") {
		t.Errorf("removing: %v: %s", err, out)
	}
	for range 2 { // it can be repeated
		out, err := h.run(purged, "purge")
		if err != nil || !h.gone("etc/cocos") || !h.gone("var/lib/cocos") {
			t.Errorf("%v: %s", err, out)
		}
	}
	if h.gone("precious") {
		t.Error("a link was followed")
	}
	if !strings.Contains(h.called(), "userdel cocos\n") {
		t.Errorf("the user is still there:\n%s", h.called())
	}
}

func TestPurgeSparesWhatIsNotItsOwn(t *testing.T) {
	t.Run("an installation from the source tree", func(t *testing.T) {
		h := lived(t)
		h.write("usr/local/lib/systemd/system/cocos-manager.service", "x")
		out, err := h.run(purged, "purge")
		if err != nil || !strings.Contains(out, "source tree") || h.gone("etc/cocos/cocos-manager.env") || h.gone("var/lib/cocos/vms/x/spec.json") || strings.Contains(h.called(), "userdel") {
			t.Errorf("%v: %s\n%s", err, out, h.called())
		}
	})
	for _, held := range []string{"var/lib/cocos/lock", "var/lib/cocos/vms/x"} {
		t.Run("a state directory in use: "+held, func(t *testing.T) {
			h := lived(t)
			f, err := os.Open(h.path(held))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				t.Fatal(err)
			}
			out, err := h.run(purged, "purge")
			if err == nil || !strings.Contains(out, h.path(held)+" is in use") || h.gone("etc/cocos") || h.gone("var/lib/cocos/vms/x/spec.json") || strings.Contains(h.called(), "userdel") {
				t.Errorf("%v: %s\n%s", err, out, h.called())
			}
		})
	}
	t.Run("processes of the user", func(t *testing.T) {
		h := lived(t)
		h.tool("userdel", "echo 'userdel: user cocos is currently used by process 7' >&2; exit 8")
		if out, err := h.run(purged, "purge"); err == nil || h.gone("etc/cocos") || h.gone("var/lib/cocos/vms/x/spec.json") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("a user of the same name", func(t *testing.T) {
		h := lived(t)
		h.tool("getent", `echo "cocos:x:1000:1000:Coco Chanel:/home/cocos:/bin/bash"`)
		out, err := h.run(purged, "purge")
		if err != nil || !h.gone("etc/cocos") || strings.Contains(h.called(), "userdel") || strings.Contains(h.called(), "groupdel") {
			t.Errorf("%v: %s\n%s", err, out, h.called())
		}
	})
}

// Manager and service share /etc/cocos: who goes first leaves the other's alone.
func TestPurgeSparesTheOthersConfiguration(t *testing.T) {
	const service = "debian/cocos-computations.postrm"
	for first, second := range map[string]string{purged: service, service: purged} {
		t.Run(first, func(t *testing.T) {
			h := lived(t)
			h.tool("getent", `case "$*" in "passwd cocos") echo "cocos:x:997:997::`+h.path("var/lib/cocos")+`:/x";;
				"passwd cocos-computations") echo "cocos-computations:x:998:998::`+h.path("var/lib/cocos-computations")+`:/x";; *) exit 2;; esac`)
			h.write("etc/cocos/cocos-computations.env", "x")
			h.write("etc/cocos/fullchain.pem", "x")
			h.write("var/lib/cocos-computations/authority.pem", "x")
			name := func(script string) string {
				return strings.TrimSuffix(filepath.Base(script), ".postrm")
			}
			state := map[string]string{purged: "var/lib/cocos", service: "var/lib/cocos-computations"}
			if out, err := h.run(first, "purge"); err != nil || !h.gone("etc/cocos/"+name(first)+".env", state[first]) ||
				h.gone("etc/cocos/"+name(second)+".env") || h.gone("etc/cocos/fullchain.pem") || h.gone(state[second]) {
				t.Errorf("the first: %v: %s", err, out)
			}
			if out, err := h.run(second, "purge"); err != nil || !h.gone("etc/cocos", state[second]) {
				t.Errorf("the second: %v: %s", err, out)
			}
			if called := h.called(); !strings.Contains(called, "userdel cocos\n") || !strings.Contains(called, "userdel cocos-computations\n") {
				t.Errorf("a user is still there:\n%s", called)
			}
		})
	}
}

// A service that was removed keeps its records; one that still runs, or that was
// installed from the source tree, loses none.
func TestPurgeOfTheServiceSparesWhatIsNotItsOwn(t *testing.T) {
	const script = "debian/cocos-computations.postrm"
	lived := func(t *testing.T) *host {
		h := newHost(t)
		h.tool("getent", `case "$1" in passwd) echo "cocos-computations:x:998:998::`+h.path("var/lib/cocos-computations")+`:/x";; *) exit 2;; esac`)
		h.write("etc/cocos/cocos-computations.env", "x")
		h.write("var/lib/cocos-computations/authority.pem", "x")
		return h
	}
	kept := func(t *testing.T, h *host, out string, err error) {
		t.Helper()
		if h.gone("etc/cocos/cocos-computations.env") || h.gone("var/lib/cocos-computations/authority.pem") {
			t.Errorf("%v: %s\n%s", err, out, h.called())
		}
	}
	h := lived(t)
	out, err := h.run(script, "remove")
	if kept(t, h, out, err); err != nil || strings.Contains(h.called(), "userdel") {
		t.Errorf("removing: %v: %s", err, out)
	}
	h = lived(t)
	h.write("usr/local/lib/systemd/system/cocos-computations.service", "x")
	out, err = h.run(script, "purge")
	if kept(t, h, out, err); err != nil || !strings.Contains(out, "source tree") {
		t.Errorf("%v: %s", err, out)
	}
	h = lived(t)
	h.tool("userdel", "echo 'userdel: user cocos-computations is currently used by process 7' >&2; exit 8")
	out, err = h.run(script, "purge")
	if kept(t, h, out, err); err == nil {
		t.Errorf("it succeeds, and says %s", out)
	}
}

// A unit that the operator has masked, and a user that was there before, do not
// leave the package half-configured.
func TestPackageIsConfigured(t *testing.T) {
	h := newHost(t)
	h.tool("systemctl", `case "$*" in *enable*) exit 1;; esac`)
	h.tool("getent", `echo "cocos:x:1000:1000::/home/cocos:/bin/bash"`)
	out, err := h.run("debian/cocos-manager.postinst", "configure")
	if err != nil || !strings.Contains(out, "masked") || !strings.Contains(out, "/home/cocos") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = h.run("debian/cocos-computations.postinst", "configure")
	if err != nil || !strings.Contains(out, "masked") || !strings.Contains(out, "COMPUTATIONS_PUBLIC_URL") {
		t.Errorf("%v: %s", err, out)
	}
}

// An upgrade restarts a service that runs, and starts none that doesn't.
func TestUpgradeRestartsTheService(t *testing.T) {
	for active, restarted := range map[string]bool{"exit 0": true, "exit 3": false} {
		h := newHost(t)
		h.tool("systemctl", `case "$*" in *is-active*) `+active+`;; esac`)
		out, err := h.run("debian/cocos-computations.postinst", "configure", "1.0.0")
		if err != nil || strings.Contains(h.called(), "systemctl restart cocos-computations.service") != restarted || strings.Contains(h.called(), "enable") {
			t.Errorf("%s: %v: %s\n%s", active, err, out, h.called())
		}
	}
}
