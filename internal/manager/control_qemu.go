package manager

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/grpc/codes"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// sampleRun stands for a run's id in SampleCommand.
const sampleRun = "00000000-0000-4000-8000-000000000000"

// SampleCommand is the command line, the program first, that a run would get on
// host now, under a run id that no run has. It takes the first port and guest
// CID there are, free or not, and touches nothing.
func SampleCommand(host Host, stateDir string) (argv []string, err error) {
	ports := host.Forward.ports()
	if len(ports) == 0 {
		return nil, errors.New("this host has no port for agents; set MANAGER_QEMU_HOST_FWD_AGENT or MANAGER_QEMU_HOST_FWD_RANGE")
	}
	spec := vm.Spec{RunID: sampleRun, Machine: host.Machine,
		Agent: vm.AgentConfig{Port: host.GuestPort, LogLevel: "info", Address: host.GuestAddress, Gateway: host.GuestGateway}}
	spec.Machine.TEE = host.tee(attest.LaunchDigests{}) // zeros stand for the manifest's digest
	spec.Machine.Net.Forward = netip.AddrPortFrom(host.Forward.Addr, ports[0])
	if err := qemu.Validate(spec); err != nil {
		return nil, fmt.Errorf("this host's VMs can't be started: %w", err)
	}
	return qemu.CommandLine(spec, vm.DirOf(stateDir, sampleRun)), nil
}

// QemuArgs implements control.proto.
func (c *control) QemuArgs(_ context.Context, r *controlv1.QemuArgsRequest) (*controlv1.QemuArgsResponse, error) {
	if r.GetRun() == "" {
		argv, err := SampleCommand(c.m.cfg.Host, c.m.cfg.StateDir)
		if err != nil {
			return nil, refuse(codes.FailedPrecondition, rpcerr.WrongState, "", "correct the Manager's configuration and start it again; cocos-manager check tells more", "%v", err)
		}
		return &controlv1.QemuArgsResponse{Argv: argv}, nil
	}
	found, err := c.find("run", r.GetRun())
	if err != nil {
		return nil, err
	}
	spec, err := found.spec()
	if err != nil {
		return nil, err
	}
	return &controlv1.QemuArgsResponse{Argv: qemu.CommandLine(spec, found.dir)}, nil
}
