package measure

import (
	"crypto/sha256"
	"crypto/sha512"
	"slices"
)

// Candidates are what may have been launched. A search tries every combination,
// the first of each kind first, each with 1 to SearchVCPUs vCPUs.
type Candidates struct {
	Firmwares, Kernels, Initrds [][]byte
	CommandLines                []string
	// VCPUTypes and GuestFeatures are tried before those that are known; SEV-SNP
	// alone.
	VCPUTypes     []string
	GuestFeatures []uint64
}

// SearchVCPUs is the largest number of vCPUs that a search tries.
const SearchVCPUs = 64

// commonFeatures are SEV_FEATURES that guests are found with: QEMU's, with debug
// swap, and with restricted or alternate injection.
var commonFeatures = []uint64{DefaultGuestFeatures, 0x21, 0x9, 0x11}

// Found is what a search found: indexes into Candidates and the rest in full.
type Found struct {
	Firmware, Kernel, Initrd, CommandLine int
	VCPUs                                 int
	VCPUType                              string
	GuestFeatures                         uint64
}

// FindSNP looks for what SEV-SNP measures as digest. Firmware that it can't
// launch is passed over.
func (c Candidates) FindSNP(digest [48]byte) (Found, bool) {
	models := slices.Concat(c.VCPUTypes, VCPUTypes())
	features := slices.Concat(c.GuestFeatures, commonFeatures)
	for f, firmware := range c.Firmwares {
		loaded, err := beginSNP(firmware)
		if err != nil {
			continue
		}
		limit := SearchVCPUs
		if loaded.tables.ResetEIP == 0 {
			limit = 1
		}
		type cpu struct {
			first, others [48]byte
			model         string
			features      uint64
		}
		var cpus []cpu
		for _, model := range models {
			signature, err := cpuSignature(model)
			if err != nil {
				continue
			}
			for _, n := range features {
				n := cpu{sha512.Sum384(vmsa(resetVector, signature, n)), sha512.Sum384(vmsa(loaded.tables.ResetEIP, signature, n)), model, n}
				if !slices.ContainsFunc(cpus, func(o cpu) bool { return o.first == n.first }) {
					cpus = append(cpus, n)
				}
			}
		}
		found, ok := c.boots(func(b booted) (Found, bool) {
			at, err := loaded.boot(b)
			if err != nil {
				return Found{}, false
			}
			for _, n := range cpus {
				if vcpus, ok := at.countVCPUs(n.first, n.others, digest, limit); ok {
					return Found{VCPUs: vcpus, VCPUType: n.model, GuestFeatures: n.features}, true
				}
			}
			return Found{}, false
		})
		if ok {
			found.Firmware = f
			return found, true
		}
	}
	return Found{}, false
}

// FindSimulated looks for what the simulated TEE measures as digest.
func (c Candidates) FindSimulated(digest [48]byte) (Found, bool) {
	area := sha512.Sum384(vmsa(resetVector, 0, DefaultGuestFeatures))
	return c.boots(func(b booted) (Found, bool) {
		at, err := bootSimulated(b)
		if err != nil {
			return Found{}, false
		}
		vcpus, ok := at.countVCPUs(area, area, digest, SearchVCPUs)
		return Found{VCPUs: vcpus}, ok
	})
}

// boots calls try with every combination of what is booted, until it is found.
func (c Candidates) boots(try func(booted) (Found, bool)) (Found, bool) {
	kernels, initrds := sums(c.Kernels), sums(c.Initrds)
	for k, kernel := range kernels {
		for i, initrd := range initrds {
			for l, line := range c.CommandLines {
				if found, ok := try(booted{kernel, initrd, line}); ok {
					found.Kernel, found.Initrd, found.CommandLine = k, i, l
					return found, true
				}
			}
		}
	}
	return Found{}, false
}

func sums(files [][]byte) [][32]byte {
	out := make([][32]byte, len(files))
	for i, f := range files {
		out[i] = sha256.Sum256(f)
	}
	return out
}

// countVCPUs adds save areas until the chain is digest.
func (c chain) countVCPUs(first, others, digest [48]byte, limit int) (int, bool) {
	for n := 1; n <= limit; n++ {
		contents := others
		if n == 1 {
			contents = first
		}
		if c.add(pageVMSA, vmsaAddress, contents); c.digest == digest {
			return n, true
		}
	}
	return 0, false
}

// FindMRTD looks for the firmware, and the order of its pages, that a TD measures
// as mrtd.
func (c Candidates) FindMRTD(mrtd [48]byte) (firmware int, order PageOrder, ok bool) {
	for i, f := range c.Firmwares {
		for _, order := range PageOrders() {
			if got, err := MRTD(f, order); err == nil && got == mrtd {
				return i, order, true
			}
		}
	}
	return 0, "", false
}

// FindRTMR1 looks for the kernel.
func (c Candidates) FindRTMR1(rtmr1 [48]byte) (kernel int, ok bool) {
	i := slices.IndexFunc(c.Kernels, func(k []byte) bool {
		got, err := RTMR1(k)
		return err == nil && got == rtmr1
	})
	return i, i >= 0
}

// FindRTMR2 looks for command line and initial RAM disk, and where the firmware
// put its own parameter.
func (c Candidates) FindRTMR2(rtmr2Value [48]byte) (commandLine, initrd int, initrdFirst, ok bool) {
	for i, disk := range c.Initrds {
		sum := sha512.Sum384(disk)
		for l, line := range c.CommandLines {
			for _, first := range []bool{false, true} {
				if got, err := rtmr2(line, sum, len(disk) > 0, first); err == nil && got == rtmr2Value {
					return l, i, first, true
				}
			}
		}
	}
	return 0, 0, false, false
}
