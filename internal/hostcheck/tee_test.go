package hostcheck

import (
	"encoding/binary"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// teeHost is one on which a kind of TEE lacks nothing, and that is set to it.
func teeHost(t *testing.T, h *host, c *Config, kind vm.TEEKind) {
	t.Helper()
	c.TEE = TEE{Kind: kind, Switch: `MANAGER_QEMU_ENABLE_X="true"`, CBitPos: 51, QuoteService: "unix:/run/qgs.socket", EPCMiB: 64}
	switch kind {
	case vm.SEV, vm.SEVES, vm.SEVSNP:
		h.cpuTEE = func() cpuTEE { return cpuTEE{SEV: true, SEVES: true, SEVSNP: true, CBit: 51, ReducedBits: 5} }
		h.vmTypes = func() (uint64, error) { return 0b011111, nil }
		for _, p := range []string{"sev", "sev_es", "sev_snp"} {
			h.put(t, "sys/module/kvm_amd/parameters/"+p, "Y\n")
		}
		h.put(t, "sys/fs/cgroup/misc.capacity", "sev 410\nsev_es 99\n")
		h.put(t, "sys/fs/cgroup/misc.current", "sev 10\nsev_es 3\n")
	case vm.TDX:
		h.cpuTEE = func() cpuTEE { return cpuTEE{TDX: true} }
		h.vmTypes = func() (uint64, error) { return 0b100001, nil }
		h.put(t, "sys/module/kvm_intel/parameters/tdx", "Y\n")
		h.put(t, "sys/fs/cgroup/misc.capacity", "tdx 31\n")
		h.put(t, "run/x", "")
		l, err := net.Listen("unix", h.path("run/qgs.socket"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	case vm.SGX:
		h.cpuTEE = func() cpuTEE { return cpuTEE{SGX: true, SGXLaunchControl: true, EPC: 128 << 20} }
	}
}

// TestTEEs: on a host that lacks nothing, and with one thing lacking at a time,
// in the order in which a host is set up.
func TestTEEs(t *testing.T) {
	cpu := func(change func(*cpuTEE)) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) {
			c := h.cpuTEE()
			change(&c)
			h.cpuTEE = func() cpuTEE { return c }
		}
	}
	file := func(name, text string) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, _ *Config) { h.put(t, name, text) }
	}
	gone := func(name string) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, _ *Config) {
			if err := os.RemoveAll(h.path(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	device := func(name string, err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) {
			h.open = func(opened string, flag int) error {
				if opened == h.path(name) && flag == os.O_RDWR {
					return err
				}
				return nil
			}
		}
	}
	types := func(n uint64, err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) { h.vmTypes = func() (uint64, error) { return n, err } }
	}
	status := func(s snpState, err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) { h.snpStatus = func() (snpState, error) { return s, err } }
	}
	set := func(change func(*TEE)) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, _ *host, c *Config) { change(&c.TEE) }
	}
	for name, c := range map[string]struct {
		kind   vm.TEEKind
		change func(*testing.T, *host, *Config)
		want   want
	}{
		"SEV":                {vm.SEV, nil, want{Warn, "400 of 410 sev left; it vouches for no VM", "SEV-SNP or TDX", ""}},
		"SEV-ES":             {vm.SEVES, nil, want{Warn, "96 of 99 sev_es left", "", ""}},
		"SEV-SNP":            {vm.SEVSNP, nil, want{OK, "encryption bit 51, 5 physical address bits less, SNP API 1.55 build 24, 2 guests, 96 of 99 sev_es left", "", ""}},
		"no SNP in the CPU":  {vm.SEVSNP, cpu(func(c *cpuTEE) { c.SEVSNP = false }), want{Fail, "the CPU has no sev-snp", "MANAGER_QEMU_ENABLE_X", "EPYC 7003"}},
		"no SEV in the CPU":  {vm.SEV, cpu(func(c *cpuTEE) { c.SEV = false }), want{Fail, "the CPU has no sev,", "", "firmware's setup"}},
		"no ES in the CPU":   {vm.SEVES, cpu(func(c *cpuTEE) { c.SEVES = false }), want{Fail, "the CPU has no sev-es", "", "EPYC 7002"}},
		"no module":          {vm.SEVSNP, gone("sys/module"), want{Fail, "kvm_amd is not loaded", "", "modprobe kvm_amd"}},
		"an old module":      {vm.SEVSNP, gone("sys/module/kvm_amd/parameters/sev_snp"), want{Fail, "no parameter sev_snp", "6.11", "boot such a kernel"}},
		"switched off":       {vm.SEVSNP, file("sys/module/kvm_amd/parameters/sev_snp", "N\n"), want{Fail, "/sys/module/kvm_amd/parameters/sev_snp is N", "Y", "options kvm_amd sev_snp=1"}},
		"ES by number":       {vm.SEVES, file("sys/module/kvm_amd/parameters/sev_es", "1\n"), want{Warn, "ready", "", ""}},
		"ES switched off":    {vm.SEVES, file("sys/module/kvm_amd/parameters/sev_es", "0\n"), want{Fail, "sev_es is 0", "", ""}},
		"an old KVM":         {vm.SEVSNP, types(0b001111, nil), want{Fail, "KVM has no VMs of the type sev-snp", "Linux 6.11", "boot"}},
		"KVM without SEV":    {vm.SEV, types(0b011011, nil), want{Fail, "KVM has no VMs of the type sev", "Linux 6.10", ""}},
		"no KVM":             {vm.SEVSNP, types(0, fs.ErrPermission), want{Fail, "KVM does not tell", "", "row kvm"}},
		"no /dev/sev":        {vm.SEVSNP, device("dev/sev", fs.ErrNotExist), want{Fail, "there is no /dev/sev", "", "dmesg | grep -i ccp"}},
		"/dev/sev is closed": {vm.SEVSNP, device("dev/sev", fs.ErrPermission), want{Fail, "user cocos may not open /dev/sev", "", "usermod -aG kvm cocos"}},
		"/dev/sev fails":     {vm.SEV, device("dev/sev", unix.EIO), want{Fail, "input/output error", "", "dmesg"}},
		"another C-bit":      {vm.SEVSNP, set(func(t *TEE) { t.CBitPos = 47 }), want{Fail, "MANAGER_QEMU_SEV_CBITPOS is 47", "51", "unset it"}},
		"not initialised":    {vm.SEVSNP, status(snpState{}, nil), want{Fail, "SEV-SNP is not initialised", "INIT", "modprobe"}},
		"no status":          {vm.SEVSNP, status(snpState{}, unix.ENOTTY), want{Fail, "does not tell its state", "SNP_PLATFORM_STATUS", ""}},
		"SEV needs none":     {vm.SEV, status(snpState{}, unix.ENOTTY), want{Warn, "ready", "", ""}},
		"no ASID left":       {vm.SEVSNP, file("sys/fs/cgroup/misc.current", "sev_es 99\n"), want{Fail, "all 99 sev_es of this host are in use", "one for a VM", "end VMs"}},
		"no ASIDs at all":    {vm.SEV, file("sys/fs/cgroup/misc.capacity", "sev 0\n"), want{Fail, "all 0 sev", "", ""}},
		"ASIDs not counted":  {vm.SEVSNP, gone("sys/fs/cgroup"), want{OK, "2 guests", "", ""}},

		"TDX":               {vm.TDX, nil, want{OK, "the quote service is at /run/qgs.socket, 31 of 31 tdx left", "", ""}},
		"no TDX in the CPU": {vm.TDX, cpu(func(c *cpuTEE) { c.TDX = false }), want{Fail, "the CPU has no tdx", "", "5th generation"}},
		"TDX switched off":  {vm.TDX, file("sys/module/kvm_intel/parameters/tdx", "N\n"), want{Fail, "tdx is N", "", "options kvm_intel tdx=1"}},
		"KVM without TDX":   {vm.TDX, types(1, nil), want{Fail, "KVM has no VMs of the type tdx", "6.16", ""}},
		"no quotes":         {vm.TDX, set(func(t *TEE) { t.QuoteService = "" }), want{Fail, "QUOTE_SERVICE=none", "attest", "qgsd"}},
		"no quote service":  {vm.TDX, gone("run/qgs.socket"), want{Fail, "the quote service is not there", "", "qgsd"}},
		"a file for it":     {vm.TDX, func(t *testing.T, h *host, c *Config) { h.put(t, "run/q", "x"); c.TEE.QuoteService = "unix:/run/q" }, want{Fail, "/run/q is not a socket", "", ""}},
		"a closed one":      {vm.TDX, func(_ *testing.T, h *host, _ *Config) { h.access = func(string, uint32) error { return unix.EACCES } }, want{Fail, "may not reach the quote service", "", "usermod"}},
		"one over vsock":    {vm.TDX, set(func(t *TEE) { t.QuoteService = "vsock:2:4050" }), want{OK, "vsock:2:4050 (not tried)", "", ""}},
		"one nowhere":       {vm.TDX, set(func(t *TEE) { t.QuoteService = "tcp:1" }), want{Fail, "QUOTE_SERVICE", "", ""}},

		"SGX":               {vm.SGX, nil, want{Warn, "128 MiB of enclave page cache; it vouches for no VM", "", ""}},
		"no SGX in the CPU": {vm.SGX, cpu(func(c *cpuTEE) { c.SGX = false }), want{Fail, "the CPU has no sgx", "", "3rd generation"}},
		"no launch control": {vm.SGX, cpu(func(c *cpuTEE) { c.SGXLaunchControl = false }), want{Fail, "no flexible launch control", "", ""}},
		"no vepc":           {vm.SGX, device("dev/sgx_vepc", fs.ErrNotExist), want{Fail, "there is no /dev/sgx_vepc", "", "sgx"}},
		"provision closed":  {vm.SGX, device("dev/sgx_provision", unix.EACCES), want{Fail, "may not open /dev/sgx_provision", "", ""}},
		"too little":        {vm.SGX, set(func(t *TEE) { t.EPCMiB = 129 }), want{Fail, "128 MiB of enclave page cache are left", "129 MiB for one VM", "MANAGER_QEMU_SGX_EPC_SIZE"}},
		"what nodes have": {vm.SGX, func(t *testing.T, h *host, _ *Config) {
			h.put(t, "sys/devices/system/node/node0/x86/sgx_total_bytes", "1048576\n")
			h.put(t, "sys/devices/system/node/node1/x86/sgx_total_bytes", "1048576\n")
		}, want{Fail, "2 MiB of enclave page cache are left", "", ""}},
		"in use": {vm.SGX, file("sys/fs/cgroup/misc.current", "sgx_epc 134217728\n"), want{Fail, "0 KiB of enclave page cache are left", "", ""}},

		"simulated": {vm.Simulated, nil, want{Warn, "SIMULATED", "", "MANAGER_QEMU_ENABLE_SIM"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, conf := goodHost(t), goodConfig(t)
			teeHost(t, h, &conf, c.kind)
			if c.change != nil {
				c.change(t, h, &conf)
			}
			var got *Finding
			for _, f := range tees(t.Context(), h, conf) {
				if f.Name == string(c.kind) {
					got = &f
				} else if f.Verdict != Info {
					t.Errorf("%s is not asked for, and yet: %+v", f.Name, f)
				}
			}
			if got == nil {
				t.Fatal("nothing is said of it")
			}
			if got.Verdict != c.want.verdict || !strings.Contains(got.Found, c.want.found) || !strings.Contains(got.Needed, c.want.needs) || !strings.Contains(got.Mend, c.want.mend) {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
			if got.Verdict == Fail && (got.Mend == "" || !strings.Contains(got.Needed, conf.TEE.Switch)) {
				t.Errorf("%+v", *got)
			}
		})
	}
}

