package manager

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// TestLimits gives each limit exactly what it allows, and one more.
func TestLimits(t *testing.T) {
	const gib = 1 << 30
	all := Limits{MaxVMs: 4, MaxMemoryMiB: 4096, MaxVCPUs: 8, MinFreeDisk: 2 * gib}
	used := demand{vms: 3, memoryMiB: 3072, vcpus: 6, disk: 3 * gib}
	want := demand{vms: 1, memoryMiB: 1024, vcpus: 2, disk: gib}
	room, free := all, Limits{MaxScratch: NoLimit}
	room.MaxScratch = 5 * gib
	scratch := func(d demand, n int64) demand { d.scratch = n; return d }
	for name, c := range map[string]struct {
		limits     Limits
		used, want demand
		free       int64
		says       []string // of each fault, a part
	}{
		"exactly at every limit": {all, used, want, 6 * gib, nil},
		"one VM too many":        {all, demand{4, 3072, 6, 3 * gib, 0}, want, 6 * gib, []string{"4 of at most 4 VMs"}},
		"1 MiB too much":         {all, used, demand{1, 1025, 2, gib, 0}, 6 * gib, []string{"needs 1025 MiB of memory, and 3072 of at most 4096"}},
		"one virtual CPU over":   {all, used, demand{1, 1024, 3, gib, 0}, 6 * gib, []string{"needs 3 virtual CPUs, and 6 of at most 8"}},
		"one byte too few":       {all, used, want, 6*gib - 1, []string{"MANAGER_MIN_FREE_DISK"}},
		"every limit":            {all, demand{4, 3073, 7, 3 * gib, 0}, want, 5 * gib, []string{"MANAGER_MAX_VMS", "MANAGER_MAX_VM_MEMORY", "MANAGER_MAX_VCPUS", "MANAGER_MIN_FREE_DISK"}},
		"a first VM too large":   {all, demand{}, demand{1, 4097, 9, gib, 0}, 6 * gib, []string{"MANAGER_MAX_VM_MEMORY", "MANAGER_MAX_VCPUS"}},
		"less free than nothing": {all, demand{}, want, 0, []string{"MANAGER_MIN_FREE_DISK"}},
		"no limits":              {Limits{}, demand{1000, 1 << 30, 1 << 20, 1 << 50, 0}, want, 0, nil},
		"exactly all scratch":    {room, scratch(used, 2*gib), scratch(want, 3*gib), 6 * gib, nil},
		"scratch of others":      {room, scratch(used, 2*gib+1), scratch(want, 3*gib), 6 * gib, []string{"needs a scratch disk of 3072 MiB, and 2048 of at most 5120"}},
		"scratch without limit":  {free, scratch(demand{}, 1<<50), scratch(want, 1<<50), gib, nil},
		"no disk for scratch":    {free, demand{}, scratch(want, gib), gib - 1, []string{"MANAGER_MIN_FREE_DISK"}},
	} {
		t.Run(name, func(t *testing.T) {
			faults := c.limits.refuse(c.used, c.want, c.free)
			if len(faults) != len(c.says) {
				t.Fatalf("%q", FaultsError(faults))
			}
			for i, f := range faults {
				if f.Reason != NoCapacity || f.Field != "" || !strings.Contains(f.Message, c.says[i]) || !strings.Contains(f.Message, "(MANAGER_") || !strings.Contains(f.Hint, "MANAGER_") {
					t.Errorf("%+v\nexpected %q in it", f, c.says[i])
				}
			}
		})
	}
}

// TestScratchThatNoVMGets names the request's field: it is refused for good.
func TestScratchThatNoVMGets(t *testing.T) {
	for name, c := range map[string]struct {
		most int64
		says string
	}{
		"none":     {0, "is 1048576; VMs of this host have no scratch disk (MANAGER_SCRATCH_MAX)"},
		"too much": {1<<20 - 1, "is 1048576; all scratch disks of this host may have 1048575 bytes together (MANAGER_SCRATCH_MAX)"},
	} {
		faults := Limits{MaxScratch: c.most}.refuse(demand{}, demand{vms: 1, scratch: 1 << 20, disk: 1 << 20}, 1<<30)
		if len(faults) != 1 || faults[0].Reason != NoCapacity || faults[0].Field != "manifest/scratch_bytes" || faults[0].Message != c.says {
			t.Errorf("%s: %+v", name, faults)
		}
	}
}

