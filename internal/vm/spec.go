package vm

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/manifest"
)

// Spec is one VM as the Manager wants it: all that the shim needs, complete and
// validated. It holds the creator's TLS key, so its file has mode 0600.
type Spec struct {
	RunID string `json:"run_id"`
	// Manifest is the frozen manifest.
	Manifest  []byte              `json:"manifest"`
	Approvals []manifest.Approval `json:"approvals,omitzero"`
	Agent     AgentConfig         `json:"agent"`
	// Egress is nil where the guest gets no connections to the servers of its
	// manifest.
	Egress  *Egress `json:"egress,omitzero"`
	Machine Machine `json:"machine"`
	// Trace is the W3C traceparent of the request, for the run's spans; may be
	// empty.
	Trace string `json:"trace,omitzero"`
}

// Egress lets the guest connect to the servers of its manifest, through the shim.
type Egress struct {
	// Allow is what the operator allows beside the public Internet: networks, and
	// servers as HOST:PORT.
	Allow []string `json:"allow,omitzero"`
}

// AgentConfig is what a run sets in the agent outside the manifest.
type AgentConfig struct {
	// Port in the guest (TCP).
	Port uint16 `json:"port"`
	// LogLevel is "debug", "info", "warn" or "error".
	LogLevel string `json:"log_level"`
	// PEM; empty: the agent makes its own key.
	ServerCert []byte `json:"server_cert,omitzero"`
	ServerKey  []byte `json:"server_key,omitzero"`
	// PEM; set: mutual TLS.
	ClientCACerts []byte `json:"client_ca_certs,omitzero"`
	// Address of the guest in its network, and its gateway.
	Address netip.Prefix `json:"address"`
	Gateway netip.Addr   `json:"gateway"`
}

// Machine is the hardware of a VM. Text that comes from the operator's settings
// is QEMU's own spelling.
type Machine struct {
	// QEMU is the path of the binary.
	QEMU string `json:"qemu"`
	// Sudo starts it through sudo.
	Sudo bool `json:"sudo,omitzero"`
	// Accel is AccelKVM or AccelTCG, chosen by the Manager's probe.
	Accel string `json:"accel"`
	// Type is QEMU's machine type, such as "q35".
	Type string `json:"type"`
	// CPU is a model of QEMU's, such as "max".
	CPU string `json:"cpu"`
	// VCPUs is their number, MaxVCPUs how many there may ever be.
	VCPUs    int    `json:"vcpus"`
	MaxVCPUs int    `json:"max_vcpus"`
	Memory   Memory `json:"memory"`
	Boot     Boot   `json:"boot"`
	// Runtime is the file of the Python disk, read-only; may be empty.
	Runtime string `json:"runtime,omitzero"`
	// ScratchBytes is the size of Dir.Scratch; 0: there is none.
	ScratchBytes int64 `json:"scratch_bytes,omitzero"`
	Net          Net   `json:"net"`
	Vsock        Vsock `json:"vsock"`
	// TEE is nil for a plain VM.
	TEE *TEE `json:"tee,omitzero"`
	// NoGraphic: the VM has no screen.
	NoGraphic bool `json:"no_graphic"`
	// Monitor is where QEMU's monitor for people is: MonitorPTY or MonitorNone.
	Monitor string `json:"monitor"`
	Limits  Limits `json:"limits,omitzero"`
}

// Emulated is the machine of an emulated VM with nothing set: what it lacks are
// the program, what it boots, and its port.
func Emulated() Machine {
	return Machine{
		Accel: AccelTCG, Type: "q35", CPU: "max", VCPUs: 1, MaxVCPUs: 1,
		Memory:    Memory{MiB: 2048, ID: "ram1"},
		Net:       Net{ID: "vmnic", DisableLegacy: true, IOMMUPlatform: true},
		Vsock:     Vsock{Way: VsockUser, ID: "vhost-vsock-pci0", GuestCID: 3},
		NoGraphic: true, Monitor: MonitorNone,
	}
}

// ScratchSerial is the serial number by which the guest knows the scratch disk.
const ScratchSerial = "cocos-scratch"

// TEEKind names what a host can launch. Not all of them vouch for the guest:
// see Attests.
type TEEKind string

// The kinds.
const (
	SEV    TEEKind = "sev"
	SEVES  TEEKind = "sev-es"
	SEVSNP TEEKind = "sev-snp"
	TDX    TEEKind = "tdx"
	// SGX is a plain VM with a virtual enclave page cache.
	SGX TEEKind = "sgx"
	// Simulated is a plain VM whose shim signs reports under this host's root.
	Simulated TEEKind = "sim"
)

