package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// newSimulatedVM is a VM with the simulated TEE, whose kernel and initial RAM
// disk differ.
func newSimulatedVM(t *testing.T) (vm.Dir, vm.Spec) {
	t.Helper()
	dir, spec := newVM(t, "button")
	folder := filepath.Dir(string(dir))
	m := &spec.Machine
	m.VCPUs, m.MaxVCPUs = 2, 2
	m.Boot = vm.Boot{Kernel: filepath.Join(folder, "kernel"), Initrd: filepath.Join(folder, "initrd"), CommandLine: "console=null"}
	for _, f := range []string{m.Boot.Kernel, m.Boot.Initrd} {
		if err := os.WriteFile(f, []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.TEE = &vm.TEE{Kind: vm.Simulated, LaunchField: bytes.Repeat([]byte{9}, 32), Root: filepath.Join(folder, "sim")}
	writeSpec(t, dir, spec)
	return dir, spec
}

func TestSimulatedReports(t *testing.T) {
	dir, spec := newSimulatedVM(t)
	f := startShim(t, dir, nil).follow()
	if a := f.until(vm.EventStarting).GetAttributes(); a["tee"] != "sim" || a["simulated"] != "true" {
		t.Errorf("vm.starting has %v", a)
	}
	f.until(vm.EventBooting)
	// QEMU has read its files by now: what becomes of them counts no more.
	boot := spec.Machine.Boot
	want, err := measure.Simulated(measure.Launch{Kernel: []byte(boot.Kernel), Initrd: []byte(boot.Initrd), CommandLine: boot.CommandLine, VCPUs: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(boot.Kernel, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := guestv1.NewSimulatedTEEServiceClient(dialUnix(t, guestSocket(dir, vm.ReportPort)))
	data := attest.ReportData{1, 2, 3}
	reply, err := client.Report(t.Context(), &guestv1.ReportRequest{ReportData: data[:]})
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.Parse(reply.GetReport())
	if err != nil {
		t.Fatal(err)
	}
	if r.Measurement != want || !bytes.Equal(r.HostData[:], spec.Machine.TEE.LaunchField) || r.ReportData != data {
		t.Errorf("measurement %x, host data %x, report data %x", r.Measurement, r.HostData, r.ReportData)
	}
	authority, err := sim.LoadOrCreate(spec.Machine.TEE.Root)
	if err != nil {
		t.Fatal(err)
	}
	_, root := authority.Root()
	e := attest.Evidence{Type: attest.Sim, Report: reply.GetReport(), Endorsements: attest.Endorsements{Certificates: reply.GetCertificates(), CRLs: reply.GetCrls()}}
	policy := &attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{want[:]}, HostData: []attest.Hex{spec.Machine.TEE.LaunchField},
	}
	if _, err := sim.Appraise(t.Context(), e, attest.Expected{ReportData: data}, policy, time.Now()); err != nil {
		t.Error(err)
	}
	for _, n := range []int{0, 63, 65, 3 << 10} {
		if _, err := client.Report(t.Context(), &guestv1.ReportRequest{ReportData: make([]byte, n)}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "report_data") {
			t.Errorf("%d bytes of report data: %v", n, err)
		}
	}
	if _, err := client.Report(t.Context(), &guestv1.ReportRequest{ReportData: make([]byte, 2*maxReportRequest)}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request beyond the bound: %v", err)
	}
	// The session's service is not there, and this one not on its port.
	if _, err := guestv1.NewSimulatedTEEServiceClient(dialUnix(t, guestSocket(dir, vm.SessionPort))).Report(t.Context(), &guestv1.ReportRequest{ReportData: data[:]}); status.Code(err) != codes.Unimplemented {
		t.Errorf("on the session's port: %v", err)
	}
}

func TestPlainVMsHaveNoReports(t *testing.T) {
	dir, _ := newVM(t, "button")
	f := startShim(t, dir, nil).follow()
	if a := f.until(vm.EventStarting).GetAttributes(); len(a) != 0 {
		t.Errorf("vm.starting has %v", a)
	}
	f.until(vm.EventBooting)
	if _, err := os.Stat(guestSocket(dir, vm.ReportPort)); !os.IsNotExist(err) {
		t.Errorf("the port of simulated reports is open: %v", err)
	}
}

func TestSimulatedVMThatCannotStart(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*vm.Spec)
		want   string
	}{
		"no field":        {func(s *vm.Spec) { s.Machine.TEE.LaunchField = nil }, "machine.tee.launch_field"},
		"a field cut":     {func(s *vm.Spec) { s.Machine.TEE.LaunchField = make([]byte, 31) }, "machine.tee.launch_field"},
		"no folder":       {func(s *vm.Spec) { s.Machine.TEE.Root = "" }, "machine.tee.root"},
		"a folder inside": {func(s *vm.Spec) { s.Machine.TEE.Root = "/nowhere/sim" }, "/nowhere/sim"},
		"keys of another": {func(s *vm.Spec) { s.Machine.TEE.Root = filepath.Dir(s.Machine.Boot.Kernel) }, "simulated TEE's keys"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, spec := newSimulatedVM(t)
			c.change(&spec)
			writeSpec(t, dir, spec)
			e := startShim(t, dir, nil).follow().until(vm.EventExited)
			if e.GetAttributes()["exit_status"] != "127" || !strings.Contains(e.GetMessage(), c.want) {
				t.Errorf("got %v, want %q in it", e, c.want)
			}
		})
	}
}

// A guest that nobody can look at is told of as what it is.
func TestSilentGuestWithATEE(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*vm.Spec)
		want   string
	}{
		"without firmware": {func(*vm.Spec) {}, "no console"},
		"measuring firmware": {func(s *vm.Spec) {
			b := &s.Machine.Boot
			b.BIOS, b.BIOSDigest = b.Kernel, manifest.Sum([]byte(b.Kernel)) // which it contains
			s.Machine.Boot.HashTable = &vm.HashTable{Address: 0x810c00, Content: measure.HashTable(nil, nil, "")}
		}, "measured boot refused"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, spec := newSimulatedVM(t)
			spec.Machine.Limits.Ready = 1
			c.change(&spec)
			writeSpec(t, dir, spec)
			f := startShim(t, dir, nil).follow()
			if e := f.until(vm.EventSilent); !strings.Contains(e.GetAttributes()["reason"], c.want) {
				t.Errorf("got %v", e)
			}
			if e := f.until(vm.EventExited); strings.Contains(e.GetMessage(), guestGaveUp) {
				t.Errorf("got %v", e)
			}
		})
	}
}

// An attested guest that refuses its machine powers off before it dials.
func TestGuestThatGivesUp(t *testing.T) {
	powerOff := `say {"timestamp": {"seconds": 1, "microseconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`
	for name, dials := range map[string]bool{"before it dials": false, "afterwards": true} {
		t.Run(name, func(t *testing.T) {
			dir, _ := newSimulatedVM(t)
			f := startShim(t, dir, nil).follow()
			f.until(vm.EventBooting)
			if dials {
				dialGuest(t, dir)
			}
			control(t, dir, powerOff)
			control(t, dir, "exit 0")
			e := f.until(vm.EventExited)
			if e.GetAttributes()["reason"] != guestShutdown || strings.Contains(e.GetMessage(), guestGaveUp) == dials {
				t.Errorf("got %v", e)
			}
		})
	}
}
