package manager

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/manifest"
)

// Host is what this host gives to each of its VMs.
type Host struct {
	// Machine is the same for every VM but for Forward, the guest CID and the
	// launch field of its TEE; Vsock.GuestCID is the first to be used.
	Machine vm.Machine
	// HostData, if set, is the one launch field that VMs here may have.
	HostData []byte
	Limits   Limits
	Forward  Forward
	// Egress is whether VMs whose manifests name servers get connections to them,
	// and to which beside public ones; nil: they get none.
	Egress *vm.Egress
	// GuestPort is where the agent listens unless a request says otherwise.
	GuestPort uint16
	// GuestAddress and GuestGateway are the guest's network, the same in every
	// VM: each has a network of its own.
	GuestAddress netip.Prefix
	GuestGateway netip.Addr
}

// spec completes a VM's specification, and checks that QEMU can take it.
func (h Host) spec(runID string, v verdict, port uint16, usedCIDs map[uint32]bool) (vm.Spec, error) {
	machine := h.Machine
	machine.TEE = h.tee(attest.LaunchDigestsOf(v.frozen.Raw))
	machine.Limits.Life = v.life
	machine.ScratchBytes = v.frozen.ScratchBytes
	machine.Net.Forward = netip.AddrPortFrom(h.Forward.Addr, port)
	if machine.Vsock.Way == vm.VsockKernel {
		cid, err := freeCID(machine.Vsock.GuestCID, usedCIDs)
		if err != nil {
			return vm.Spec{}, err
		}
		machine.Vsock.GuestCID = cid
	}
	spec := vm.Spec{RunID: runID, Manifest: v.frozen.Raw, Approvals: v.approvals, Agent: v.agent, Machine: machine, Trace: v.trace}
	if len(v.frozen.Servers()) > 0 {
		spec.Egress = h.Egress
	}
	if err := qemu.Validate(spec); err != nil {
		return vm.Spec{}, fmt.Errorf("this host's VMs can't be started: %w", err)
	}
	return spec, nil
}

// tee is that of a VM of one manifest; nil for a plain one.
func (h Host) tee(launch attest.LaunchDigests) *vm.TEE {
	if h.Machine.TEE == nil {
		return nil
	}
	t := *h.Machine.TEE
	t.LaunchField = launch.Field(attest.Type(t.Kind.Attests()))
	return &t
}

// kind is what launches here; "" is plain VMs.
func (h Host) kind() vm.TEEKind {
	if h.Machine.TEE == nil {
		return ""
	}
	return h.Machine.TEE.Kind
}

// TEEs are the kinds of TEE that manifests can ask of this host.
func (h Host) TEEs() []string {
	if tee := h.kind().Attests(); tee != manifest.TEENone {
		return []string{string(tee)}
	}
	return nil
}

// cidTries bounds the search for a guest CID.
const cidTries = 1024

// freeCID finds a CID that no VM of this host has, first or later.
func freeCID(first uint32, used map[uint32]bool) (uint32, error) {
	var last error
	for cid := first; cid < first+cidTries; cid++ {
		if used[cid] {
			continue
		}
		h, err := vsock.NewKernelHost(cid)
		if err == nil {
			return cid, h.Close()
		}
		if last = err; !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return 0, fmt.Errorf("finding a free guest CID from %d on (MANAGER_QEMU_VSOCK_GUEST_CID): %w", first, last)
}

// Forward says where the host listens for agents.
type Forward struct {
	// Addr is an IPv4 address of the host; 0.0.0.0 is every one.
	Addr netip.Addr
	// Preferred is taken while it is free; 0 is none.
	Preferred uint16
	// First and Last bound the TCP ports to choose from otherwise, both
	// included; 0 and 0 are none.
	First, Last uint16
}

// ports lists the choices, the best first.
func (f Forward) ports() []uint16 {
	var out []uint16
	if f.Preferred != 0 {
		out = append(out, f.Preferred)
	}
	for p := int(f.First); p <= int(f.Last) && f.First > 0; p++ {
		if uint16(p) != f.Preferred {
			out = append(out, uint16(p))
		}
	}
	return out
}

// choose finds a free port and holds it.
func (f Forward) choose(used map[uint16]bool) (*portHold, error) {
	ports := f.ports()
	// A port whose last connections are still fading can be used, but one that
	// nobody has touched is better.
	for _, strict := range []bool{true, false} {
		for _, p := range ports {
			if used[p] {
				continue
			}
			h, err := holdPort(netip.AddrPortFrom(f.Addr, p), strict)
			if err == nil {
				return h, nil
			}
			if !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EACCES) {
				return nil, err
			}
		}
	}
	switch len(ports) {
	case 0:
		return nil, errors.New("this host has no port for agents")
	case 1:
		return nil, fmt.Errorf("port %d of %s, the only one for agents, is in use", ports[0], f.Addr)
	}
	return nil, fmt.Errorf("all %d ports of %s for agents, from %d to %d, are in use", len(ports), f.Addr, slices.Min(ports), slices.Max(ports))
}

// portHold keeps a port from its choice until the VM is gone: a socket that is
// bound and never listens. QEMU binds its own with SO_REUSEADDR, as this one
// was, which the kernel allows as long as neither listens (tcp(7)); whoever
// asks for any free port, or binds without that option, does not get it. So
// there is no gap between letting go and QEMU's bind.
type portHold struct {
	port uint16
	file *os.File
}

// holdPort binds addr. With strict it fails also where connections of an
// earlier listener have not quite ended.
func holdPort(addr netip.AddrPort, strict bool) (*portHold, error) {
	name := fmt.Sprintf("tcp:%s", addr)
	open := func(reuse int) (*os.File, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("holding port %s: %w", addr, err)
		}
		f := os.NewFile(uintptr(fd), name)
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().Unmap().As4()})
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("holding port %s: %w", addr, err)
		}
		return f, nil
	}
	if strict {
		f, err := open(0)
		if err != nil {
			return nil, err
		}
		// Not listening: nothing can come in, and the option can still be set.
		if err := unix.SetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			f.Close()
			return nil, fmt.Errorf("holding port %s: %w", addr, err)
		}
		return &portHold{port: addr.Port(), file: f}, nil
	}
	f, err := open(1)
	if err != nil {
		return nil, err
	}
	return &portHold{port: addr.Port(), file: f}, nil
}

// Close lets the port go.
func (h *portHold) Close() error {
	if h == nil {
		return nil
	}
	return h.file.Close()
}
