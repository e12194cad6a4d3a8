package main

import (
	"time"

	"github.com/ultravioletrs/cocos/internal/config"
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
		{Name: "MANAGER_LOG_LEVEL", Kind: "debug, info, warn or error", Fallback: "info",
			Effect: "Least level of the lines that are logged.",
			Set:    config.OneOf(func(s *settings) *string { return &s.logLevel }, manager.LogLevels()...)},
		{Name: "MANAGER_LOG_FORMAT", Kind: "text or json", Fallback: "text",
			Effect: "Form of the log: `text` for people, `json` for programs.",
			Set:    config.OneOf(func(s *settings) *string { return &s.logFormat }, "text", "json")},
		{Name: "MANAGER_INSTANCE_ID", Kind: "text",
			Effect: "Name of this Manager for the server and in logs; unset: the host's name.",
			Set:    word(func(s *settings) *string { return &s.instanceID })},
		{Name: "MANAGER_EOS_VERSION", Kind: "text",
			Effect: "The operator's name of the guest image's version, told to the server and shown by `status`. Nothing is checked by it: digests are.",
			Set:    word(func(s *settings) *string { return &s.eosVersion })},
		{Name: "MANAGER_GRPC_URL", Kind: "HOST:PORT", Fallback: "localhost:7001",
			Effect: "The computations server; unset: where `cocos-manager enroll` joined, else the default. The connection is always TLS 1.3.",
			Set:    setServer},
		{Name: "MANAGER_GRPC_TIMEOUT", Kind: "duration", Unit: "Go duration, 100ms to 10m", Fallback: "60s",
			Effect: "How long connecting and greeting may take.",
			Set:    config.Duration(func(s *settings) *time.Duration { return &s.serverTimeout }, 100*time.Millisecond, 10*time.Minute)},
		{Name: "MANAGER_GRPC_CLIENT_CERT", Kind: "file",
			Effect: "PEM certificate that this Manager shows to the server; unset: the one that `cocos-manager enroll` left in the state directory, else none. One that the server gave is renewed by the Manager, which must be able to write the file.",
			Set:    config.Path(func(s *settings) *string { return &s.clientCert })},
		{Name: "MANAGER_GRPC_CLIENT_KEY", Kind: "file",
			Effect: "PEM private key of that certificate.",
			Set:    config.Path(func(s *settings) *string { return &s.clientKey })},
		{Name: "MANAGER_GRPC_SERVER_CA_CERTS", Kind: "file",
			Effect: "PEM certificates of the authorities that the server's certificate must come from; unset: those that `cocos-manager enroll` left in the state directory, else those that this system trusts.",
			Set:    config.Path(func(s *settings) *string { return &s.serverCAs })},
		{Name: "MANAGER_STATE_DIR", Kind: "folder",
			Effect: "Where running VMs are kept; unset: `cmd/manager/tmp` in the source tree, else `/var/lib/cocos`. It must be short, as unix sockets lie in it: a path that is too long is refused.",
			Set:    config.Path(func(s *settings) *string { return &s.stateDir })},
		{Name: "MANAGER_IMAGE_DIR", Kind: "folder",
			Effect: "The guest image with its `image.json`; unset: `cmd/manager/img` in the source tree, else `/var/lib/cocos/img`.",
			Set:    config.Path(func(s *settings) *string { return &s.imageDir })},
		{Name: "MANAGER_CONTROL_SOCKET", Kind: "file",
			Effect: "Unix socket of the control API that `cocos-cli manager` uses; unset: `control.sock` in the state directory. The packaged unit sets `/run/cocos/manager.sock`.",
			Set:    config.Path(func(s *settings) *string { return &s.controlSocket })},
		{Name: "MANAGER_CONTROL_GROUP", Kind: "group",
			Effect: "Name of the group whose members may use the control socket; unset: only the Manager's own user.",
			Set:    group},
		{Name: "MANAGER_HTTP_ADDR", Kind: "ADDRESS:PORT or none", Fallback: "127.0.0.1:9101",
			Effect: "Where health and metrics are served, without TLS: keep it on loopback.",
			Set:    httpAddr},
		{Name: "COCOS_JAEGER_URL", Kind: "URL", Secret: true,
			Effect: "OTLP/HTTP endpoint that traces are sent to, such as `http://localhost:4318/v1/traces`; unset: no traces.",
			Set:    config.TraceURL(func(s *settings) *string { return &s.traceURL })},
		{Name: "COCOS_JAEGER_TRACE_RATIO", Kind: "number", Unit: "share of runs, 0 to 1", Fallback: "1",
			Effect: "Share of the runs that are traced, where the server does not decide.",
			Set:    config.Ratio(func(s *settings) *float64 { return &s.traceRatio })},
	}
}

