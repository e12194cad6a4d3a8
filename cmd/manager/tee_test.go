package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/hal/ovmf/ovmftest"
	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

const biosSet = biosVar + "=/fw/OVMF.amdsev.fd"

// TestTEEsThatCannotBe: every value is right in itself.
func TestTEEsThatCannotBe(t *testing.T) {
	data := "MANAGER_QEMU_HOST_DATA=" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, c := range map[string]struct {
		environ []string
		says    []string
	}{
		"two": {[]string{"MANAGER_QEMU_ENABLE_SEV=true", "MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet},
			[]string{`MANAGER_QEMU_ENABLE_SEV="true" and MANAGER_QEMU_ENABLE_SEV_SNP="true" are 2 TEEs`}},
		"three": {[]string{"MANAGER_QEMU_ENABLE_TDX=true", "MANAGER_QEMU_ENABLE_SGX=true", "MANAGER_QEMU_ENABLE_SIM=true"},
			[]string{"MANAGER_QEMU_ENABLE_TDX", "MANAGER_QEMU_ENABLE_SGX", "MANAGER_QEMU_ENABLE_SIM", "3 TEEs"}},
		"SEV without firmware":    {[]string{"MANAGER_QEMU_ENABLE_SEV=true"}, []string{`MANAGER_QEMU_ENABLE_SEV="true" needs ` + biosVar}},
		"ES without firmware":     {[]string{"MANAGER_QEMU_ENABLE_SEV_ES=true"}, []string{"MANAGER_QEMU_ENABLE_SEV_ES", biosVar}},
		"SNP without firmware":    {[]string{"MANAGER_QEMU_ENABLE_SEV_SNP=true"}, []string{"MANAGER_QEMU_ENABLE_SEV_SNP", biosVar}},
		"TDX without firmware":    {[]string{"MANAGER_QEMU_ENABLE_TDX=true"}, []string{"MANAGER_QEMU_ENABLE_TDX", biosVar}},
		"firmware without a TEE":  {[]string{biosSet}, []string{biosVar, "needs a TEE that measures"}},
		"firmware for SGX":        {[]string{biosSet, "MANAGER_QEMU_ENABLE_SGX=true"}, []string{biosVar, "needs a TEE that measures"}},
		"two firmwares":           {[]string{biosSet, "MANAGER_QEMU_ENABLE_SEV_SNP=true", "MANAGER_QEMU_OVMF_CODE_FILE=/c"}, []string{"MANAGER_QEMU_OVMF_CODE_FILE"}},
		"hashes without a TEE":    {[]string{hashVar + "=true"}, []string{hashVar, "needs a TEE"}},
		"hashes with SGX":         {[]string{hashVar + "=true", "MANAGER_QEMU_ENABLE_SGX=true"}, []string{hashVar, "needs a TEE"}},
		"no hashes with SNP":      {[]string{hashVar + "=false", "MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet}, []string{hashVar + `="false"`, "unmeasured", "MANAGER_QEMU_ENABLE_SEV_SNP"}},
		"no hashes with SEV":      {[]string{hashVar + "=false", "MANAGER_QEMU_ENABLE_SEV=true", biosSet}, []string{"unmeasured"}},
		"no hashes with sim":      {[]string{hashVar + "=false", "MANAGER_QEMU_ENABLE_SIM=true"}, []string{"unmeasured"}},
		"host data without a TEE": {[]string{data}, []string{"MANAGER_QEMU_HOST_DATA", "MANAGER_QEMU_ENABLE_SEV_SNP=true"}},
		"host data with TDX":      {[]string{data, "MANAGER_QEMU_ENABLE_TDX=true", biosSet}, []string{"MANAGER_QEMU_HOST_DATA", "is a field of SEV-SNP"}},
		"host data with SEV":      {[]string{data, "MANAGER_QEMU_ENABLE_SEV=true", biosSet}, []string{"MANAGER_QEMU_HOST_DATA"}},
		"a disk":                  {[]string{"MANAGER_QEMU_DISK_IMG_FILE=d", "MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet}, []string{"MANAGER_QEMU_DISK_IMG_FILE", "MANAGER_QEMU_ENABLE_SEV_SNP"}},
		"a disk with sim":         {[]string{"MANAGER_QEMU_DISK_IMG_FILE=d", "MANAGER_QEMU_ENABLE_SIM=true"}, []string{"MANAGER_QEMU_DISK_IMG_FILE", "MANAGER_QEMU_ENABLE_SIM"}},
		"no KVM":                  {[]string{"MANAGER_QEMU_ENABLE_KVM=false", "MANAGER_QEMU_ENABLE_SGX=true"}, []string{"MANAGER_QEMU_ENABLE_KVM", "MANAGER_QEMU_ENABLE_SGX"}},
	} {
		_, err := parse(c.environ)
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v\nexpected %q in it", name, err, says)
			}
		}
	}
	for _, environ := range [][]string{
		{"MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet, hashVar + "=true", data},
		{"MANAGER_QEMU_ENABLE_SIM=true", hashVar + "=true", data, "MANAGER_QEMU_ENABLE_KVM=false"},
		{"MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet, "MANAGER_QEMU_OVMF_CODE_FILE=none"},
		{"MANAGER_QEMU_ENABLE_TDX=true", biosSet, hashVar + "=auto"},
		{"MANAGER_QEMU_ENABLE_SGX=true", hashVar + "=false"},
	} {
		if _, err := parse(environ); err != nil {
			t.Errorf("%q: %v", environ, err)
		}
	}
}

// TestMachineTEE: what is set comes out in the machine, and what is not set is
// the TEE's own.
func TestMachineTEE(t *testing.T) {
	for name, c := range map[string]struct {
		environ []string
		want    vm.TEE
		cpu     string
		maxCPUs int
		slots   int
	}{
		"SEV": {[]string{"MANAGER_QEMU_ENABLE_SEV=true", biosSet, "MANAGER_QEMU_SEV_CBITPOS=47"},
			vm.TEE{Kind: vm.SEV, ID: "sev0", CBitPos: 47, ReducedPhysBits: 1, Policy: 1}, "EPYC-v4", 4, 0},
		"ES": {[]string{"MANAGER_QEMU_ENABLE_SEV_ES=true", biosSet, "MANAGER_QEMU_SEV_CBITPOS=51", "MANAGER_QEMU_SEV_REDUCED_PHYS_BITS=5"},
			vm.TEE{Kind: vm.SEVES, ID: "sev0", CBitPos: 51, ReducedPhysBits: 5, Policy: 5}, "EPYC-v4", 4, 0},
		"ES with a policy": {[]string{"MANAGER_QEMU_ENABLE_SEV_ES=true", biosSet, "MANAGER_QEMU_SEV_CBITPOS=51", "MANAGER_QEMU_SEV_POLICY=0x7"},
			vm.TEE{Kind: vm.SEVES, ID: "sev0", CBitPos: 51, ReducedPhysBits: 1, Policy: 7}, "EPYC-v4", 4, 0},
		"SNP": {[]string{"MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet, "MANAGER_QEMU_SEV_ID=snp9", "MANAGER_QEMU_SEV_CBITPOS=51", "MANAGER_QEMU_SNP_POLICY=0x130000", "MANAGER_QEMU_CPU=EPYC-Milan"},
			vm.TEE{Kind: vm.SEVSNP, ID: "snp9", CBitPos: 51, ReducedPhysBits: 1, Policy: 0x130000}, "EPYC-Milan", 4, 0},
		"TDX": {[]string{"MANAGER_QEMU_ENABLE_TDX=true", biosSet, "MANAGER_QEMU_TDX_ID=td", "MANAGER_QEMU_TDX_QUOTE_SERVICE=vsock:2:4050"},
			vm.TEE{Kind: vm.TDX, ID: "td", QuoteService: "vsock:2:4050"}, "host", 4, 0},
		"TDX without quotes": {[]string{"MANAGER_QEMU_ENABLE_TDX=true", biosSet, "MANAGER_QEMU_TDX_QUOTE_SERVICE=none", "MANAGER_QEMU_SMP_MAXCPUS=8", "MANAGER_QEMU_MEMORY_SLOTS=2"},
			vm.TEE{Kind: vm.TDX, ID: "tdx0"}, "host", 8, 2}, // what is set stands, and Validate refuses it
		"SGX": {[]string{"MANAGER_QEMU_ENABLE_SGX=true", "MANAGER_QEMU_SGX_EPC_SIZE=1G"}, vm.TEE{Kind: vm.SGX, EPCMiB: 1024}, "host", 64, 5},
		"sim": {[]string{"MANAGER_QEMU_ENABLE_SIM=true"}, vm.TEE{Kind: vm.Simulated, Root: "/state/sim"}, "EPYC", 64, 5},
	} {
		s, err := parse(c.environ)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, m := s.machineTEE("/state"), s.machine
		s.teeDefaults(&m)
		if got == nil || got.Kind != c.want.Kind || got.ID != c.want.ID || got.CBitPos != c.want.CBitPos || got.ReducedPhysBits != c.want.ReducedPhysBits ||
			got.Policy != c.want.Policy || got.QuoteService != c.want.QuoteService || got.EPCMiB != c.want.EPCMiB || got.Root != c.want.Root {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if m.CPU != c.cpu || m.MaxVCPUs != c.maxCPUs || m.Memory.Slots != c.slots {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if s, err := parse(nil); err != nil || s.machineTEE("/state") != nil {
		t.Errorf("plain VMs: %v", err)
	}
	s, err := parse([]string{"MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet})
	if err != nil || s.machineTEE("/").CBitPos < 1 {
		t.Errorf("the CPU's encryption bit: %v, %+v", err, s.machineTEE("/"))
	}
}

// TestSimulatedTEE: the Manager starts without KVM, and VMs get the command line
// of a guest that is attested.
func TestSimulatedTEE(t *testing.T) {
	environ := machineEnviron(t, "MANAGER_QEMU_ENABLE_SIM=true")
	s, err := parse(environ)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cfg, err := configure(t.Context(), s, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	m := cfg.Host.Machine
	if m.TEE == nil || m.TEE.Root != filepath.Join(cfg.StateDir, "sim") || !strings.HasPrefix(m.Boot.CommandLine, "console=null ") {
		t.Errorf("%+v", m)
	}
	if !strings.Contains(log.String(), "SIMULATED") {
		t.Errorf("the log says nothing: %s", &log)
	}
	if got := cfg.Host.TEEs(); len(got) != 1 || got[0] != "sim" {
		t.Errorf("%q", got)
	}
}

// TestTEEOfAnImpossibleMachine: each value is right in itself, but not with the
// TEE; the error names the variable.
func TestTEEOfAnImpossibleMachine(t *testing.T) {
	for entry, says := range map[string]string{
		"MANAGER_QEMU_NO_GRAPHIC=false":                         "MANAGER_QEMU_NO_GRAPHIC: is false",
		"MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE=" + machineFile(t): "MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE: is set",
	} {
		s, err := parse(machineEnviron(t, "MANAGER_QEMU_ENABLE_SIM=true", entry))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := configure(t.Context(), s, discard); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v\nexpected %q in it", entry, err, says)
		}
	}
	// With memory that is encrypted; the host itself is not looked at.
	for entry, says := range map[string]string{
		"MANAGER_QEMU_CPU=host":                            "MANAGER_QEMU_CPU: ",
		"MANAGER_QEMU_SMP_MAXCPUS=64":                      "MANAGER_QEMU_SMP_MAXCPUS: ",
		"MANAGER_QEMU_MEMORY_SLOTS=5":                      "MANAGER_QEMU_MEMORY_SLOTS: ",
		"MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY=off":   "MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY: ",
		"MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM=false": "MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM: ",
		"MANAGER_QEMU_SNP_POLICY=0x10000":                  "MANAGER_QEMU_SNP_POLICY: ",
		"MANAGER_QEMU_SEV_ID=ram1":                         "MANAGER_QEMU_SEV_ID: ",
	} {
		s, err := parse([]string{"MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet, entry})
		if err != nil {
			t.Fatal(err)
		}
		m := s.machine
		s.teeDefaults(&m)
		m.TEE, m.Boot.BIOS = s.machineTEE("/"), s.tee.bios
		var all []string
		for _, err := range machineFaults(manager.Host{Machine: m, Forward: s.forward, GuestPort: s.guestPort}, "/") {
			all = append(all, err.Error())
		}
		if text := strings.Join(all, "\n"); !strings.Contains(text, says) {
			t.Errorf("%s: no %q in\n%s", entry, says, text)
		}
	}
}

func machineFile(t *testing.T) string { return put(t, t.TempDir(), "rom", "rom") }

// TestTEENeedsItsQEMU: a host with a QEMU that is too old is refused by name.
func TestTEENeedsItsQEMU(t *testing.T) {
	for _, c := range []struct {
		on      string
		version qemu.Version
		needs   string
	}{
		{"MANAGER_QEMU_ENABLE_SEV", qemu.Version{Major: 9}, "QEMU 9.1"},
		{"MANAGER_QEMU_ENABLE_SEV_SNP", qemu.Version{Major: 7, Minor: 2}, "QEMU 9.1"},
		{"MANAGER_QEMU_ENABLE_TDX", qemu.Version{Major: 10, Micro: 2}, "QEMU 10.1"},
	} {
		s, err := parse([]string{c.on + "=true", biosSet})
		if err != nil {
			t.Fatal(err)
		}
		err = findTEE(&vm.Machine{}, s, "/state", hal.Image{}, c.version, discard)
		if err == nil || !strings.Contains(err.Error(), c.needs) || !strings.Contains(err.Error(), c.on) || !strings.Contains(err.Error(), "MANAGER_QEMU_BIN_PATH") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	// A firmware that compares hashes wants the kernel as it is, which QEMU hands
	// it since 10.0.
	for version, want := range map[qemu.Version]bool{{Major: 9, Minor: 2}: false, {Major: 10}: true} {
		s, err := parse([]string{"MANAGER_QEMU_ENABLE_SIM=true", biosSet})
		if err != nil {
			t.Fatal(err)
		}
		err = findTEE(&vm.Machine{}, s, "/state", hal.Image{}, version, discard)
		if old := err != nil && strings.Contains(err.Error(), "QEMU 10.0"); old == want {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// TestTEENeedsKVM: emulation is no way out for a TEE; a command line can be
// looked at all the same.
func TestTEENeedsKVM(t *testing.T) {
	s, err := parse([]string{"MANAGER_QEMU_ENABLE_SEV_SNP=true", biosSet, "MANAGER_QEMU_BIN_PATH=" + fakeQEMU(t, "10.0.2")})
	if err != nil {
		t.Fatal(err)
	}
	var m vm.Machine
	if _, err := findQEMU(t.Context(), &m, s, discard); err == nil || !strings.Contains(err.Error(), `MANAGER_QEMU_ENABLE_SEV_SNP="true" needs KVM`) {
		t.Errorf("%v", err)
	}
	s.printing = true
	var log bytes.Buffer
	if _, err := findQEMU(t.Context(), &m, s, slog.New(slog.NewTextHandler(&log, nil))); err != nil || m.Accel != vm.AccelKVM || !strings.Contains(log.String(), "could not run the VM") {
		t.Errorf("%v, %s, %s", err, m.Accel, &log)
	}
}

// TestLookAround: what the host can do is found beside the start, what fails is
// logged, and nothing goes on when it was told to end.
func TestLookAround(t *testing.T) {
	s, err := parse(machineEnviron(t, "MANAGER_QEMU_BIN_PATH=/no/such/qemu"))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	ask, done := lookAround(t.Context(), s, slog.New(slog.NewTextHandler(&log, nil)))
	verdicts := map[string]string{}
	for _, f := range ask(t.Context()) {
		verdicts[f.Name] = f.Verdict
	}
	done()
	if verdicts["qemu"] != "fail" || verdicts["tee"] != "info" || verdicts["sev-snp"] == "" || verdicts["server"] != "" {
		t.Errorf("%v", verdicts)
	}
	if !strings.Contains(log.String(), "row=qemu") || strings.Contains(log.String(), "row=tee") {
		t.Errorf("the log: %s", &log)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	ask, done = lookAround(ended, s, discard)
	defer done()
	if found := ask(t.Context()); len(found) != 0 {
		t.Errorf("it was told to end, and yet: %v", found)
	}
}

// TestFirmwareIsJudgedOnce: what was judged is what VMs are held to, by its digest.
func TestFirmwareIsJudgedOnce(t *testing.T) {
	content := ovmftest.Default().Make().Bytes
	file := put(t, t.TempDir(), "OVMF.fd", string(content))
	m := vm.Machine{TEE: &vm.TEE{Kind: vm.TDX}}
	if err := findBIOS(&m, file); err != nil || m.Boot.BIOS != file || m.Boot.BIOSDigest != manifest.Sum(content) {
		t.Errorf("%+v, %v", m.Boot, err)
	}
	m = vm.Machine{TEE: &vm.TEE{Kind: vm.SEVSNP}}
	if err := findBIOS(&m, file); err == nil || m.Boot.BIOSDigest != (manifest.Digest{}) {
		t.Errorf("one that is refused: %+v, %v", m.Boot, err)
	}
}

// TestHashTable: the firmware of a simulated TEE gets the hashes that QEMU would
// give one of a real TEE.
func TestHashTable(t *testing.T) {
	dir := t.TempDir()
	b := vm.Boot{Kernel: put(t, dir, "kernel", "k"), Initrd: put(t, dir, "initrd", "i"), CommandLine: "c"}
	table, err := hashTable(b, 0x810c00)
	if err != nil || table.Address != 0x810c00 || !bytes.Equal(table.Content, measure.HashTable([]byte("k"), []byte("i"), "c")) {
		t.Errorf("%+v, %v", table, err)
	}
	for says, b := range map[string]vm.Boot{"the kernel": {Kernel: "/none", Initrd: b.Initrd}, "the initial RAM disk": {Kernel: b.Kernel, Initrd: "/none"}} {
		if _, err := hashTable(b, 1); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
