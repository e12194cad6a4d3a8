// Package vm is what the processes of a host agree on about a virtual machine:
// its specification, its states, and every file name and port.
//
// A Manager's state directory (MANAGER_STATE_DIR) looks like this:
//
//	version            format of all below; another one is refused
//	lock               held by the one Manager that uses the directory
//	ended              one line for each run that has ended; kept
//	control.sock       the Manager's control API, unless it is elsewhere
//	sim/               keys of the simulated TEE, where VMs have it; kept
//	enrolled/          how the host joined its server, where it did by a token; kept
//	    server         HOST:PORT
//	    key.pem        the Manager's private key, made here
//	    certificate.pem  its certificate; replaced when it is renewed
//	    authorities.pem  who vouches for the server; may be missing
//	vms/<run>.new/     a VM's folder until it is complete
//	vms/<run>/         one VM; removed as a whole
//	    spec.json      what was asked for; written before the shim starts
//	    shim.sock      the shim's API; a live socket is a live shim
//	    shim.log       the shim's own log
//	    spool/         the shim's and the agent's events, until acknowledged
//	    manager/       the Manager's own events of this run, until acknowledged
//	    story.json     when what happened, for figures and traces; may be missing
//	    exited         empty; there when the Manager has seen vm.exited
//	    console.log    the guest's serial console, bounded
//	    console.sock   QEMU's end of the console
//	    OVMF_VARS.fd   this VM's own firmware variables
//	    overlay.qcow2  what this VM writes to its boot disk
//	    scratch.img    the disk for inputs larger than memory, sparse, encrypted in
//	                   the guest; where the manifest asks for one
//	    hashes.bin     what a measuring firmware compares with, where the Manager
//	                   and not QEMU puts it there
//	    qmp.sock       QEMU's monitor
//	    screen.sock    the VM's screen (VNC), where it has one
//	    vhost.sock     the vhost-user device, QEMU's end
//	    vsock.sock     the vhost-user device, the host's end: guest port P is
//	                   the unix socket vsock.sock_P
//
// The paths of unix sockets are bounded by the kernel to 107 bytes: CheckDir
// refuses a state directory that is too long before anything is started.
package vm

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// StateVersion is the format of the state directory.
const StateVersion = "2"

// Names in the state directory.
const (
	VersionFile = "version"
	LockFile    = "lock"
	EndedFile   = "ended"
	VMsDir      = "vms"
	SimDir      = "sim"
	EnrolledDir = "enrolled"
	// ControlSocket is the Manager's control API.
	ControlSocket = "control.sock"
)

// Names in EnrolledDir.
const (
	EnrolledServer      = "server"
	EnrolledKey         = "key.pem"
	EnrolledCertificate = "certificate.pem"
	EnrolledAuthorities = "authorities.pem"
)

// Ports.
const (
	// AgentPort is where the agent listens in the guest (TCP).
	AgentPort = 7002
	// AgentHostPort is forwarded to it unless a range is set (TCP).
	AgentHostPort = 7020
	// SessionPort is where the shim listens for the guest session (vsock).
	SessionPort = 9000
	// ReportPort is where the shim of a VM with the simulated TEE listens for
	// requests of reports (vsock).
	ReportPort = 9001
	// EgressPort is where the shim listens for connections that the agent wants to
	// the servers of the manifest (vsock).
	EgressPort = 9002
	// ManagerPort is where the Manager tells of its health and metrics (TCP,
	// on loopback).
	ManagerPort = 9101
)

// Dir is one VM's folder.
type Dir string

// DirOf returns the folder of a run.
func DirOf(stateDir, runID string) Dir { return Dir(filepath.Join(stateDir, VMsDir, runID)) }

func (d Dir) file(name string) string { return filepath.Join(string(d), name) }

// Spec is the file that holds the Spec.
func (d Dir) Spec() string { return d.file("spec.json") }

// ShimSocket is where the shim serves its API.
func (d Dir) ShimSocket() string { return d.file("shim.sock") }

// ShimLog is the shim's own log.
func (d Dir) ShimLog() string { return d.file("shim.log") }

// Spool is the folder of the shim's and the agent's events.
func (d Dir) Spool() string { return d.file("spool") }

// ManagerSpool is the folder of the Manager's own events.
func (d Dir) ManagerSpool() string { return d.file("manager") }

// ExitedMark tells that the Manager has seen the VM's end.
func (d Dir) ExitedMark() string { return d.file("exited") }

// Story is when what happened to the run, for figures and traces alone.
func (d Dir) Story() string { return d.file("story.json") }

// Console is the guest's serial console.
func (d Dir) Console() string { return d.file("console.log") }

// ConsoleSocket is where QEMU writes the console to.
func (d Dir) ConsoleSocket() string { return d.file("console.sock") }

// Vars is the VM's own copy of the firmware's variables.
func (d Dir) Vars() string { return d.file("OVMF_VARS.fd") }

// Overlay is what the VM writes to its boot disk.
func (d Dir) Overlay() string { return d.file("overlay.qcow2") }

// Scratch is the disk for inputs larger than memory.
func (d Dir) Scratch() string { return d.file("scratch.img") }

// Hashes is the content of Boot.HashTable.
func (d Dir) Hashes() string { return d.file("hashes.bin") }

// QMPSocket is QEMU's monitor.
func (d Dir) QMPSocket() string { return d.file("qmp.sock") }

// Screen is where QEMU serves the VM's screen (VNC).
func (d Dir) Screen() string { return d.file("screen.sock") }

// VhostSocket is the vhost-user device's end for QEMU.
func (d Dir) VhostSocket() string { return d.file("vhost.sock") }

// VsockSocket is the vhost-user device's end for the host.
func (d Dir) VsockSocket() string { return d.file("vsock.sock") }

// maxSocketPath is what fits into sockaddr_un (unix(7)) with its final NUL.
const maxSocketPath = 107

// CheckDir tells whether every socket of a VM under stateDir has a path that
// the kernel takes.
func CheckDir(stateDir string) error {
	const aUUID = "00000000-0000-0000-0000-000000000000"
	longest := DirOf(stateDir, aUUID).VsockSocket() + "_" + strconv.FormatUint(1<<32-1, 10)
	if n := len(longest); n > maxSocketPath {
		return fmt.Errorf("state directory %q is too long by %d bytes for unix sockets in it; use a shorter path", stateDir, n-maxSocketPath)
	}
	return nil
}