func limits() []variable {
	return []variable{
		{Name: "MANAGER_BOOT_TIMEOUT", Kind: "duration", Unit: "Go duration, 1s to 1h", Fallback: "5m",
			Effect: "How long a VM may take until its agent reports; then it is ended.",
			Set:    config.Duration(func(s *settings) *time.Duration { return &s.bootTimeout }, time.Second, time.Hour)},
		{Name: "MANAGER_STOP_GRACE", Kind: "duration", Unit: "Go duration, 1s to 1h", Fallback: "30s",
			Effect: "How long a guest that is asked to stop may take; then its VM is ended.",
			Set:    config.Duration(func(s *settings) *time.Duration { return &s.stopGrace }, time.Second, time.Hour)},
		{Name: "MANAGER_MAX_TTL", Kind: "duration or none", Unit: "Go duration, 1s to 8760h", Fallback: "none",
			Effect: "How long a VM may live. A run request that asks for more is refused, one that does not say gets this.",
			Set:    durationOrNone(func(s *settings) *time.Duration { return &s.limits.MaxLife }, time.Second, 8760*time.Hour)},
		{Name: "MANAGER_MAX_VMS", Kind: "number", Unit: "VMs, 1 to 10000", Fallback: "10",
			Effect: "VMs at once; further run requests are refused.",
			Set:    config.Number(func(s *settings) *int { return &s.limits.MaxVMs }, 1, 10000)},
		{Name: "MANAGER_MAX_VCPUS", Kind: "number or none", Unit: "virtual CPUs, 1 to 100000", Fallback: "none",
			Effect: "Virtual CPUs of all VMs together.",
			Set:    numberOrNone(func(s *settings) *int { return &s.limits.MaxVCPUs }, 1, 100000)},
		{Name: "MANAGER_MAX_VM_MEMORY", Kind: "size, auto or none", Unit: "number with M or G", Fallback: "auto",
			Effect: "Memory of all VMs together. `auto`: what the host has, less 512 MiB.",
			Set:    memoryLimit},
		{Name: "MANAGER_MIN_FREE_DISK", Kind: "size", Unit: "number with M or G", Fallback: "512M",
			Effect: "What must stay free on the state directory's file system, beside what the VMs may still write.",
			Set:    freeDisk},
		{Name: "MANAGER_SCRATCH_MAX", Kind: "size, 0, auto or none", Unit: "number with M or G", Fallback: "auto",
			Effect: "Scratch disks of all VMs together, for inputs larger than memory, by the sizes in their manifests. `auto`: half of the state directory's file system; `none`: as much as is free; 0: run requests that want one are refused.",
			Set:    scratchLimit},
	}
}

