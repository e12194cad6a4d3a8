package qemu

import (
	"context"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

const testDir = vm.Dir("/var/lib/cocos/vms/6f1c3f6e-0a57-4a1e-9d3b-0d6c5c1b2a3f")

func testSpec() vm.Spec {
	return vm.Spec{
		RunID: "6f1c3f6e-0a57-4a1e-9d3b-0d6c5c1b2a3f",
		Agent: vm.AgentConfig{Port: vm.AgentPort, Address: DefaultAddress, Gateway: DefaultGateway},
		Machine: vm.Machine{
			QEMU: "/usr/bin/qemu-system-x86_64", Accel: vm.AccelKVM, CPU: "EPYC", VCPUs: 4, MemoryMiB: 4096,
			Kernel: "/img/bzImage", Initrd: "/img/rootfs.cpio.gz", Runtime: "/img/python.img",
			CommandLine: "console=ttyS0 quiet panic=-1",
			Forward:     netip.MustParseAddrPort("127.0.0.1:6100"),
			Vsock:       vm.Vsock{Way: vm.VsockUser, GuestCID: 3},
		},
	}
}

// variants are the command lines that golden files hold.
var variants = map[string]struct {
	dir    vm.Dir
	change func(*vm.Spec)
}{
	"user":   {testDir, func(*vm.Spec) {}},
	"kernel": {testDir, func(s *vm.Spec) { s.Machine.Vsock = vm.Vsock{Way: vm.VsockKernel, GuestCID: 42} }},
	"tcg": {testDir, func(s *vm.Spec) {
		s.Machine.Accel, s.Machine.CPU, s.Machine.VCPUs, s.Machine.Runtime = vm.AccelTCG, "max", 1, ""
	}},
	"everywhere": {testDir, func(s *vm.Spec) { s.Machine.Forward = netip.MustParseAddrPort("0.0.0.0:7020") }},
	"network": {testDir, func(s *vm.Spec) {
		s.Agent.Address, s.Agent.Gateway = netip.MustParsePrefix("192.168.76.9/24"), netip.MustParseAddr("192.168.76.1")
	}},
	"commas": {"/state, one/vms/run", func(s *vm.Spec) {
		s.RunID, s.Machine.Kernel, s.Machine.Runtime = "a,b", "/img,1/bzImage", "/img,1/python.img"
		s.Machine.CommandLine = "console=ttyS0,115200 x=1,2"
	}},
}

func TestArgs(t *testing.T) {
	for name, v := range variants {
		t.Run(name, func(t *testing.T) {
			spec := testSpec()
			v.change(&spec)
			args := Args(spec, v.dir)
			if again := Args(spec, v.dir); !slices.Equal(args, again) {
				t.Error("the same specification gives another command line")
			}
			got := lines(args)
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs (go test -update, after a look at it):\n%s", file, got)
			}
		})
	}
}

// lines puts each option with its value on a line.
func lines(args []string) string {
	var b strings.Builder
	for i, a := range args {
		switch {
		case i == 0:
		case strings.HasPrefix(a, "-"):
			b.WriteByte('\n')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(a)
	}
	return b.String() + "\n"
}

// The real QEMU takes each command line, with every file in its place, and its
// monitor answers. CPUs stand still: no guest is booted.
func TestQEMUTakesArgs(t *testing.T) {
	bin := realQEMU(t)
	for name, v := range variants {
		if name == "kernel" {
			continue // wants the open device; its line differs in that option only
		}
		t.Run(name, func(t *testing.T) {
			folder, err := os.MkdirTemp("", "qemu,args") // a comma in every path
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(folder) })
			dir := vm.Dir(folder)
			spec := testSpec()
			v.change(&spec)
			spec.Machine.Accel, spec.Machine.CPU, spec.Machine.MemoryMiB = vm.AccelTCG, "max", 128
			spec.Machine.Forward = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t))
			spec.Machine.Kernel = kernelFile(t, folder)
			for file, name := range map[*string]string{&spec.Machine.Initrd: "rootfs", &spec.Machine.Runtime: "python.img"} {
				if *file == "" {
					continue
				}
				*file = filepath.Join(folder, name)
				if err := os.WriteFile(*file, make([]byte, 1<<20), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := Validate(spec); err != nil {
				t.Fatal(err)
			}
			args := Args(spec, dir)
			args, vhost := withoutDevice(args)
			if spec.Machine.Vsock.Way == vm.VsockUser && !vhost {
				t.Error("no vhost-user device")
			}
			monitor, err := net.Listen("unix", dir.QMPSocket())
			if err != nil {
				t.Fatal(err)
			}
			defer monitor.Close()
			p, err := Start(Command{Path: bin, Args: append(args, "-S"), Dir: folder, Console: t.Output(), Errors: t.Output()})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.Kill(); <-p.Done() }()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			go func() {
				select {
				case <-p.Done():
				case <-ctx.Done():
				}
				_ = monitor.Close()
			}()
			conn, err := monitor.Accept()
			if err != nil {
				t.Fatal("QEMU does not take the command line")
			}
			q, err := NewQMP(ctx, conn, func(Event) {})
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			if s, err := q.Status(ctx); err != nil || s != "prelaunch" {
				t.Errorf("the guest is %q, %v", s, err)
			}
			var e *QMPError
			if err := q.Execute(ctx, "no-such-command", nil, nil); !asError(err, &e) {
				t.Errorf("a command that does not exist gives %v", err)
			}
			if err := q.Quit(ctx); err != nil {
				t.Error(err)
			}
			if err := p.Wait(ctx); err != nil || p.ExitStatus() != 0 {
				t.Errorf("QEMU ends with %d, %v", p.ExitStatus(), err)
			}
		})
	}
}

