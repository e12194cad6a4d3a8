package main

import (
	"time"

	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const yesNo = "true or false"

// variables is the table.
func variables() []variable {
	var all []variable
	for _, part := range [][]variable{general(), limits(), hardware(), firmware(), images(), network(), tees()} {
		all = append(all, part...)
	}
	return all
}

func general() []variable {
	return []variable{
		{name: "MANAGER_LOG_LEVEL", kind: "debug, info, warn or error", fallback: "info",
			effect: "Least level of the lines that are logged.",
			set:    oneOf(func(s *settings) *string { return &s.logLevel }, manager.LogLevels()...)},
		{name: "MANAGER_LOG_FORMAT", kind: "text or json", fallback: "text",
			effect: "Form of the log: `text` for people, `json` for programs.",
			set:    oneOf(func(s *settings) *string { return &s.logFormat }, "text", "json")},
		{name: "MANAGER_INSTANCE_ID", kind: "text",
			effect: "Name of this Manager for the server and in logs; unset: the host's name.",
			set:    word(func(s *settings) *string { return &s.instanceID })},
		{name: "MANAGER_EOS_VERSION", kind: "text",
			effect: "The operator's name of the guest image's version, told to the server and shown by `status`. Nothing is checked by it: digests are.",
			set:    word(func(s *settings) *string { return &s.eosVersion })},
		{name: "MANAGER_GRPC_URL", kind: "HOST:PORT", fallback: "localhost:7001",
			effect: "The computations server. The connection is always TLS 1.3.",
			set:    hostPort(func(s *settings) *string { return &s.serverAddress }, "server.example.org:7001")},
		{name: "MANAGER_GRPC_TIMEOUT", kind: "duration", unit: "Go duration, 100ms to 10m", fallback: "60s",
			effect: "How long connecting and greeting may take.",
			set:    duration(func(s *settings) *time.Duration { return &s.serverTimeout }, 100*time.Millisecond, 10*time.Minute)},
		{name: "MANAGER_GRPC_CLIENT_CERT", kind: "file",
			effect: "PEM certificate that this Manager shows to the server; unset: none.",
			set:    path(func(s *settings) *string { return &s.clientCert })},
		{name: "MANAGER_GRPC_CLIENT_KEY", kind: "file",
			effect: "PEM private key of that certificate.",
			set:    path(func(s *settings) *string { return &s.clientKey })},
		{name: "MANAGER_GRPC_SERVER_CA_CERTS", kind: "file",
			effect: "PEM certificates of the authorities that the server's certificate must come from; unset: those that this system trusts.",
			set:    path(func(s *settings) *string { return &s.serverCAs })},
		{name: "MANAGER_STATE_DIR", kind: "folder",
			effect: "Where running VMs are kept; unset: `cmd/manager/tmp` in the source tree, else `/var/lib/cocos`. It must be short, as unix sockets lie in it: a path that is too long is refused.",
			set:    path(func(s *settings) *string { return &s.stateDir })},
		{name: "MANAGER_IMAGE_DIR", kind: "folder",
			effect: "The guest image with its `image.json`; unset: `cmd/manager/img` in the source tree, else `/var/lib/cocos/img`.",
			set:    path(func(s *settings) *string { return &s.imageDir })},
		{name: "MANAGER_CONTROL_SOCKET", kind: "file",
			effect: "Unix socket of the control API that `cocos-cli manager` uses; unset: `control.sock` in the state directory. The packaged unit sets `/run/cocos/manager.sock`.",
			set:    path(func(s *settings) *string { return &s.controlSocket })},
		{name: "MANAGER_CONTROL_GROUP", kind: "group",
			effect: "Name of the group whose members may use the control socket; unset: only the Manager's own user.",
			set:    group},
		{name: "MANAGER_HTTP_ADDR", kind: "ADDRESS:PORT or none", fallback: "127.0.0.1:9101",
			effect: "Where health and metrics are served, without TLS: keep it on loopback.",
			set:    httpAddr},
		{name: "COCOS_JAEGER_URL", kind: "URL", secret: true,
			effect: "OTLP/HTTP endpoint that traces are sent to, such as `http://localhost:4318/v1/traces`; unset: no traces.",
			set:    traceURL},
		{name: "COCOS_JAEGER_TRACE_RATIO", kind: "number", unit: "share of runs, 0 to 1", fallback: "1",
			effect: "Share of the runs that are traced, where the server does not decide.",
			set:    ratio(func(s *settings) *float64 { return &s.traceRatio })},
	}
}

func limits() []variable {
	return []variable{
		{name: "MANAGER_BOOT_TIMEOUT", kind: "duration", unit: "Go duration, 1s to 1h", fallback: "5m",
			effect: "How long a VM may take until its agent reports; then it is ended.",
			set:    duration(func(s *settings) *time.Duration { return &s.bootTimeout }, time.Second, time.Hour)},
		{name: "MANAGER_STOP_GRACE", kind: "duration", unit: "Go duration, 1s to 1h", fallback: "30s",
			effect: "How long a guest that is asked to stop may take; then its VM is ended.",
			set:    duration(func(s *settings) *time.Duration { return &s.stopGrace }, time.Second, time.Hour)},
		{name: "MANAGER_MAX_TTL", kind: "duration or none", unit: "Go duration, 1s to 8760h", fallback: "none",
			effect: "How long a VM may live. A run request that asks for more is refused, one that does not say gets this.",
			set:    durationOrNone(func(s *settings) *time.Duration { return &s.limits.MaxLife }, time.Second, 8760*time.Hour)},
		{name: "MANAGER_MAX_VMS", kind: "number", unit: "VMs, 1 to 10000", fallback: "10",
			effect: "VMs at once; further run requests are refused.",
			set:    number(func(s *settings) *int { return &s.limits.MaxVMs }, 1, 10000)},
		{name: "MANAGER_MAX_VCPUS", kind: "number or none", unit: "virtual CPUs, 1 to 100000", fallback: "none",
			effect: "Virtual CPUs of all VMs together.",
			set:    numberOrNone(func(s *settings) *int { return &s.limits.MaxVCPUs }, 1, 100000)},
		{name: "MANAGER_MAX_VM_MEMORY", kind: "size, auto or none", unit: "number with M or G", fallback: "auto",
			effect: "Memory of all VMs together. `auto`: what the host has, less 512 MiB.",
			set:    memoryLimit},
		{name: "MANAGER_MIN_FREE_DISK", kind: "size", unit: "number with M or G", fallback: "512M",
			effect: "What must stay free on the state directory's file system, beside what the VMs may still write.",
			set:    freeDisk},
	}
}

func hardware() []variable {
	return []variable{
		{name: "MANAGER_QEMU_BIN_PATH", kind: "program", fallback: "qemu-system-x86_64",
			effect: "QEMU: a path, or a name to look for in PATH. 7.2 or later; 10 or later without KVM.",
			set:    path(func(s *settings) *string { return &s.qemu })},
		{name: "MANAGER_QEMU_USE_SUDO", kind: yesNo, fallback: "false",
			effect: "Start QEMU through sudo, for hosts whose devices want root.",
			set:    boolean(func(s *settings) *bool { return &s.machine.Sudo })},
		{name: "MANAGER_QEMU_ENABLE_KVM", kind: "auto, true or false", fallback: "auto",
			effect: "`auto`: KVM where a test guest runs under it, else emulation with a warning. `true`: refuse to start without.",
			set:    oneOf(func(s *settings) *string { return &s.kvm }, "auto", "true", "false")},
		{name: "MANAGER_QEMU_MACHINE", kind: "q35", fallback: "q35",
			effect: "Machine type of the VMs.",
			set:    oneOf(func(s *settings) *string { return &s.machine.Type }, "q35")},
		{name: "MANAGER_QEMU_CPU", kind: "text", fallback: "EPYC", emulated: "max",
			effect: "CPU model of the VMs, as QEMU names it.",
			set:    cpu},
		{name: "MANAGER_QEMU_SMP_COUNT", kind: "number", unit: "virtual CPUs, 1 to 512", fallback: "4", emulated: "1",
			effect: "Virtual CPUs of each VM. Emulated VMs boot fastest with one.",
			set:    number(func(s *settings) *int { return &s.machine.VCPUs }, 1, 512)},
		{name: "MANAGER_QEMU_SMP_MAXCPUS", kind: "number", unit: "virtual CPUs, 1 to 512", fallback: "64",
			effect: "Virtual CPUs that a VM has room for; at least `MANAGER_QEMU_SMP_COUNT`.",
			set:    number(func(s *settings) *int { return &s.machine.MaxVCPUs }, 1, 512)},
		{name: "MANAGER_QEMU_MEM_ID", kind: "name", fallback: "ram1",
			effect: "QEMU's name of the memory object, where there is one.",
			set:    name(func(s *settings) *string { return &s.machine.Memory.ID })},
		{name: "MANAGER_QEMU_MEMORY_SIZE", kind: "size", unit: "number with M or G, 256M to 16384G", fallback: "4096M", emulated: "2048M",
			effect: "Memory of each VM; inputs and results lie in it, too.",
			set:    memory(func(s *settings) *int { return &s.machine.Memory.MiB })},
		{name: "MANAGER_QEMU_MEMORY_SLOTS", kind: "number", unit: "0 to 256", fallback: "5",
			effect: "Slots for further memory; 0: none, and `MANAGER_QEMU_MAX_MEMORY` has no effect.",
			set:    number(func(s *settings) *int { return &s.machine.Memory.Slots }, 0, 256)},
		{name: "MANAGER_QEMU_MAX_MEMORY", kind: "size", unit: "number with M or G, 256M to 16384G", fallback: "30G",
			effect: "Memory that a VM has room for; more than `MANAGER_QEMU_MEMORY_SIZE`.",
			set:    memory(func(s *settings) *int { return &s.machine.Memory.MaxMiB })},
		{name: "MANAGER_QEMU_NO_GRAPHIC", kind: yesNo, fallback: "true",
			effect: "`false`: VMs get a screen, served as VNC on the socket `screen.sock` in their folder.",
			set:    boolean(func(s *settings) *bool { return &s.machine.NoGraphic })},
		{name: "MANAGER_QEMU_MONITOR", kind: "pty or none", fallback: "pty",
			effect: "QEMU's monitor for people: on a terminal device that the VM's log names, or none.",
			set:    oneOf(func(s *settings) *string { return &s.machine.Monitor }, vm.MonitorPTY, vm.MonitorNone)},
		{name: "MANAGER_QEMU_VSOCK", kind: "auto, kernel or user", fallback: "auto",
			effect: "Host's side of the VMs' vsock: the kernel's `/dev/vhost-vsock`, or the device built into the shim. `auto`: the kernel's where it can be used.",
			set:    oneOf(func(s *settings) *string { return &s.vsock }, "auto", string(vm.VsockKernel), string(vm.VsockUser))},
		{name: "MANAGER_QEMU_VSOCK_ID", kind: "name", fallback: "vhost-vsock-pci0",
			effect: "QEMU's name of the vsock device.",
			set:    name(func(s *settings) *string { return &s.machine.Vsock.ID })},
		{name: "MANAGER_QEMU_VSOCK_GUEST_CID", kind: "number", unit: "context id, 3 to 65534", fallback: "3",
			effect: "First guest CID to use; with the kernel's vsock the first one from there that is free.",
			set:    cid},
	}
}

func firmware() []variable {
	return []variable{
		{name: "MANAGER_QEMU_OVMF_CODE_IF", kind: "pflash", fallback: "pflash",
			effect: "How the firmware is attached.",
			set:    oneOf(func(s *settings) *string { return &s.code.Interface }, "pflash")},
		{name: "MANAGER_QEMU_OVMF_CODE_FORMAT", kind: "raw or qcow2", fallback: "raw",
			effect: "Format of the firmware's file.",
			set:    oneOf(func(s *settings) *string { return &s.code.Format }, vm.DiskRaw, vm.DiskQcow2)},
		{name: "MANAGER_QEMU_OVMF_CODE_UNIT", kind: "number", unit: "0", fallback: "0",
			effect: "Flash chip of the firmware: QEMU boots from the first.",
			set:    number(func(s *settings) *int { return &s.code.Unit }, 0, 0)},
		{name: "MANAGER_QEMU_OVMF_CODE_FILE", kind: "file, auto or none", fallback: "auto", emulated: "none",
			effect: "OVMF. `auto`: the first of `OVMF_CODE.fd` and `OVMF_CODE_4M.fd` in `/usr/share/OVMF` that is there, else `none`; `none`: QEMU's own BIOS, which can't boot a disk image.",
			set:    path(func(s *settings) *string { return &s.code.File })},
		{name: "MANAGER_QEMU_OVMF_CODE_READONLY", kind: "on", fallback: "on",
			effect: "VMs share the firmware's file and must not write to it: `off` is refused.",
			set:    onOnly(func(s *settings) *bool { return &s.code.ReadOnly })},
		{name: "MANAGER_QEMU_OVMF_VERSION", kind: "text",
			effect: "The operator's name of the firmware's version, shown by `status`. Nothing is checked by it.",
			set:    word(func(s *settings) *string { return &s.ovmfVersion })},
		{name: "MANAGER_QEMU_OVMF_VARS_IF", kind: "pflash", fallback: "pflash",
			effect: "How the firmware's variables are attached.",
			set:    oneOf(func(s *settings) *string { return &s.vars.Interface }, "pflash")},
		{name: "MANAGER_QEMU_OVMF_VARS_FORMAT", kind: "raw or qcow2", fallback: "raw",
			effect: "Format of the variables' file.",
			set:    oneOf(func(s *settings) *string { return &s.vars.Format }, vm.DiskRaw, vm.DiskQcow2)},
		{name: "MANAGER_QEMU_OVMF_VARS_UNIT", kind: "number", unit: "1", fallback: "1",
			effect: "Flash chip of the variables.",
			set:    number(func(s *settings) *int { return &s.vars.Unit }, 1, 1)},
		{name: "MANAGER_QEMU_OVMF_VARS_FILE", kind: "file, auto or none", fallback: "auto",
			effect: "Template of the firmware's variables: each VM gets a copy of its own. `auto`: the file beside the firmware that is named like it, with `VARS` for `CODE`.",
			set:    path(func(s *settings) *string { return &s.vars.File })},
	}
}

func images() []variable {
	return []variable{
		{name: "MANAGER_QEMU_DISK_IMG_KERNEL_FILE", kind: "file",
			effect: "Kernel instead of the image's `bzImage`.",
			set:    path(func(s *settings) *string { return &s.kernel })},
		{name: "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE", kind: "file",
			effect: "Initial RAM disk instead of the image's `rootfs.cpio.gz`.",
			set:    path(func(s *settings) *string { return &s.rootfs })},
		{name: "MANAGER_QEMU_DISK_IMG_FILE", kind: "file",
			effect: "Bootable disk image, booted through OVMF instead of kernel and initial RAM disk. It is never written: each VM has an overlay of its own.",
			set:    path(func(s *settings) *string { return &s.disk.Image })},
		{name: "MANAGER_QEMU_DISK_IMG_IF", kind: "none", fallback: "none",
			effect: "QEMU's interface of the disk image; the SCSI controller is added by itself.",
			set:    oneOf(func(s *settings) *string { return &s.disk.Interface }, "none")},
		{name: "MANAGER_QEMU_DISK_IMG_ID", kind: "name", fallback: "disk0",
			effect: "QEMU's name of the disk.",
			set:    name(func(s *settings) *string { return &s.disk.ID })},
		{name: "MANAGER_QEMU_DISK_IMG_FORMAT", kind: "qcow2 or raw", fallback: "qcow2",
			effect: "Format of the disk image.",
			set:    oneOf(func(s *settings) *string { return &s.disk.Format }, vm.DiskQcow2, vm.DiskRaw)},
	}
}

func network() []variable {
	return []variable{
		{name: "MANAGER_QEMU_NETDEV_ID", kind: "name", fallback: "vmnic",
			effect: "QEMU's name of the VM's network.",
			set:    name(func(s *settings) *string { return &s.machine.Net.ID })},
		{name: "MANAGER_QEMU_HOST_FWD_AGENT", kind: "number", unit: "TCP port, 0 to 65535", fallback: "7020",
			effect: "Host port of an agent, while it is free; 0: only the range.",
			set:    port(func(s *settings) *uint16 { return &s.forward.Preferred }, 0)},
		{name: "MANAGER_QEMU_HOST_FWD_RANGE", kind: "range", unit: "TCP ports, FIRST-LAST", fallback: "6100-6200",
			effect: "Host ports of the agents of further VMs, one each; `none`: no further VMs.",
			set:    portRange},
		{name: "MANAGER_QEMU_HOST_FWD_ADDR", kind: "address", unit: "IPv4", fallback: "0.0.0.0",
			effect: "Address of this host on which agents are reached; 0.0.0.0: every one.",
			set:    forwardAddr},
		{name: "MANAGER_QEMU_GUEST_FWD_AGENT", kind: "number", unit: "TCP port, 1 to 65535", fallback: "7002",
			effect: "Port of the agent in the VM, unless a run request names another.",
			set:    port(func(s *settings) *uint16 { return &s.guestPort }, 1)},
		{name: "MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY", kind: "on or off", fallback: "on",
			effect: "Whether the network device speaks only virtio 1.0.",
			set:    onOff(func(s *settings) *bool { return &s.machine.Net.DisableLegacy })},
		{name: "MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM", kind: yesNo, fallback: "true",
			effect: "Whether the network device goes through the platform's view of memory, as encrypted guests need.",
			set:    boolean(func(s *settings) *bool { return &s.machine.Net.IOMMUPlatform })},
		{name: "MANAGER_QEMU_VIRTIO_NET_PCI_ADDR", kind: "PCI address",
			effect: "Slot of the network device, such as `0x2`; unset: QEMU chooses.",
			set:    pciAddr},
		{name: "MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE", kind: "file or empty", emptyToo: true,
			effect: "Boot ROM of the network device; empty or unset: none.",
			set:    path(func(s *settings) *string { return &s.machine.Net.ROMFile })},
	}
}