func hardware() []variable {
	return []variable{
		{Name: "MANAGER_QEMU_BIN_PATH", Kind: "program", Fallback: "qemu-system-x86_64",
			Effect: "QEMU: a path, or a name to look for in PATH. 7.2 or later; 10 or later without KVM.",
			Set:    config.Path(func(s *settings) *string { return &s.qemu })},
		{Name: "MANAGER_QEMU_USE_SUDO", Kind: yesNo, Fallback: "false",
			Effect: "Start QEMU through sudo, for hosts whose devices want root.",
			Set:    boolean(func(s *settings) *bool { return &s.machine.Sudo })},
		{Name: "MANAGER_QEMU_ENABLE_KVM", Kind: "auto, true or false", Fallback: "auto",
			Effect: "`auto`: KVM where a test guest runs under it, else emulation with a warning. `true`: refuse to start without.",
			Set:    config.OneOf(func(s *settings) *string { return &s.kvm }, "auto", "true", "false")},
		{Name: "MANAGER_QEMU_MACHINE", Kind: "q35", Fallback: "q35",
			Effect: "Machine type of the VMs.",
			Set:    config.OneOf(func(s *settings) *string { return &s.machine.Type }, "q35")},
		{Name: "MANAGER_QEMU_CPU", Kind: "text", Fallback: "EPYC", Otherwise: "max",
			Effect: "CPU model of the VMs, as QEMU names it.",
			Set:    cpu},
		{Name: "MANAGER_QEMU_SMP_COUNT", Kind: "number", Unit: "virtual CPUs, 1 to 512", Fallback: "4", Otherwise: "1",
			Effect: "Virtual CPUs of each VM. Emulated VMs boot fastest with one.",
			Set:    config.Number(func(s *settings) *int { return &s.machine.VCPUs }, 1, 512)},
		{Name: "MANAGER_QEMU_SMP_MAXCPUS", Kind: "number", Unit: "virtual CPUs, 1 to 512", Fallback: "64",
			Effect: "Virtual CPUs that a VM has room for; at least `MANAGER_QEMU_SMP_COUNT`.",
			Set:    config.Number(func(s *settings) *int { return &s.machine.MaxVCPUs }, 1, 512)},
		{Name: "MANAGER_QEMU_MEM_ID", Kind: "name", Fallback: "ram1",
			Effect: "QEMU's name of the memory object, where there is one.",
			Set:    name(func(s *settings) *string { return &s.machine.Memory.ID })},
		{Name: "MANAGER_QEMU_MEMORY_SIZE", Kind: "size", Unit: "number with M or G, 256M to 16384G", Fallback: "4096M", Otherwise: "2048M",
			Effect: "Memory of each VM; results lie in it, too, and inputs, unless the manifest has a scratch disk for them.",
			Set:    memory(func(s *settings) *int { return &s.machine.Memory.MiB })},
		{Name: "MANAGER_QEMU_MEMORY_SLOTS", Kind: "number", Unit: "0 to 256", Fallback: "5",
			Effect: "Slots for further memory; 0: none, and `MANAGER_QEMU_MAX_MEMORY` has no effect.",
			Set:    config.Number(func(s *settings) *int { return &s.machine.Memory.Slots }, 0, 256)},
		{Name: "MANAGER_QEMU_MAX_MEMORY", Kind: "size", Unit: "number with M or G, 256M to 16384G", Fallback: "30G",
			Effect: "Memory that a VM has room for; more than `MANAGER_QEMU_MEMORY_SIZE`.",
			Set:    memory(func(s *settings) *int { return &s.machine.Memory.MaxMiB })},
		{Name: "MANAGER_QEMU_NO_GRAPHIC", Kind: yesNo, Fallback: "true",
			Effect: "`false`: VMs get a screen, served as VNC on the socket `screen.sock` in their folder.",
			Set:    boolean(func(s *settings) *bool { return &s.machine.NoGraphic })},
		{Name: "MANAGER_QEMU_MONITOR", Kind: "pty or none", Fallback: "pty",
			Effect: "QEMU's monitor for people: on a terminal device that the VM's log names, or none.",
			Set:    config.OneOf(func(s *settings) *string { return &s.machine.Monitor }, vm.MonitorPTY, vm.MonitorNone)},
		{Name: "MANAGER_QEMU_VSOCK", Kind: "auto, kernel or user", Fallback: "auto",
			Effect: "Host's side of the VMs' vsock: the kernel's `/dev/vhost-vsock`, or the device built into the shim. `auto`: the kernel's where it can be used.",
			Set:    config.OneOf(func(s *settings) *string { return &s.vsock }, "auto", string(vm.VsockKernel), string(vm.VsockUser))},
		{Name: "MANAGER_QEMU_VSOCK_ID", Kind: "name", Fallback: "vhost-vsock-pci0",
			Effect: "QEMU's name of the vsock device.",
			Set:    name(func(s *settings) *string { return &s.machine.Vsock.ID })},
		{Name: "MANAGER_QEMU_VSOCK_GUEST_CID", Kind: "number", Unit: "context id, 3 to 65534", Fallback: "3",
			Effect: "First guest CID to use; with the kernel's vsock the first one from there that is free.",
			Set:    cid},
	}
}