// withoutDevice takes out the vhost-user device, which needs its other end; the
// shim's own tests in VMs have it.
func withoutDevice(args []string) (out []string, found bool) {
	for i := 0; i < len(args); i++ {
		if i+1 < len(args) && (strings.HasPrefix(args[i+1], "socket,id=vsock,") || strings.HasPrefix(args[i+1], "vhost-user-vsock")) {
			found = true
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out, found
}

// kernelFile has what QEMU looks for in a kernel: the header of the Linux x86
// boot protocol 2.12, and sectors to load.
func kernelFile(t *testing.T, folder string) string {
	t.Helper()
	b := make([]byte, 64<<10)
	b[0x1f1] = 1 // setup sectors
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	b[0x206], b[0x207] = 0x0c, 0x02
	b[0x211] = 1                        // loaded high
	copy(b[0x22c:], "\xff\xff\xff\x7f") // the highest address of an initrd
	copy(b[0x238:], "\xff\x07")         // the command line's size
	name := filepath.Join(folder, "bzImage")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

func TestValidate(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	empty := filepath.Join(folder, "empty")
	for name, content := range map[string]string{file: "x", empty: ""} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := func() vm.Spec {
		s := testSpec()
		s.Machine.Kernel, s.Machine.Initrd, s.Machine.Runtime = file, file, file
		return s
	}
	if err := Validate(good()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path   string
		change func(*vm.Spec)
	}{
		"no run":            {"run_id", func(s *vm.Spec) { s.RunID = "" }},
		"a run with lines":  {"run_id", func(s *vm.Spec) { s.RunID = "a\nb" }},
		"no port":           {"agent.port", func(s *vm.Spec) { s.Agent.Port = 0 }},
		"no address":        {"agent.address", func(s *vm.Spec) { s.Agent.Address = netip.Prefix{} }},
		"an IPv6 address":   {"agent.address", func(s *vm.Spec) { s.Agent.Address = netip.MustParsePrefix("fd00::2/64") }},
		"no gateway":        {"agent.gateway", func(s *vm.Spec) { s.Agent.Gateway = netip.Addr{} }},
		"a far gateway":     {"agent.gateway", func(s *vm.Spec) { s.Agent.Gateway = netip.MustParseAddr("10.0.3.2") }},
		"its own gateway":   {"agent.gateway", func(s *vm.Spec) { s.Agent.Gateway = s.Agent.Address.Addr() }},
		"no QEMU":           {"machine.qemu", func(s *vm.Spec) { s.Machine.QEMU = "" }},
		"no accelerator":    {"machine.accel", func(s *vm.Spec) { s.Machine.Accel = "xen" }},
		"no CPU":            {"machine.cpu", func(s *vm.Spec) { s.Machine.CPU = "" }},
		"no vCPU":           {"machine.vcpus", func(s *vm.Spec) { s.Machine.VCPUs = 0 }},
		"too many vCPUs":    {"machine.vcpus", func(s *vm.Spec) { s.Machine.VCPUs = 4097 }},
		"little memory":     {"machine.memory_mib", func(s *vm.Spec) { s.Machine.MemoryMiB = 127 }},
		"much memory":       {"machine.memory_mib", func(s *vm.Spec) { s.Machine.MemoryMiB = 1 << 30 }},
		"no kernel":         {"machine.kernel", func(s *vm.Spec) { s.Machine.Kernel = "" }},
		"a missing kernel":  {"machine.kernel", func(s *vm.Spec) { s.Machine.Kernel = file + "x" }},
		"a folder":          {"machine.initrd", func(s *vm.Spec) { s.Machine.Initrd = folder }},
		"an empty disk":     {"machine.runtime", func(s *vm.Spec) { s.Machine.Runtime = empty }},
		"a long line":       {"machine.command_line", func(s *vm.Spec) { s.Machine.CommandLine = strings.Repeat("x", 2048) }},
		"a NUL":             {"machine.command_line", func(s *vm.Spec) { s.Machine.CommandLine = "a\x00b" }},
		"no forward":        {"machine.forward", func(s *vm.Spec) { s.Machine.Forward = netip.AddrPort{} }},
		"forward from IPv6": {"machine.forward", func(s *vm.Spec) { s.Machine.Forward = netip.MustParseAddrPort("[::1]:7020") }},
		"forward of port 0": {"machine.forward", func(s *vm.Spec) { s.Machine.Forward = netip.MustParseAddrPort("127.0.0.1:0") }},
		"no way":            {"machine.vsock.way", func(s *vm.Spec) { s.Machine.Vsock.Way = "" }},
		"the host's CID":    {"machine.vsock.guest_cid", func(s *vm.Spec) { s.Machine.Vsock.GuestCID = 2 }},
		"any CID":           {"machine.vsock.guest_cid", func(s *vm.Spec) { s.Machine.Vsock.GuestCID = 1<<32 - 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			c.change(&s)
			err := Validate(s)
			if err == nil || !strings.HasPrefix(err.Error(), c.path+": ") || strings.Contains(err.Error(), "\nmachine") {
				t.Errorf("got %v, want one fault of %s", err, c.path)
			}
		})
	}
	all := Validate(vm.Spec{})
	for _, path := range []string{"run_id", "agent.port", "agent.address", "machine.qemu", "machine.accel", "machine.cpu", "machine.vcpus",
		"machine.memory_mib", "machine.kernel", "machine.initrd", "machine.forward", "machine.vsock.way", "machine.vsock.guest_cid"} {
		if !strings.Contains(all.Error(), path+": ") {
			t.Errorf("an empty specification: no word of %s in\n%v", path, all)
		}
	}
}