// TestTEEsNotAskedFor are told of and fail nothing.
func TestTEEsNotAskedFor(t *testing.T) {
	h, c := goodHost(t), goodConfig(t)
	teeHost(t, h, &c, vm.SEVSNP)
	c.TEE = TEE{}
	found := tees(t.Context(), h, c)
	text := ""
	for _, f := range found {
		if f.Verdict != Info {
			t.Errorf("%+v", f)
		}
		text += f.Name + ": " + f.Found + "\n"
	}
	for _, want := range []string{": none is switched on", "sev-snp: can be launched: CPU, kernel and KVM are ready", "not switched on", "tdx: can't be launched"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestTEEWantsKVM: with a TEE emulation is a failure.
func TestTEEWantsKVM(t *testing.T) {
	runCases(t, kvm, map[string]probeCase{
		"SNP": {func(_ *testing.T, h *host, c *Config) {
			c.TEE = TEE{Kind: vm.SEVSNP, Switch: "MANAGER_X"}
			h.open = func(string, int) error { return fs.ErrNotExist }
		}, []want{{Fail, "no /dev/kvm", "MANAGER_X", "modprobe kvm_amd"}}},
		"simulated": {func(_ *testing.T, h *host, c *Config) {
			c.TEE = TEE{Kind: vm.Simulated}
			h.open = func(string, int) error { return fs.ErrNotExist }
		}, []want{{Warn, "VMs are emulated", "", ""}}},
	})
}

// TestTEEWantsItsQEMU: its version and its object.
func TestTEEWantsItsQEMU(t *testing.T) {
	with := func(kind vm.TEEKind, old, new string) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, c *Config) {
			program(old, new)(t, h, c)
			c.TEE = TEE{Kind: kind, Switch: "MANAGER_X"}
		}
	}
	runCases(t, qemuProgram, map[string]probeCase{
		"SNP":           {with(vm.SEVSNP, "memory-backend-memfd", "memory-backend-memfd sev-snp-guest"), []want{{OK, "QEMU 10.0.2", "", ""}}},
		"no SNP object": {with(vm.SEVSNP, "", ""), []want{{Fail, `no object "sev-snp-guest"`, "MANAGER_X", "apt install"}}},
		"no SEV object": {with(vm.SEVES, "", ""), []want{{Fail, `no object "sev-guest"`, "MANAGER_X", ""}}},
		"SGX":           {with(vm.SGX, "", ""), []want{{OK, "QEMU 10.0.2", "", ""}}},
		"too old":       {with(vm.TDX, "memory-backend-memfd", "memory-backend-memfd tdx-guest"), []want{{Fail, "QEMU 10.0.2 has no tdx-guest", "MANAGER_X", "backports"}}},
	})
}

