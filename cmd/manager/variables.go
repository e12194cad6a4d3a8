package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/ultravioletrs/cocos/internal/config"
	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// variable is one row of the table of configuration: docs/manager.md shows the
// same rows, and a test compares.
type variable = config.Variable[settings]

// table is all of them.
func table() config.Table[settings] {
	return config.Table[settings]{Variables: variables(), Prefix: "MANAGER_", Docs: "docs/manager.md", Case: "where VMs are emulated", CaseHead: "emulated"}
}

// settings are the values of all variables, before the host is looked at.
type settings struct {
	logLevel, logFormat              string
	instanceID, eosVersion           string
	serverAddress                    string
	serverTimeout                    time.Duration
	clientCert, clientKey, serverCAs string
	stateDir, imageDir               string
	controlSocket, controlGroup      string
	httpAddr                         string
	bootTimeout, stopGrace           time.Duration
	limits                           manager.Limits
	autoMemory                       bool // limits.MaxMemoryMiB is what the host has
	autoScratch                      bool // limits.MaxScratch depends on the disk
	egress                           bool
	egressAllow                      []string
	traceURL                         string
	traceRatio                       float64

	qemu, kvm string
	// machine is the VMs' hardware, as far as it is set by variables alone.
	machine        vm.Machine
	code, vars     vm.Flash
	disk           vm.Disk
	kernel, rootfs string
	forward        manager.Forward
	guestPort      uint16
	vsock          string
	ovmfVersion    string
	tee            teeSettings

	// emulate sets what is different where VMs are emulated.
	emulate []func(*settings)
	// given has the names of the variables that are set.
	given map[string]bool
	// printing: a command line is wanted and not a VM, so that what only a VM
	// needs of the host is worth a warning.
	printing bool
}

// parse reads environ, entries of the form NAME=value. It finds every fault:
// each names the variable, its value and what is accepted.
func parse(environ []string) (settings, error) {
	var s settings
	values, errs := table().Read(environ, &s)
	s.given, s.emulate = values.Given, values.Otherwise
	if (s.clientCert == "") != (s.clientKey == "") {
		errs = append(errs, errors.New("MANAGER_GRPC_CLIENT_CERT and MANAGER_GRPC_CLIENT_KEY go together; set both, or neither"))
	}
	if len(errs) == 0 {
		errs = s.consistent()
	}
	return s, errors.Join(errs...)
}

// consistent finds what can't go together.
func (s *settings) consistent() (errs []error) {
	fault := func(wrong bool, text string) {
		if wrong {
			errs = append(errs, errors.New(text))
		}
	}
	fault(s.forward.Preferred == 0 && s.forward.First == 0,
		`MANAGER_QEMU_HOST_FWD_AGENT="0" and MANAGER_QEMU_HOST_FWD_RANGE="none" leave no port for agents; set one of them`)
	fault(s.disk.Image != "" && (s.kernel != "" || s.rootfs != ""),
		"MANAGER_QEMU_DISK_IMG_FILE takes the place of MANAGER_QEMU_DISK_IMG_KERNEL_FILE and MANAGER_QEMU_DISK_IMG_ROOTFS_FILE; unset the one or the others")
	fault(len(s.egressAllow) > 0 && !s.egress,
		"MANAGER_EGRESS_ALLOW has no effect with MANAGER_EGRESS=off; set it to on, or unset MANAGER_EGRESS_ALLOW")
	return append(errs, s.teeFaults()...)
}

// sized finds, once all defaults are settled, what is larger than its room.
func (s *settings) sized() (errs []error) {
	if m := s.machine; m.VCPUs > m.MaxVCPUs {
		errs = append(errs, fmt.Errorf(`MANAGER_QEMU_SMP_COUNT="%d" is more than MANAGER_QEMU_SMP_MAXCPUS="%d"; lower the one or raise the other`, m.VCPUs, m.MaxVCPUs))
	}
	if m := s.machine.Memory; m.Slots > 0 && m.MiB >= m.MaxMiB {
		errs = append(errs, fmt.Errorf(`MANAGER_QEMU_MEMORY_SIZE="%s" is not less than MANAGER_QEMU_MAX_MEMORY="%s"; lower the one or raise the other, or set MANAGER_QEMU_MEMORY_SLOTS=0`,
			sizeText(m.MiB), sizeText(m.MaxMiB)))
	}
	return errs
}
