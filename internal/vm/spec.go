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
	Machine   Machine             `json:"machine"`
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

// Machine is the hardware of a VM.
type Machine struct {
	// QEMU is the path of the binary.
	QEMU string `json:"qemu"`
	// Accel is AccelKVM or AccelTCG, chosen by the Manager's probe.
	Accel string `json:"accel"`
	// CPU is a model of QEMU's, such as "max".
	CPU string `json:"cpu"`
	// VCPUs is their number.
	VCPUs int `json:"vcpus"`
	// MemoryMiB is the guest's memory in MiB.
	MemoryMiB int `json:"memory_mib"`
	// Kernel, Initrd are files; Runtime is the Python disk, read-only.
	Kernel  string `json:"kernel"`
	Initrd  string `json:"initrd"`
	Runtime string `json:"runtime,omitzero"`
	// CommandLine is the kernel's, in full.
	CommandLine string `json:"command_line"`
	// Forward is where the host listens for the agent; port 0 is invalid.
	Forward netip.AddrPort `json:"forward"`
	Vsock   Vsock          `json:"vsock"`
	// ReadySeconds is how long the agent may take until it dials; 0 means the
	// shim's default.
	ReadySeconds int `json:"ready_seconds,omitzero"`
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
	EventStarting = "vm.starting"
	EventBooting  = "vm.booting" // attribute qemu_pid
	EventSilent   = "vm.silent"  // the agent did not dial within its deadline
	EventStopping = "vm.stopping"
	EventExited   = "vm.exited" // attributes exit_status, console, and if known reason, qemu_error
	// From the agent.
	EventReady    = "agent.ready"    // attributes agent_key, manifest_digest
	EventState    = "agent.state"    // attributes from, to, reason
	EventInput    = "input.received" // attributes kind, name
	EventRefused  = "agent.refused"  // attribute reason
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