// testFirmware is one with the tables that are asked for and nothing else: the
// GUIDed table before the last 32 bytes (edk2, OvmfPkg/ResetVector).
func testFirmware(t *testing.T, snp, hashes, tdx bool) string {
	t.Helper()
	const size = 64 << 10
	b := make([]byte, size)
	end := size - 32
	put := func(data []byte, guid string) {
		id := guidBytes(t, guid)
		copy(b[end-16:], id)
		binary.LittleEndian.PutUint16(b[end-18:], uint16(len(data)+18))
		copy(b[end-18-len(data):], data)
		end -= len(data) + 18
	}
	footer := end
	end -= 18
	if hashes {
		put(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 0x810c00), 0x400), "7255371f-3a3b-4b04-927b-1da6efa8d454")
	}
	if snp {
		at := 0x1000
		meta := append([]byte("ASEV"), 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
		binary.LittleEndian.PutUint32(meta[4:], 16+12)
		meta = binary.LittleEndian.AppendUint32(meta, 0x800000)
		meta = binary.LittleEndian.AppendUint32(meta, 0x9000)
		meta = binary.LittleEndian.AppendUint32(meta, 1)
		copy(b[at:], meta)
		put(binary.LittleEndian.AppendUint32(nil, uint32(size-at)), "dc886566-984a-4798-a75e-5585a7bf67cc")
	}
	if tdx {
		at := 0x2000
		meta := append([]byte("TDVF"), 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
		binary.LittleEndian.PutUint32(meta[4:], 16+32)
		section := make([]byte, 32)
		binary.LittleEndian.PutUint32(section[4:], size)       // raw size
		binary.LittleEndian.PutUint64(section[8:], 1<<32-size) // base
		binary.LittleEndian.PutUint64(section[16:], size)      // size
		binary.LittleEndian.PutUint32(section[28:], 1)         // extended
		copy(b[at:], append(meta, section...))
		put(binary.LittleEndian.AppendUint32(nil, uint32(size-at)), "e47a6535-984a-4798-865e-4685a7bf8ec2")
	}
	copy(b[footer-16:], guidBytes(t, "96b582de-1fb2-45f7-baea-a366c55a082d"))
	binary.LittleEndian.PutUint16(b[footer-18:], uint16(footer-end))
	return write(t, filepath.Join(t.TempDir(), "fw.fd"), string(b))
}

// guidBytes is a GUID as it lies in memory.
func guidBytes(t *testing.T, s string) []byte {
	t.Helper()
	var out []byte
	for i, part := range strings.Split(s, "-") {
		b := make([]byte, len(part)/2)
		for j := range b {
			var v byte
			for _, c := range []byte(part[2*j : 2*j+2]) {
				v = v<<4 | map[bool]byte{true: c - '0', false: c - 'a' + 10}[c <= '9']
			}
			b[j] = v
		}
		if i < 3 {
			for l, r := 0, len(b)-1; l < r; l, r = l+1, r-1 {
				b[l], b[r] = b[r], b[l]
			}
		}
		out = append(out, b...)
	}
	return out
}

// TestJudgeBIOS: tables are looked for by kind, and with SEV a table is no proof:
// no build but a known one is taken.
func TestJudgeBIOS(t *testing.T) {
	for name, c := range map[string]struct {
		kind             vm.TEEKind
		snp, hashes, tdx bool
		says             string
	}{
		"TDX":                    {vm.TDX, false, false, true, ""},
		"TDX beside SEV's":       {vm.TDX, true, true, true, ""},
		"no TDX metadata":        {vm.TDX, true, true, false, "no TDX metadata"},
		"no SNP metadata":        {vm.SEVSNP, false, true, true, "no SEV-SNP metadata"},
		"no hash table":          {vm.SEVSNP, true, false, true, "would go unmeasured"},
		"no hash table with SEV": {vm.SEV, true, false, true, "would go unmeasured"},
		"a table, not known":     {vm.SEVSNP, true, true, true, "exchanged unseen"},
		"not known with SEV":     {vm.SEV, false, true, false, "exchanged unseen"},
		"not known with ES":      {vm.SEVES, false, true, false, "exchanged unseen"},
		"not known, simulated":   {vm.Simulated, true, true, true, "exchanged unseen"},
	} {
		file := testFirmware(t, c.snp, c.hashes, c.tdx)
		b, err := JudgeBIOS(c.kind, file)
		if c.says == "" {
			if err != nil || b.Size != 64<<10 {
				t.Errorf("%s: %+v, %v", name, b, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, file := range map[string]string{
		"no tables": write(t, filepath.Join(t.TempDir(), "f"), strings.Repeat("x", 4096)),
		"empty":     write(t, filepath.Join(t.TempDir(), "f"), ""),
		"a folder":  t.TempDir(),
		"missing":   "/no/such/firmware",
		"huge":      write(t, filepath.Join(t.TempDir(), "f"), strings.Repeat("x", maxBIOS+1)),
	} {
		if _, err := JudgeBIOS(vm.TDX, file); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestBIOSRow is the firmware's row where a TEE measures it.
func TestBIOSRow(t *testing.T) {
	with := func(kind vm.TEEKind, file string) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, _ *host, c *Config) { c.TEE = TEE{Kind: kind, Switch: "MANAGER_X", BIOS: file} }
	}
	runCases(t, firmware, map[string]probeCase{
		"TDX":     {with(vm.TDX, testFirmware(t, true, true, true)), []want{{OK, "has TDX metadata", "", ""}}},
		"SNP":     {with(vm.SEVSNP, testFirmware(t, true, true, true)), []want{{Fail, "MANAGER_QEMU_BIOS_FILE=", "MANAGER_X", "docs/vm.md"}}},
		"none":    {with(vm.SEVSNP, ""), []want{{Fail, "none is set", "MANAGER_X", "MANAGER_QEMU_BIOS_FILE"}}},
		"not one": {with(vm.SEV, "/etc/hostname"), []want{{Fail, "MANAGER_QEMU_BIOS_FILE=/etc/hostname", "", ""}}},
	})
}

// TestThisHostsTEEs: on whatever machine this runs, every row is told of.
func TestThisHostsTEEs(t *testing.T) {
	names := map[string]bool{}
	for _, f := range Able(t.Context(), goodConfig(t)) {
		names[f.Name] = true
	}
	for _, name := range []string{"kvm", "tee", "sev", "sev-es", "sev-snp", "tdx", "sgx", "vsock", "qemu", "firmware", "memory", "cpus"} {
		if !names[name] {
			t.Errorf("nothing is said of %s", name)
		}
	}
	if b := CBitPos(); b < 1 || b > 63 {
		t.Errorf("encryption bit %d", b)
	}
}