// Attests tells which TEE of a manifest the kind serves; the others count as
// plain.
func (k TEEKind) Attests() manifest.TEE {
	switch k {
	case SEVSNP:
		return manifest.TEESNP
	case TDX:
		return manifest.TEETDX
	case Simulated:
		return manifest.TEESim
	}
	return manifest.TEENone
}

// Encrypts tells whether the CPU keeps the guest's memory from the host.
func (k TEEKind) Encrypts() bool { return k.AMD() || k == TDX }

// AMD tells whether the kind is one of AMD's.
func (k TEEKind) AMD() bool { return k == SEV || k == SEVES || k == SEVSNP }

// FieldSize is that of the launch field, in bytes; 0: the kind has none.
func (k TEEKind) FieldSize() int {
	switch k {
	case SEVSNP, Simulated:
		return 32 // HOST_DATA
	case TDX:
		return 48 // MRCONFIGID
	}
	return 0
}

// TEE is the VM's trusted execution environment.
type TEE struct {
	Kind TEEKind `json:"kind"`
	// ID is QEMU's name of the object.
	ID string `json:"id,omitzero"`
	// CBitPos and ReducedPhysBits are AMD's.
	CBitPos         int `json:"cbitpos,omitzero"`
	ReducedPhysBits int `json:"reduced_phys_bits,omitzero"`
	// Policy is AMD's guest policy.
	Policy uint64 `json:"policy,omitzero"`
	// LaunchField is HOST_DATA (32 bytes) or MRCONFIGID (48 bytes): the
	// manifest's digest.
	LaunchField []byte `json:"launch_field,omitzero"`
	// QuoteService is where QEMU reaches Intel's quote service: "unix:PATH" or
	// "vsock:CID:PORT"; TDX only.
	QuoteService string `json:"quote_service,omitzero"`
	// EPCMiB is the size of the virtual enclave page cache; SGX only.
	EPCMiB int `json:"epc_mib,omitzero"`
	// Root is the folder of the simulated TEE's keys; Simulated only.
	Root string `json:"root,omitzero"`
}

// Memory of a VM.
type Memory struct {
	// MiB is what the guest has.
	MiB int `json:"mib"`
	// Slots and MaxMiB are the room for more; both 0: there is none.
	Slots  int `json:"slots,omitzero"`
	MaxMiB int `json:"max_mib,omitzero"`
	// ID names QEMU's memory object, where there is one.
	ID string `json:"id"`
}

// Boot says what the VM boots: the disk's image, or else kernel and initial
// RAM disk, through the firmware or else QEMU's own BIOS.
type Boot struct {
	Firmware *Firmware `json:"firmware,omitzero"`
	// BIOS is the firmware as QEMU's -bios takes it, instead of Firmware; where
	// a TEE measures it.
	BIOS string `json:"bios,omitzero"`
	// BIOSDigest is the SHA-256 of BIOS as it was judged; one that differs when
	// QEMU is to start is refused.
	BIOSDigest manifest.Digest `json:"bios_sha256,omitzero"`
	// HashTable goes into the guest's memory for BIOS to compare with; only
	// with the simulated TEE, for with SEV and SEV-SNP QEMU puts it there.
	HashTable *HashTable `json:"hash_table,omitzero"`
	// Kernel and Initrd are files; both empty with Disk.
	Kernel string `json:"kernel,omitzero"`
	Initrd string `json:"initrd,omitzero"`
	// CommandLine is the kernel's, in full; empty with Disk, which has its own.
	CommandLine string `json:"command_line,omitzero"`
	Disk        *Disk  `json:"disk,omitzero"`
}

// HashTable is what a measuring firmware compares kernel, initial RAM disk and
// command line with before it starts them.
type HashTable struct {
	// Address is where in the guest's memory BIOS looks for it.
	Address uint64 `json:"address"`
	// Content is the table; Dir.Hashes holds it for QEMU.
	Content []byte `json:"content"`
}

// Firmware is OVMF in two flash chips.
type Firmware struct {
	Code Flash `json:"code"`
	// Vars is a template: each VM has its own copy, Dir.Vars.
	Vars Flash `json:"vars,omitzero"`
}

// Flash is one chip.
type Flash struct {
	Interface string `json:"if"` // "pflash"
	Format    string `json:"format"`
	Unit      int    `json:"unit"`
	File      string `json:"file"`
	ReadOnly  bool   `json:"read_only,omitzero"`
}