func firmware() []variable {
	return []variable{
		{Name: "MANAGER_QEMU_OVMF_CODE_IF", Kind: "pflash", Fallback: "pflash",
			Effect: "How the firmware is attached.",
			Set:    config.OneOf(func(s *settings) *string { return &s.code.Interface }, "pflash")},
		{Name: "MANAGER_QEMU_OVMF_CODE_FORMAT", Kind: "raw or qcow2", Fallback: "raw",
			Effect: "Format of the firmware's file.",
			Set:    config.OneOf(func(s *settings) *string { return &s.code.Format }, vm.DiskRaw, vm.DiskQcow2)},
		{Name: "MANAGER_QEMU_OVMF_CODE_UNIT", Kind: "number", Unit: "0", Fallback: "0",
			Effect: "Flash chip of the firmware: QEMU boots from the first.",
			Set:    config.Number(func(s *settings) *int { return &s.code.Unit }, 0, 0)},
		{Name: "MANAGER_QEMU_OVMF_CODE_FILE", Kind: "file, auto or none", Fallback: "auto", Otherwise: "none",
			Effect: "OVMF. `auto`: the first of `OVMF_CODE.fd` and `OVMF_CODE_4M.fd` in `/usr/share/OVMF` that is there, else `none`; `none`: QEMU's own BIOS, which can't boot a disk image.",
			Set:    config.Path(func(s *settings) *string { return &s.code.File })},
		{Name: "MANAGER_QEMU_OVMF_CODE_READONLY", Kind: "on", Fallback: "on",
			Effect: "VMs share the firmware's file and must not write to it: `off` is refused.",
			Set:    onOnly(func(s *settings) *bool { return &s.code.ReadOnly })},
		{Name: "MANAGER_QEMU_OVMF_VERSION", Kind: "text",
			Effect: "The operator's name of the firmware's version, shown by `status`. Nothing is checked by it.",
			Set:    word(func(s *settings) *string { return &s.ovmfVersion })},
		{Name: "MANAGER_QEMU_OVMF_VARS_IF", Kind: "pflash", Fallback: "pflash",
			Effect: "How the firmware's variables are attached.",
			Set:    config.OneOf(func(s *settings) *string { return &s.vars.Interface }, "pflash")},
		{Name: "MANAGER_QEMU_OVMF_VARS_FORMAT", Kind: "raw or qcow2", Fallback: "raw",
			Effect: "Format of the variables' file.",
			Set:    config.OneOf(func(s *settings) *string { return &s.vars.Format }, vm.DiskRaw, vm.DiskQcow2)},
		{Name: "MANAGER_QEMU_OVMF_VARS_UNIT", Kind: "number", Unit: "1", Fallback: "1",
			Effect: "Flash chip of the variables.",
			Set:    config.Number(func(s *settings) *int { return &s.vars.Unit }, 1, 1)},
		{Name: "MANAGER_QEMU_OVMF_VARS_FILE", Kind: "file, auto or none", Fallback: "auto",
			Effect: "Template of the firmware's variables: each VM gets a copy of its own. `auto`: the file beside the firmware that is named like it, with `VARS` for `CODE`.",
			Set:    config.Path(func(s *settings) *string { return &s.vars.File })},
	}
}

