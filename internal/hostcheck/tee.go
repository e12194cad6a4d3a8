package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// TEE is what the Manager's VMs are to have.
type TEE struct {
	// Kind is empty for plain VMs.
	Kind vm.TEEKind
	// Switch is how it was asked for, such as MANAGER_QEMU_ENABLE_SEV="true".
	Switch string
	// BIOS is the firmware that the TEE measures; may be empty.
	BIOS string
	// CBitPos is AMD's, as QEMU will be told.
	CBitPos int
	// QuoteService is Intel's, as vm.TEE has it; empty: there is none.
	QuoteService string
	// EPCMiB is SGX's for one VM.
	EPCMiB int
}

// lack is why a TEE can't be launched; nil: it can.
type lack struct{ found, needed, mend string }

// teeKind is what one of the kinds needs of a host.
type teeKind struct {
	kind vm.TEEKind
	cpu  func(cpuTEE) bool
	// model is who makes CPUs with it.
	model string
	// module is KVM's, parameter its switch, firmware what the firmware's setup
	// calls it.
	module, parameter, firmware string
	// vmType is the bit of KVM_CAP_VM_TYPES (linux/Documentation/virt/kvm/api.rst),
	// kernel the first version that has it.
	vmType uint
	kernel string
	// asids names what VMs use up in the cgroup controller misc.
	asids string
}

var teeKinds = []teeKind{
	{vm.SEV, func(c cpuTEE) bool { return c.SEV }, "AMD EPYC", "kvm_amd", "sev", "SMEE and SEV", 2, "6.10", "sev"},
	{vm.SEVES, func(c cpuTEE) bool { return c.SEVES }, "AMD EPYC 7002 or later", "kvm_amd", "sev_es", "SEV-ES and a number of its ASIDs", 3, "6.10", "sev_es"},
	{vm.SEVSNP, func(c cpuTEE) bool { return c.SEVSNP }, "AMD EPYC 7003 or later", "kvm_amd", "sev_snp", "SEV-SNP and RMP coverage", 4, "6.11", "sev_es"},
	{vm.TDX, func(c cpuTEE) bool { return c.TDX }, "Intel Xeon of the 5th generation or later", "kvm_intel", "tdx", "TDX, TME-MT and SEAM", 5, "6.16", "tdx"},
}

// tees tells of each kind of TEE whether this host can launch it, and why not.
func tees(_ context.Context, h *host, c Config) []Finding {
	cpu := h.cpuTEE()
	types, typesErr := h.vmTypes()
	out := info("none is switched on: VMs are plain, and nothing vouches for them")
	if c.TEE.Kind != "" {
		out = info(fmt.Sprintf("VMs have %s (%s)", c.TEE.Kind, c.TEE.Switch))
	}
	for _, k := range teeKinds {
		var details []string
		why := h.lacks(k, c, cpu, types, typesErr, &details)
		out = append(out, c.judge(k.kind, why, details)...)
	}
	var details []string
	why := h.lacksSGX(c, cpu, &details)
	out = append(out, c.judge(vm.SGX, why, details)...)
	if c.TEE.Kind == vm.Simulated {
		out = append(out, named(string(vm.Simulated), warn("VMs have the SIMULATED TEE, which protects nothing from this host", "a TEE for what is not to be seen here", "unset MANAGER_QEMU_ENABLE_SIM where VMs are to protect something"))...)
	}
	return out
}

// judge makes a finding: what is not asked for is no fault.
func (c Config) judge(kind vm.TEEKind, why *lack, details []string) []Finding {
	name := string(kind)
	if why == nil {
		found := strings.Join(details, ", ")
		if c.TEE.Kind != kind {
			return named(name, info("can be launched: "+found+"; not switched on"))
		}
		if kind == vm.SEV || kind == vm.SEVES || kind == vm.SGX {
			return named(name, warn(found+"; it vouches for no VM, which count as plain", "SEV-SNP or TDX for manifests that ask for attestation", "set MANAGER_QEMU_ENABLE_SEV_SNP or MANAGER_QEMU_ENABLE_TDX where the host has it"))
		}
		return named(name, ok(found))
	}
	if c.TEE.Kind == kind {
		return named(name, fail(why.found, why.needed+", for "+c.TEE.Switch, why.mend))
	}
	return named(name, []Finding{{Verdict: Info, Found: "can't be launched: " + why.found, Mend: why.mend}})
}

