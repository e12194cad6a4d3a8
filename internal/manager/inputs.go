package manager

import (
	"fmt"
	"net/netip"

	"github.com/ultravioletrs/cocos/internal/egress"
	"github.com/ultravioletrs/cocos/manifest"
)

// guestReserve is what the guest needs beside its inputs, in bytes: kernel, agent,
// and the least room for an algorithm.
const guestReserve = 192 << 20

// fits refuses inputs that the VM's memory can't hold: that is where they go, with
// what archives among them unpack to, unless the manifest asks for a scratch disk.
func (j *judgement) fits(f *manifest.Frozen, host Host) {
	total := f.MemoryNeed()
	room := int64(host.Machine.Memory.MiB)<<20 - guestReserve
	switch {
	case total > room && f.ScratchBytes > 0:
		j.add(NoCapacity, "manifest/algorithm", "ask for a host whose VMs have more memory (MANAGER_QEMU_MEMORY_SIZE)",
			"has %d bytes that can't be on the scratch disk; a VM of this host has room for %d", total, max(room, 0))
	case total > room:
		j.add(NoCapacity, "manifest/datasets", "ask for a host whose VMs have more memory (MANAGER_QEMU_MEMORY_SIZE), or freeze the manifest with scratch_bytes",
			"and the algorithm have %d bytes with what they unpack to; a VM of this host has room for %d", total, max(room, 0))
	}
}

// egress refuses sources that the VM's shim would not connect to, as far as that can
// be told before their names are resolved.
func (j *judgement) egress(f *manifest.Frozen, host Host) {
	for i, d := range f.Datasets {
		if d.Source.IsZero() {
			continue
		}
		field := fmt.Sprintf("manifest/datasets/%d/source", i)
		if host.Egress == nil {
			j.add(Unsupported, field, "ask another host, or upload the dataset; the host's operator can set MANAGER_EGRESS=on",
				"is set; this host lets no VM connect to servers (MANAGER_EGRESS)")
			continue
		}
		allow, err := egress.ParseAllow(host.Egress.Allow)
		if err != nil {
			j.add(Internal, field, "the host's operator must see to MANAGER_EGRESS_ALLOW", "%v", err)
			continue
		}
		for _, s := range d.Source.Servers() {
			if a, err := netip.ParseAddrPort(s); err == nil && !allow.Address(s, a.Addr()) {
				j.add(Unsupported, field, "ask another host, or name a server that everybody reaches; the host's operator can allow it in MANAGER_EGRESS_ALLOW",
					"needs %s, which is not of the public Internet and not allowed by this host (MANAGER_EGRESS_ALLOW)", s)
			}
		}
	}
}