// Disk is a bootable disk. Its image is never written: each VM has an overlay
// of its own, Dir.Overlay.
type Disk struct {
	Interface string `json:"if"` // "none"
	ID        string `json:"id"`
	// Format is the image's, DiskQcow2 or DiskRaw.
	Format string `json:"format"`
	Image  string `json:"image"`
}

// The formats of a disk image.
const (
	DiskQcow2 = "qcow2"
	DiskRaw   = "raw"
)

// Net is the VM's one network interface.
type Net struct {
	ID            string `json:"id"`
	DisableLegacy bool   `json:"disable_legacy"`
	IOMMUPlatform bool   `json:"iommu_platform"`
	// Addr is the PCI address; empty: QEMU chooses.
	Addr string `json:"addr,omitzero"`
	// ROMFile is the boot ROM; empty: none.
	ROMFile string `json:"rom_file,omitzero"`
	// Forward is where the host listens for the agent; port 0 is invalid.
	Forward netip.AddrPort `json:"forward"`
}

// Where QEMU's monitor for people can be.
const (
	MonitorPTY  = "pty"
	MonitorNone = "none"
)

// Limits of a VM's time, in seconds; 0 means the shim's default.
type Limits struct {
	// Ready is how long the agent may take until it dials.
	Ready int `json:"ready,omitzero"`
	// Stop is how long the guest may take to power off.
	Stop int `json:"stop,omitzero"`
	// Life is how long the VM may run in all; 0: for ever.
	Life int `json:"life,omitzero"`
}

// The accelerators.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)

// VsockWay says who plays the host's side of the VM's vsock device.
type VsockWay string

// The ways.
const (
	// VsockUser is the vhost-user device in the shim.
	VsockUser VsockWay = "user"
	// VsockKernel is the host kernel's /dev/vhost-vsock.
	VsockKernel VsockWay = "kernel"
)

// Vsock is the VM's vsock device.
type Vsock struct {
	Way VsockWay `json:"way"`
	// ID is QEMU's name of the device.
	ID string `json:"id"`
	// GuestCID is at least 3; with VsockUser it may repeat between VMs.
	GuestCID uint32 `json:"guest_cid"`
}

// State of a VM as its shim knows it.
type State string

// States, in the order in which they come.
const (
	Starting State = "starting" // QEMU is being started
	Booting  State = "booting"  // QEMU runs, the agent has not dialled
	Running  State = "running"  // the agent's session is up
	Stopping State = "stopping" // the guest was asked to power off
	Exited   State = "exited"   // QEMU has ended
	// Lost is what the Manager says of a VM whose shim is gone.
	Lost State = "lost"
)

// Kinds of events.
const (
	// From the Manager.
	EventAccepted = "run.accepted" // attribute agent_port
	EventLost     = "vm.lost"      // the shim, and so the VM, is gone
	EventRemoved  = "vm.removed"   // final: nothing of the VM is left on the host
	// From the shim.
	EventStarting = "vm.starting" // attributes tee and, if it is simulated, simulated
	EventBooting  = "vm.booting"  // attribute qemu_pid
	EventSilent   = "vm.silent"   // the agent did not dial within its deadline; attribute reason where the VM has a TEE or a measuring firmware
	EventExpired  = "vm.expired"  // the VM has lived as long as it may
	EventStopping = "vm.stopping"
	EventExited   = "vm.exited" // attributes exit_status, console, and if known reason, qemu_error
	// From the agent.
	EventReady    = "agent.ready"    // attributes agent_key, manifest_digest; with a TEE also tee, instance, attested, simulated
	EventState    = "agent.state"    // attributes from, to, reason
	EventInput    = "input.received" // attributes kind, name
	EventRefused  = "agent.refused"  // attribute reason: with a TEE a Refusal
	EventReleased = "result.taken"   // attribute consumer
)

// WriteSpec writes s to its file in d, whole or not at all.
func WriteSpec(d Dir, s Spec) error {
	b, err := json.Marshal(s, jsontext.Multiline(true))
	if err != nil {
		return fmt.Errorf("encoding %s: %w", d.Spec(), err)
	}
	tmp := d.Spec() + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.Spec())
}

// ReadSpec reads what WriteSpec wrote.
func ReadSpec(d Dir) (s Spec, err error) {
	b, err := os.ReadFile(d.Spec())
	if err != nil {
		return Spec{}, err
	}
	if err := json.Unmarshal(b, &s, json.RejectUnknownMembers(true)); err != nil {
		return Spec{}, fmt.Errorf("reading %s: %w", d.Spec(), err)
	}
	return s, nil
}
