package hostcheck

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cpuTEE is what the CPU says of its TEEs.
type cpuTEE struct {
	// CPUID 8000001Fh.
	SEV, SEVES, SEVSNP bool
	CBit, ReducedBits  int
	// SGX is CPUID 7.0 EBX[2], SGXLaunchControl ECX[30]; EPC is the sum of leaf
	// 12h's subleaves, in bytes.
	SGX, SGXLaunchControl bool
	EPC                   uint64
	// TDX is the kernel's flag, for no leaf of a host tells.
	TDX bool
}

// processorTEE asks the CPU that runs this; /proc tells of TDX.
func (h *host) processorTEE() cpuTEE {
	t := decodeTEE(runCPUID)
	t.TDX = h.cpuFlag("tdx_host_platform")
	return t
}

// cpuFlag looks for a flag of the first CPU.
func (h *host) cpuFlag(flag string) bool {
	b, err := readFile(h.path("proc/cpuinfo"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			for f := range strings.FieldsSeq(flags) {
				if f == flag {
					return true
				}
			}
			return false
		}
	}
	return false
}

// usualCBit is the encryption bit's place in every EPYC so far with SEV-ES.
const usualCBit = 51

// CBitPos is the place of the encryption bit in physical addresses: this CPU's,
// else the usual one.
func CBitPos() int {
	if t := decodeTEE(runCPUID); t.SEV && t.CBit > 0 {
		return t.CBit
	}
	return usualCBit
}

// From linux/kvm.h.
const (
	kvmCheckExtension = 0xae03 // KVM_CHECK_EXTENSION, _IO(0xae, 3)
	kvmCapVMTypes     = 235    // KVM_CAP_VM_TYPES
)

// vmTypes is KVM's set of types of VM.
func vmTypes() (uint64, error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), kvmCheckExtension, kvmCapVMTypes)
	if errno != 0 {
		return 0, fmt.Errorf("asking KVM for its types of VM: %w", errno)
	}
	return uint64(n), nil
}

// snpState is what the security processor says of SEV-SNP.
type snpState struct {
	initialised  bool
	major, minor uint8
	build        uint32
	guests       uint32
	// reported is the TCB version of reports (56860, table 3).
	reported uint64
}

// From linux/psp-sev.h.
const (
	sevIssueCmd       = 0xc0105300 // SEV_ISSUE_CMD, _IOWR('S', 0, struct sev_issue_cmd)
	snpPlatformStatus = 9          // SNP_PLATFORM_STATUS
)

// snpStatus asks the security processor (struct sev_user_data_snp_status).
func snpStatus() (snpState, error) {
	f, err := os.OpenFile("/dev/sev", os.O_RDWR, 0)
	if err != nil {
		return snpState{}, err
	}
	defer f.Close()
	type platform struct {
		major, minor, state, flags uint8
		build, masks, guests       uint32
		current, reported          uint64
	}
	status := new(platform)
	var pinned runtime.Pinner // the kernel writes to an address that Go does not see
	pinned.Pin(status)
	defer pinned.Unpin()
	// struct sev_issue_cmd is packed: command, address, error.
	var command [4]uint32
	address := uint64(uintptr(unsafe.Pointer(status)))
	command[0], command[1], command[2] = snpPlatformStatus, uint32(address), uint32(address>>32)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), sevIssueCmd, uintptr(unsafe.Pointer(&command)))
	if errno != 0 {
		return snpState{}, fmt.Errorf("SNP_PLATFORM_STATUS: %w (firmware error %#x)", errno, command[3])
	}
	return snpState{initialised: status.state == 1, major: status.major, minor: status.minor, build: status.build, guests: status.guests, reported: status.reported}, nil
}
