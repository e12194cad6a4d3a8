package hostcheck

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// today is when the tests take place.
var today = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

const amd = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm sse\n\nprocessor\t: 1\n"

// goodHost is one on which nothing is missing; files lie under its root.
func goodHost(t *testing.T) *host {
	t.Helper()
	h := &host{
		root: t.TempDir(), uid: 998, user: "cocos", gids: []int{998, 106}, cpus: 8,
		now:         func() time.Time { return today },
		groupID:     func(string) (int, error) { return 998, nil },
		groupName:   func(int) string { return "kvm" },
		open:        func(string, int) error { return nil },
		access:      func(string, uint32) error { return nil },
		output:      func(context.Context, ...string) (string, error) { return "", errors.New("nothing to run") },
		kernelVsock: func() error { return nil },
		guest:       func(context.Context, string) (bool, string) { return true, "" },
		statfs: func(string) (unix.Statfs_t, error) {
			return unix.Statfs_t{Bavail: 1 << 22, Bsize: 4096, Files: 1 << 20, Ffree: 1 << 20}, nil
		},
		nofile:  func() (uint64, error) { return 1 << 19, nil },
		synced:  func() (bool, error) { return true, nil },
		dial:    (&net.Dialer{}).DialContext,
		bind:    func(string) error { return nil },
		cpuTEE:  func() cpuTEE { return cpuTEE{} },
		vmTypes: func() (uint64, error) { return 1, nil },
		snpStatus: func() (snpState, error) {
			return snpState{initialised: true, major: 1, minor: 55, build: 24, guests: 2}, nil
		},
	}
	h.put(t, "proc/cpuinfo", amd)
	h.put(t, "proc/meminfo", "MemTotal:       65536000 kB\nMemFree: 1 kB\nMemAvailable:   60000000 kB\n")
	h.put(t, "proc/sys/kernel/osrelease", "6.12.1-amd64\n")
	h.put(t, "lib/modules/6.12.1-amd64/modules.dep", "kernel/arch/x86/kvm/kvm-amd.ko.xz:\nkernel/drivers/vhost/vhost_vsock.ko.xz: kernel/x.ko\n")
	h.put(t, "proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
	h.put(t, "proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n")
	h.put(t, "run/systemd/system/x", "")
	return h
}

// put writes a file under the host's root.
func (h *host) put(t *testing.T, name, text string) {
	t.Helper()
	write(t, h.path(name), text)
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// goodConfig fits goodHost.
func goodConfig(t *testing.T) Config {
	return Config{
		QEMU: "qemu-system-x86_64", KVM: "auto", Vsock: "auto", MachineType: "q35", CPU: "EPYC", VCPUs: 4, MemoryMiB: 4096,
		StateDir: shortDir(t), ControlSocket: filepath.Join(shortDir(t), "c.sock"), HTTPAddr: "127.0.0.1:9101",
		Forward: Forward{Addr: netip.MustParseAddr("127.0.0.1"), Preferred: 7020, First: 6100, Last: 6200},
		Limits:  Limits{MaxVMs: 10, MinFreeDisk: 512 << 20, DiskPerVM: 300 << 20},
	}
}

// shortDir is a folder whose path leaves room for unix sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// want is what a finding must be; texts must occur in it.
type want struct {
	verdict      Verdict
	found, needs string
	mend         string
}

// probeCase is a good host and configuration with something changed.
type probeCase struct {
	change func(t *testing.T, h *host, c *Config)
	want   []want
}

func runCases(t *testing.T, probe func(context.Context, *host, Config) []Finding, cases map[string]probeCase) {
	for name, pc := range cases {
		t.Run(name, func(t *testing.T) {
			h, c := goodHost(t), goodConfig(t)
			if pc.change != nil {
				pc.change(t, h, &c)
			}
			got := probe(t.Context(), h, c)
			if len(got) != len(pc.want) {
				t.Fatalf("got %d findings, want %d: %+v", len(got), len(pc.want), got)
			}
			for i, w := range pc.want {
				f := got[i]
				if f.Verdict != w.verdict || !strings.Contains(f.Found, w.found) || !strings.Contains(f.Needed, w.needs) || !strings.Contains(f.Mend, w.mend) {
					t.Errorf("got  %+v\nwant %+v", f, w)
				}
				if (f.Verdict == Fail || f.Verdict == Warn) && f.Mend == "" {
					t.Errorf("nothing says how to mend %+v", f)
				}
				if f.Verdict == OK && (f.Needed != "" || f.Mend != "") {
					t.Errorf("in order, and yet something is needed: %+v", f)
				}
			}
		})
	}
}

// only makes bind take the ports that free names.
func only(h *host, free ...string) {
	h.bind = func(addr string) error {
		if _, port, _ := net.SplitHostPort(addr); slices.Contains(free, port) {
			return nil
		}
		return unix.EADDRINUSE
	}
}