// TestScratchOverRuns: what one VM's disk claims is not there for another until the
// VM has ended, and what it has written is not counted twice.
func TestScratchOverRuns(t *testing.T) {
	l := newLab(t, nil)
	const each = 1 << 30
	l.change = func(c *Config) { c.Host.Limits.MaxScratch = 2*each - 1 }
	stop := l.inside()
	m := testManifest()
	m.ScratchBytes = each
	raw := freeze(t, m).Raw
	ask := func(id string) {
		l.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: raw})
	}
	const second = "1b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e"
	ask(goodID)
	l.accepted(goodID)
	spec, err := vm.ReadSpec(vm.DirOf(l.state, goodID))
	if err != nil || spec.Machine.ScratchBytes != each {
		t.Errorf("the VM's scratch disk has %d bytes, %v", spec.Machine.ScratchBytes, err)
	}
	l.waitShim(goodID)
	stop()
	stop = l.inside() // an adopted VM counts, too
	ask(second)
	l.refused(second, " the VM needs a scratch disk of 1024 MiB, and 1024 of at most 2047")
	l.stop(goodID)
	ask(second)
	l.accepted(second)
	l.waitShim(second)
	l.stop(second)
	l.empty()
	stop()
}

// TestScratchInAnUnreadableFolderCounts: as large as the file is, whatever has been
// written of it.
func TestScratchInAnUnreadableFolderCounts(t *testing.T) {
	l := newLab(t, nil)
	const each = 1 << 30
	l.change = func(c *Config) { c.Host.Limits.MaxScratch = 2*each - 1 }
	stop := l.inside()
	id := l.submit()
	l.accepted(id)
	l.waitShim(id)
	stop()
	dir := vm.DirOf(l.state, id)
	put(t, string(dir), "spec.json", "{")
	put(t, string(dir), filepath.Base(dir.Scratch()), "")
	if err := os.Truncate(dir.Scratch(), each); err != nil {
		t.Fatal(err)
	}
	l.inside()
	m := testManifest()
	m.ScratchBytes = each
	l.server.Submit(&managerv1.RunRequest{RunId: goodID, Manifest: freeze(t, m).Raw})
	l.refused(goodID, "the VM needs a scratch disk of 1024 MiB, and 1024 of at most 2047")
	l.killShim()
}

// TestDemand: the firmware's variables and the disk's overlay count as what they
// can grow to.
func TestDemand(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int64) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
		return name
	}
	m := vm.Emulated()
	m.VCPUs, m.Memory.MiB = 3, 700
	bare, err := demandOf(m)
	if err != nil || bare.vms != 1 || bare.vcpus != 3 || bare.memoryMiB != 700 || bare.disk < 256<<20 {
		t.Fatalf("%+v, %v", bare, err)
	}
	m.Boot.Firmware = &vm.Firmware{Vars: vm.Flash{File: file("vars", 540672)}}
	m.Boot.Disk = &vm.Disk{Format: vm.DiskRaw, Image: file("disk", 1<<30)}
	if whole, err := demandOf(m); err != nil || whole.disk != bare.disk+540672+1<<30 {
		t.Errorf("%+v, %v", whole, err)
	}
	m.ScratchBytes = 5 << 30
	if whole, err := demandOf(m); err != nil || whole.scratch != 5<<30 || whole.disk != bare.disk+540672+6<<30 {
		t.Errorf("with a scratch disk %+v, %v", whole, err)
	}
	m.Boot.Disk.Image = filepath.Join(dir, "none")
	if _, err := demandOf(m); err == nil || !strings.Contains(err.Error(), "MANAGER_QEMU_DISK_IMG_FILE") {
		t.Errorf("%v", err)
	}
	m.Boot.Disk, m.Boot.Firmware.Vars.File = nil, filepath.Join(dir, "none")
	if _, err := demandOf(m); err == nil || !strings.Contains(err.Error(), "MANAGER_QEMU_OVMF_VARS_FILE") {
		t.Errorf("%v", err)
	}
}