// lacks looks from the CPU up to what is left for a further VM.
func (h *host) lacks(k teeKind, c Config, cpu cpuTEE, types uint64, typesErr error, details *[]string) *lack {
	if !k.cpu(cpu) {
		return &lack{fmt.Sprintf("the CPU has no %s, or the firmware hides it", k.kind), "a CPU with it",
			fmt.Sprintf("use a host with %s; there, switch on %s in the firmware's setup", k.model, k.firmware)}
	}
	name := "sys/module/" + k.module + "/parameters/" + k.parameter
	switch value := h.kernel(name); {
	case value == "" && h.missing("sys/module/"+k.module):
		return &lack{"the module " + k.module + " is not loaded", k.module, h.loadModule(k.module)}
	case value == "":
		return &lack{fmt.Sprintf("this kernel's %s has no parameter %s", k.module, k.parameter), "a kernel that can host it, " + k.kernel + " or later", "boot such a kernel"}
	case value != "Y" && value != "1":
		return &lack{fmt.Sprintf("/%s is %s", name, value), "Y",
			fmt.Sprintf("switch on %s in the firmware's setup; echo 'options %s %s=1' > /etc/modprobe.d/cocos.conf and boot anew; dmesg | grep -i -e sev -e ccp -e tdx says why not", k.firmware, k.module, k.parameter)}
	}
	if typesErr != nil {
		return &lack{fmt.Sprintf("KVM does not tell its types of VM: %v", typesErr), "/dev/kvm that answers", "see the row kvm"}
	}
	if types&(1<<k.vmType) == 0 {
		return &lack{fmt.Sprintf("KVM has no VMs of the type %s", k.kind), "Linux " + k.kernel + " or later with it built in", "boot such a kernel; dmesg | grep -i kvm"}
	}
	*details = append(*details, "CPU, kernel and KVM are ready for it")
	var why *lack
	if k.kind.AMD() {
		why = h.lacksAMD(k, c, cpu, details)
	} else {
		why = h.lacksQuotes(c, details)
	}
	if why == nil {
		why = h.lacksRoom(k.asids, details)
	}
	return why
}

const sevDevice = "dev/sev"

func (h *host) lacksAMD(k teeKind, c Config, cpu cpuTEE, details *[]string) *lack {
	if why := h.lacksDevice(sevDevice, "ccp"); why != nil {
		return why
	}
	if c.TEE.Kind == k.kind && c.TEE.CBitPos != cpu.CBit {
		return &lack{fmt.Sprintf("MANAGER_QEMU_SEV_CBITPOS is %d", c.TEE.CBitPos), fmt.Sprintf("%d, as the CPU says", cpu.CBit), "unset it"}
	}
	*details = append(*details, fmt.Sprintf("encryption bit %d, %d physical address bits less", cpu.CBit, cpu.ReducedBits))
	if k.kind != vm.SEVSNP {
		return nil
	}
	s, err := h.snpStatus()
	switch {
	case err != nil:
		return &lack{fmt.Sprintf("the security processor does not tell its state: %v", err), "an answer to SNP_PLATFORM_STATUS", "dmesg | grep -i -e ccp -e sev"}
	case !s.initialised:
		return &lack{"SEV-SNP is not initialised", "the state INIT", "load kvm_amd (modprobe -r kvm_amd && modprobe kvm_amd), and see dmesg | grep -i -e ccp -e rmp"}
	}
	*details = append(*details, fmt.Sprintf("SNP API %d.%d build %d, %d guests", s.major, s.minor, s.build, s.guests))
	return nil
}

// lacksDevice tries to open a device for reading and writing.
func (h *host) lacksDevice(name, module string) *lack {
	err := h.open(h.path(name), os.O_RDWR)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return &lack{"there is no /" + name, "the device of the module " + module, "dmesg | grep -i " + module + "; in a container, pass the device in"}
	case errors.Is(err, fs.ErrPermission):
		return &lack{fmt.Sprintf("user %s may not open /%s", h.user, name), "permission to read and write it", h.mayOpen(name)}
	}
	return &lack{fmt.Sprintf("/%s does not open: %v", name, err), "the device of the module " + module, "dmesg | grep -i " + module}
}