func images() []variable {
	return []variable{
		{Name: "MANAGER_QEMU_DISK_IMG_KERNEL_FILE", Kind: "file",
			Effect: "Kernel instead of the image's `bzImage`.",
			Set:    config.Path(func(s *settings) *string { return &s.kernel })},
		{Name: "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE", Kind: "file",
			Effect: "Initial RAM disk instead of the image's `rootfs.cpio.gz`.",
			Set:    config.Path(func(s *settings) *string { return &s.rootfs })},
		{Name: "MANAGER_QEMU_DISK_IMG_FILE", Kind: "file",
			Effect: "Bootable disk image, booted through OVMF instead of kernel and initial RAM disk. It is never written: each VM has an overlay of its own.",
			Set:    config.Path(func(s *settings) *string { return &s.disk.Image })},
		{Name: "MANAGER_QEMU_DISK_IMG_IF", Kind: "none", Fallback: "none",
			Effect: "QEMU's interface of the disk image; the SCSI controller is added by itself.",
			Set:    config.OneOf(func(s *settings) *string { return &s.disk.Interface }, "none")},
		{Name: "MANAGER_QEMU_DISK_IMG_ID", Kind: "name", Fallback: "disk0",
			Effect: "QEMU's name of the disk.",
			Set:    name(func(s *settings) *string { return &s.disk.ID })},
		{Name: "MANAGER_QEMU_DISK_IMG_FORMAT", Kind: "qcow2 or raw", Fallback: "qcow2",
			Effect: "Format of the disk image.",
			Set:    config.OneOf(func(s *settings) *string { return &s.disk.Format }, vm.DiskQcow2, vm.DiskRaw)},
	}
}

func network() []variable {
	return []variable{
		{Name: "MANAGER_QEMU_NETDEV_ID", Kind: "name", Fallback: "vmnic",
			Effect: "QEMU's name of the VM's network.",
			Set:    name(func(s *settings) *string { return &s.machine.Net.ID })},
		{Name: "MANAGER_QEMU_HOST_FWD_AGENT", Kind: "number", Unit: "TCP port, 0 to 65535", Fallback: "7020",
			Effect: "Host port of an agent, while it is free; 0: only the range.",
			Set:    port(func(s *settings) *uint16 { return &s.forward.Preferred }, 0)},
		{Name: "MANAGER_QEMU_HOST_FWD_RANGE", Kind: "range", Unit: "TCP ports, FIRST-LAST", Fallback: "6100-6200",
			Effect: "Host ports of the agents of further VMs, one each; `none`: no further VMs.",
			Set:    portRange},
		{Name: "MANAGER_QEMU_HOST_FWD_ADDR", Kind: "address", Unit: "IPv4", Fallback: "0.0.0.0",
			Effect: "Address of this host on which agents are reached; 0.0.0.0: every one.",
			Set:    forwardAddr},
		{Name: "MANAGER_QEMU_GUEST_FWD_AGENT", Kind: "number", Unit: "TCP port, 1 to 65535", Fallback: "7002",
			Effect: "Port of the agent in the VM, unless a run request names another.",
			Set:    port(func(s *settings) *uint16 { return &s.guestPort }, 1)},
		{Name: "MANAGER_EGRESS", Kind: "on or off", Fallback: "off",
			Effect: "`on`: agents may connect, through this host, to the servers that their manifests take datasets from. `off`: runs of such manifests are refused.",
			Set:    onOff(func(s *settings) *bool { return &s.egress })},
		{Name: "MANAGER_EGRESS_ALLOW", Kind: "list", Unit: "networks as ADDRESS/BITS and servers as HOST:PORT, with commas",
			Effect: "Where agents may connect to beside the public Internet, such as `10.1.0.0/16,minio.corp.example:9000`; unset: nowhere. With `MANAGER_EGRESS=on` only.",
			Set:    egressAllow},
		{Name: "MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY", Kind: "on or off", Fallback: "on",
			Effect: "Whether the network device speaks only virtio 1.0.",
			Set:    onOff(func(s *settings) *bool { return &s.machine.Net.DisableLegacy })},
		{Name: "MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM", Kind: yesNo, Fallback: "true",
			Effect: "Whether the network device goes through the platform's view of memory, as encrypted guests need.",
			Set:    boolean(func(s *settings) *bool { return &s.machine.Net.IOMMUPlatform })},
		{Name: "MANAGER_QEMU_VIRTIO_NET_PCI_ADDR", Kind: "PCI address",
			Effect: "Slot of the network device, such as `0x2`; unset: QEMU chooses.",
			Set:    pciAddr},
		{Name: "MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE", Kind: "file or empty", EmptyToo: true,
			Effect: "Boot ROM of the network device; empty or unset: none.",
			Set:    config.Path(func(s *settings) *string { return &s.machine.Net.ROMFile })},
	}
}