// faults is how a run request was refused; none: it was accepted.
func (l *lab) faults(id string) []string {
	l.t.Helper()
	reply, _, err := l.server.Reply(l.ctx, id)
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	for _, f := range reply.GetRefusal().GetFaults() {
		out = append(out, f.GetReason()+" "+f.GetField()+" "+f.GetMessage())
	}
	return out
}

func (l *lab) accepted(id string) {
	l.t.Helper()
	if f := l.faults(id); len(f) != 0 {
		l.t.Fatalf("refused: %q", f)
	}
}

func (l *lab) refused(id, says string) {
	l.t.Helper()
	if f := l.faults(id); len(f) != 1 || !strings.HasPrefix(f[0], string(NoCapacity)+" ") || !strings.Contains(f[0], says) {
		l.t.Fatalf("faults %q; expected one with %q", f, says)
	}
}

func (l *lab) stop(id string) {
	l.t.Helper()
	for {
		err := l.server.Stop(id)
		if err == nil {
			break
		}
		if l.ctx.Err() != nil { // its Manager does not connect
			l.t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	l.complete(id)
}

// TestLimitsOverRuns: adopted VMs count, a refused request left nothing behind,
// and a VM that has ended gives its place to the next.
func TestLimitsOverRuns(t *testing.T) {
	l := newLab(t, nil)
	l.change = func(c *Config) { c.Host.Limits.MaxMemoryMiB = 3*c.Host.Machine.Memory.MiB - 1 }
	stop := l.inside()
	first, second := l.submit(), l.submit()
	l.accepted(first)
	l.accepted(second)
	third := l.submit()
	l.refused(third, "MANAGER_MAX_VM_MEMORY")
	l.resubmit(first) // what was accepted once takes no further place
	l.accepted(first)
	l.waitShim(first)
	l.waitShim(second)
	stop()
	l.change = func(c *Config) { c.Host.Limits.MaxVMs = 2 }
	stop = l.inside()
	if _, err := l.server.Hello(l.ctx, 2); err != nil {
		t.Fatal(err)
	}
	l.resubmit(third)
	l.refused(third, "2 of at most 2 VMs")
	if _, err := os.Stat(string(vm.DirOf(l.state, third))); !os.IsNotExist(err) {
		t.Errorf("a refused request left a folder: %v", err)
	}
	l.stop(first)
	l.resubmit(third)
	l.accepted(third)
	l.stop(second)
	l.stop(third)
	l.empty()
	stop()
}

// TestLastPlace: of many requests at once as many pass as there are places.
func TestLastPlace(t *testing.T) {
	l := newLab(t, nil)
	const places, many = 3, 20
	var m *Manager
	began := make(chan struct{})
	l.change = func(c *Config) {
		c.Host.Limits.MaxVCPUs = places * c.Host.Machine.VCPUs
		c.began = func(made *Manager) { m = made; close(began) }
	}
	l.inside()
	<-began
	raw := freeze(t, testManifest()).Raw
	replies := make([]Reply, many)
	var group sync.WaitGroup
	for i := range many {
		id := []byte(goodID)
		id[0], id[1] = '0'+byte(i/10), '0'+byte(i%10)
		group.Go(func() { replies[i] = m.accept(RunRequest{RunID: string(id), Manifest: raw}) })
	}
	group.Wait()
	passed := slices.DeleteFunc(slices.Clone(replies), func(r Reply) bool { return len(r.Faults) > 0 })
	if len(passed) != places {
		t.Errorf("%d of %d places were given", len(passed), places)
	}
	for _, r := range passed {
		l.waitShim(r.RunID)
		if f := m.halt(l.ctx, r.RunID, 0); len(f) > 0 {
			t.Error(FaultsError(f))
		}
		l.event(r.RunID, vm.EventRemoved)
	}
}

// TestDiskIsKept: what VMs may still write is kept for them, and what they have
// written is not counted twice.
func TestDiskIsKept(t *testing.T) {
	l := newLab(t, nil)
	want, err := demandOf(testHost("", "", "").Machine)
	if err != nil {
		t.Fatal(err)
	}
	const least = 100 << 20
	var mu sync.Mutex
	free := 2*want.disk + least
	var m *Manager
	began := make(chan struct{})
	l.change = func(c *Config) {
		c.Host.Limits.MinFreeDisk = least
		c.freeDisk = func(string) (int64, error) { mu.Lock(); defer mu.Unlock(); return free, nil }
		c.began = func(made *Manager) { m = made; close(began) }
	}
	l.inside()
	<-began
	first, second := l.submit(), l.submit()
	l.accepted(first)
	l.accepted(second)
	third := l.submit()
	l.refused(third, "MANAGER_MIN_FREE_DISK")
	// The first VM writes 8 MiB: so much less is free, and so much less kept.
	before := func() int64 { m.mu.Lock(); defer m.mu.Unlock(); return m.used().disk }
	kept := before()
	const written = 8 << 20
	if err := os.WriteFile(filepath.Join(string(vm.DirOf(l.state, first)), "console.log"), make([]byte, written), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := kept - before(); got < written || got > written+1<<20 {
		t.Errorf("writing %d bytes frees %d of what is kept", written, got)
	}
	l.waitShim(first)
	l.waitShim(second)
	l.stop(first)
	l.resubmit(third)
	l.accepted(third)
	l.waitShim(third)
	l.stop(second)
	l.stop(third)
}

func TestFreeDisk(t *testing.T) {
	if n, err := freeDisk(t.TempDir()); err != nil || n <= 0 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := freeDisk(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a folder that is not there has free disk")
	}
}

func TestTimeToLive(t *testing.T) {
	for name, c := range map[string]struct {
		asked uint32
		most  time.Duration
		want  int
		says  string
	}{
		"nothing asked, no limit":   {0, 0, 0, ""},
		"nothing asked":             {0, time.Hour, 3600, ""},
		"no limit":                  {7200, 0, 7200, ""},
		"exactly the limit":         {3600, time.Hour, 3600, ""},
		"a second too much":         {3601, time.Hour, 0, "is 3601; a VM of this host may live for 3600 seconds (MANAGER_MAX_TTL)"},
		"as much as can be":         {1<<32 - 1, 8760 * time.Hour, 0, "MANAGER_MAX_TTL"},
		"a limit of half a second":  {0, time.Second / 2, 1, ""},
		"as much as can be, no end": {1<<32 - 1, 0, 1<<32 - 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			host := testHost("qemu", "kernel", "initrd")
			host.Limits.MaxLife = c.most
			v, faults := judge(RunRequest{RunID: goodID, Manifest: freeze(t, testManifest()).Raw, TTLSeconds: c.asked}, host, testNow)
			if c.says == "" {
				if len(faults) > 0 || v.life != c.want {
					t.Errorf("%d, %s", v.life, FaultsError(faults))
				}
			} else if len(faults) != 1 || faults[0].Field != "ttl_seconds" || faults[0].Reason != NoCapacity || !strings.Contains(faults[0].Message, c.says) {
				t.Errorf("%+v", faults)
			}
		})
	}
}

func TestTraceContext(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for in, want := range map[string]string{
		"":                       "",
		good:                     good,
		good[:len(good)-1] + "0": good[:len(good)-1] + "0",
		strings.ToUpper(good):    "",
		"01" + good[2:]:          "",
		"ff" + good[2:]:          "",
		good + "-extra":          "",
		good + "\n":              "",
		good[1:]:                 "",
		strings.Replace(good, "4bf92f3577b34da6a3ce929d0e0e4736", strings.Repeat("0", 32), 1): "",
		strings.Replace(good, "00f067aa0ba902b7", strings.Repeat("0", 16), 1):                 "",
	} {
		v, faults := judge(RunRequest{RunID: goodID, Manifest: freeze(t, testManifest()).Raw, Traceparent: in}, testHost("qemu", "kernel", "initrd"), testNow)
		if len(faults) > 0 || v.trace != want {
			t.Errorf("%q: %q, %s", in, v.trace, FaultsError(faults))
		}
	}
}

// TestSpecificationHasTheRequestsTimeAndTrace goes from the stream to the disk.
func TestSpecificationHasTheRequestsTimeAndTrace(t *testing.T) {
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	l := newLab(t, nil)
	l.change = func(c *Config) { c.EOSVersion = "eos-7" }
	l.inside()
	hello, err := l.server.Hello(l.ctx, 1)
	if err != nil || hello.GetEosVersion() != "eos-7" {
		t.Errorf("%v, %v", hello, err)
	}
	l.server.Submit(&managerv1.RunRequest{RunId: goodID, Manifest: freeze(t, testManifest()).Raw, TtlSeconds: 90, Traceparent: trace})
	l.accepted(goodID)
	spec, err := vm.ReadSpec(vm.DirOf(l.state, goodID))
	if err != nil || spec.Machine.Limits.Life != 90 || spec.Trace != trace {
		t.Errorf("%+v, %q, %v", spec.Machine.Limits, spec.Trace, err)
	}
	l.waitShim(goodID)
	l.stop(goodID)
}

// TestJudgingHoldsNothingUp: while a request waits for the disk, events of other
// runs are acknowledged and their states told; a shutdown waits for it.
func TestJudgingHoldsNothingUp(t *testing.T) {
	l := newLab(t, nil)
	var m *Manager
	began := make(chan struct{})
	slow, judging, gate := false, make(chan struct{}), make(chan struct{})
	l.change = func(c *Config) {
		c.Host.Limits.MinFreeDisk = 1
		c.freeDisk = func(string) (int64, error) { // only requests look, one at a time
			if slow {
				close(judging)
				<-gate
			}
			return 1 << 40, nil
		}
		c.began = func(made *Manager) { m = made; close(began) }
	}
	l.inside()
	<-began
	first := l.submit()
	l.accepted(first)
	l.waitShim(first)
	slow = true
	second := l.submit()
	<-judging
	l.stop(first) // with all of its events
	if states := m.report(l.ctx); len(states) > 1 {
		t.Errorf("%v", states)
	}
	halted := make(chan error, 1)
	go func() { halted <- m.haltAll(l.ctx, 0) }()
	select {
	case err := <-halted:
		t.Fatalf("all was over while a run was being accepted: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(gate)
	l.accepted(second)
	if err := <-halted; err != nil {
		t.Error(err)
	}
	l.complete(second)
	l.empty()
}

// TestVMInAnUnreadableFolderCounts: it lives, though the Manager can't serve it.
func TestVMInAnUnreadableFolderCounts(t *testing.T) {
	l := newLab(t, nil)
	stop := l.inside()
	id := l.submit()
	l.accepted(id)
	l.waitShim(id)
	stop()
	put(t, string(vm.DirOf(l.state, id)), "spec.json", "{")
	l.change = func(c *Config) { c.Host.Limits.MaxVMs = 1 }
	book := &logBook{testWriter: testWriter{t}}
	l.insideLogging(book)
	if _, err := l.server.Hello(l.ctx, 2); err != nil {
		t.Fatal(err)
	}
	l.refused(l.submit(), "1 of at most 1 VMs")
	if book.count("level=ERROR", id, "repair or remove it") != 1 {
		t.Error("the operator is not told")
	}
	// Without its shim the folder takes no VM's place.
	l.killShim()
	next := l.submit()
	l.accepted(next)
	l.waitShim(next)
	l.stop(next)
}