// lacksQuotes looks for Intel's quote service; without it a TD runs and nobody
// can attest it.
func (h *host) lacksQuotes(c Config, details *[]string) *lack {
	if c.TEE.Kind != vm.TDX {
		return nil
	}
	const mend = "install Intel's quote generation service (package tdx-qgs), and start it (systemctl start qgsd); or correct MANAGER_QEMU_TDX_QUOTE_SERVICE"
	if c.TEE.QuoteService == "" {
		return &lack{"MANAGER_QEMU_TDX_QUOTE_SERVICE=none", "Intel's quote service, without which nobody can attest the VMs", mend}
	}
	q, err := qemu.ParseQuoteService(c.TEE.QuoteService)
	if err != nil {
		return &lack{"MANAGER_QEMU_TDX_QUOTE_SERVICE " + err.Error(), "its address", mend}
	}
	if q.Network == "vsock" {
		*details = append(*details, "the quote service is to be at "+c.TEE.QuoteService+" (not tried)")
		return nil
	}
	st, err := os.Stat(h.path(q.Path))
	switch {
	case err != nil:
		return &lack{"the quote service is not there: " + err.Error(), "a socket that is listened on", mend}
	case st.Mode()&fs.ModeSocket == 0:
		return &lack{q.Path + " is not a socket", "the quote service's", mend}
	}
	if err := h.access(h.path(q.Path), unix.W_OK); err != nil {
		return &lack{fmt.Sprintf("user %s may not reach the quote service at %s", h.user, q.Path), "permission to write to its socket", "usermod -aG qgsd " + h.user + "; then restart the Manager"}
	}
	*details = append(*details, "the quote service is at "+q.Path)
	return nil
}

// lacksRoom counts what further VMs can have (cgroup v2, controller misc). Hosts
// without it don't tell.
func (h *host) lacksRoom(resource string, details *[]string) *lack {
	capacity, known := h.misc("misc.capacity", resource)
	if !known {
		return nil
	}
	used, _ := h.misc("misc.current", resource)
	if used >= capacity {
		return &lack{fmt.Sprintf("all %d %s of this host are in use", capacity, resource), "one for a VM", "end VMs, or give more in the firmware's setup"}
	}
	*details = append(*details, fmt.Sprintf("%d of %d %s left", capacity-used, capacity, resource))
	return nil
}

// misc is a resource of the root cgroup.
func (h *host) misc(file, resource string) (n uint64, known bool) {
	for line := range strings.Lines(h.kernel("sys/fs/cgroup/" + file)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == resource {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

func (h *host) missing(name string) bool {
	_, err := os.Stat(h.path(name))
	return errors.Is(err, fs.ErrNotExist)
}

func (h *host) lacksSGX(c Config, cpu cpuTEE, details *[]string) *lack {
	switch {
	case !cpu.SGX:
		return &lack{"the CPU has no sgx, or the firmware hides it", "a CPU with it", "use a host with an Intel Xeon of the 3rd generation or later; there, switch on SGX in the firmware's setup"}
	case !cpu.SGXLaunchControl:
		return &lack{"the CPU's SGX has no flexible launch control", "it: Linux runs no enclaves without", "switch it on in the firmware's setup"}
	}
	for _, device := range []string{"dev/sgx_vepc", "dev/sgx_provision"} {
		if why := h.lacksDevice(device, "sgx"); why != nil {
			return why
		}
	}
	epc := cpu.EPC
	if nodes := h.nodesEPC(); nodes > 0 {
		epc = nodes
	}
	*details = append(*details, fmt.Sprintf("%s of enclave page cache", bytesText(int64(epc))))
	if used, known := h.misc("misc.current", "sgx_epc"); known {
		epc -= min(used, epc)
		*details = append(*details, bytesText(int64(epc))+" left")
	}
	if need := uint64(c.TEE.EPCMiB) << 20; c.TEE.Kind == vm.SGX && epc < need {
		return &lack{fmt.Sprintf("%s of enclave page cache are left", bytesText(int64(epc))), bytesText(int64(need)) + " for one VM", "set MANAGER_QEMU_SGX_EPC_SIZE to less, or give SGX more memory in the firmware's setup"}
	}
	return nil
}

// nodesEPC is the enclave page cache of all NUMA nodes, in bytes.
func (h *host) nodesEPC() (sum uint64) {
	nodes, err := filepath.Glob(h.path("sys/devices/system/node/node*/x86/sgx_total_bytes"))
	if err != nil {
		return 0
	}
	for _, name := range nodes {
		b, err := readFile(name)
		if n, perr := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil && perr == nil {
			sum += n
		}
	}
	return sum
}
