package hostcheck

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"path/filepath"

	"github.com/klauspost/cpuid/v2"

	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// Description is what a policy for this host's VMs has to name, as far as the host
// can tell. It is the host's own word: whoever makes a policy of it compares it
// with what they know from elsewhere.
type Description struct {
	TEE      vm.TEEKind `json:"tee,omitempty"`
	VCPUs    int        `json:"vcpus,omitempty"`
	VCPUType string     `json:"vcpu_type,omitempty"`
	// FirmwareSHA256 is that of the firmware that the TEE measures.
	FirmwareSHA256 string `json:"firmware_sha256,omitempty"`
	// Product is AMD's product line, ReportedTCB the 8 bytes that its reports have.
	Product     string `json:"product,omitempty"`
	ReportedTCB string `json:"reported_tcb,omitempty"`
	// SimulatedRoot is the SHA-256 of the simulated TEE's root certificate.
	SimulatedRoot string `json:"simulated_root,omitempty"`
}

// Describe looks at this host.
func Describe(c Config) Description { return describe(thisHost(), c) }

func describe(h *host, c Config) Description {
	d := Description{TEE: c.TEE.Kind, VCPUs: c.VCPUs}
	if c.TEE.BIOS != "" {
		if b, err := readBIOS(c.TEE.BIOS); err == nil {
			sum := sha256.Sum256(b)
			d.FirmwareSHA256 = hex.EncodeToString(sum[:])
		}
	}
	switch {
	case c.TEE.Kind.AMD():
		d.VCPUType = c.CPU
		d.Product = h.product()
		if s, err := h.snpStatus(); err == nil && c.TEE.Kind == vm.SEVSNP {
			d.ReportedTCB = hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, s.reported))
		}
	case c.TEE.Kind == vm.Simulated:
		b, err := readFile(filepath.Join(c.StateDir, vm.SimDir, sim.RootFile))
		if block, _ := pem.Decode(b); err == nil && block != nil {
			sum := sha256.Sum256(block.Bytes)
			d.SimulatedRoot = hex.EncodeToString(sum[:])
		}
	}
	return d
}

// amdProduct is AMD's product line of the processor; empty: it is of none.
func amdProduct() string {
	line, err := snp.LineOfCPU(uint8(cpuid.CPU.Family), uint8(cpuid.CPU.Model))
	if cpuid.CPU.VendorID != cpuid.AMD || err != nil {
		return ""
	}
	return string(line)
}
