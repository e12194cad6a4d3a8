package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// Image is what a built image measures as in every TEE that was asked for, with
// the command line of attested guests.
type Image struct {
	KernelVersion string      `json:"kernel_version"`
	CommandLine   string      `json:"command_line"`
	SNP           []SNPDigest `json:"sev-snp,omitempty"`
	TDX           *TDDigests  `json:"tdx,omitempty"`
	Simulated     []SimDigest `json:"sim"`
}

// SNPDigest is SEV-SNP's for one shape of VM.
type SNPDigest struct {
	VCPUs         int    `json:"vcpus"`
	VCPUType      string `json:"vcpu_type"`
	GuestFeatures uint64 `json:"guest_features"`
	Measurement   Digest `json:"measurement"`
}

// TDDigests are TDX's, whatever the shape of the VM.
type TDDigests struct {
	MRTD        Digest    `json:"mrtd"`
	RTMR1       Digest    `json:"rtmr1"`
	RTMR2       Digest    `json:"rtmr2"`
	PageOrder   PageOrder `json:"page_order"`
	InitrdFirst bool      `json:"initrd_first"`
	// KnownFirmware is not set where nobody knows that the firmware measures what
	// it boots: RTMR1 and RTMR2 may be other ones, or zero.
	KnownFirmware bool `json:"known_firmware"`
}

// SimDigest is the simulated TEE's.
type SimDigest struct {
	VCPUs       int    `json:"vcpus"`
	Measurement Digest `json:"measurement"`
}

// Digest is SHA-384, as text in lower-case hexadecimal.
type Digest [48]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText is String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// ImageOptions say what to measure of an image.
type ImageOptions struct {
	// SNPFirmware and TDXFirmware are whole files; nil: that TEE is left out.
	SNPFirmware, TDXFirmware []byte
	// VCPUs and VCPUTypes are those of the VMs; SEV-SNP is measured with each
	// number and each type.
	VCPUs         []int
	VCPUTypes     []string
	GuestFeatures uint64
	TDX           TDXOptions
}

// Files are an image's that count, held against its description.
type Files struct {
	Image          hal.Image
	Kernel, Initrd []byte
	// booted has the digests that the description was held against.
	booted booted
}

// ReadFiles reads an image's kernel and initial RAM disk from its folder, and
// refuses files that image.json does not describe. The runtime disk is not read:
// its root hash is on the command line.
func ReadFiles(dir string) (Files, error) {
	img, err := hal.Load(dir)
	if err != nil {
		return Files{}, err
	}
	f := Files{Image: img, booted: booted{commandLine: hal.CommandLine(img, true)}}
	for _, part := range []struct {
		hal.File
		content *[]byte
		sum     *[32]byte
	}{{img.Kernel, &f.Kernel, &f.booted.kernel}, {img.Initrd, &f.Initrd, &f.booted.initrd}} {
		name := filepath.Join(dir, part.Name)
		if *part.content, err = os.ReadFile(name); err != nil {
			return Files{}, fmt.Errorf("reading the guest image: %w", err)
		}
		*part.sum = sha256.Sum256(*part.content)
		if got := hex.EncodeToString(part.sum[:]); got != part.SHA256 {
			return Files{}, fmt.Errorf("guest image: %s has sha256 %s, %s says %s: run `make hal`", name, got, hal.ManifestFile, part.SHA256)
		}
	}
	return f, nil
}

// MeasureImage measures the image in a folder. Its parts are measured at once.
func MeasureImage(dir string, o ImageOptions) (Image, error) {
	f, err := ReadFiles(dir)
	if err != nil {
		return Image{}, err
	}
	return f.Measure(o)
}

// Measure computes everything that o asks for.
func (f Files) Measure(o ImageOptions) (Image, error) {
	img := Image{KernelVersion: f.Image.KernelVersion, CommandLine: f.booted.commandLine}
	var td TD
	var tdErr error
	var wait sync.WaitGroup
	if o.TDXFirmware != nil {
		wait.Go(func() {
			td, tdErr = TDX(Launch{Firmware: o.TDXFirmware, Kernel: f.Kernel, Initrd: f.Initrd, CommandLine: img.CommandLine, TDX: o.TDX})
		})
	}
	err := f.measureAMD(&img, o)
	wait.Wait()
	if err == nil {
		err = tdErr
	}
	if err != nil {
		return Image{}, err
	}
	if o.TDXFirmware != nil {
		order := o.TDX.PageOrder
		if order == "" {
			order = SinglePass
		}
		img.TDX = &TDDigests{td.MRTD, td.RTMR1, td.RTMR2, order, o.TDX.InitrdFirst, ovmf.KnownMeasuring(sha256.Sum256(o.TDXFirmware))}
	}
	return img, nil
}

// measureAMD is for what has SEV-SNP's chain.
func (f Files) measureAMD(img *Image, o ImageOptions) error {
	var firmware *snpFirmware
	if o.SNPFirmware != nil {
		var err error
		if firmware, err = beginSNP(o.SNPFirmware); err != nil {
			return fmt.Errorf("measuring the launch: %w", err)
		}
	}
	simulated, err := bootSimulated(f.booted)
	if err != nil {
		return fmt.Errorf("measuring the simulated launch: %w", err)
	}
	for _, n := range o.VCPUs {
		if err := checkVCPUs(n); err != nil {
			return fmt.Errorf("measuring the launch: %w", err)
		}
		for _, model := range o.VCPUTypes {
			if firmware == nil {
				break
			}
			digest, err := firmware.digest(f.booted, n, model, o.GuestFeatures)
			if err != nil {
				return fmt.Errorf("measuring the launch: %w", err)
			}
			img.SNP = append(img.SNP, SNPDigest{n, model, o.GuestFeatures, digest})
		}
		c := simulated
		c.vcpus(n, resetVector, 0, DefaultGuestFeatures)
		img.Simulated = append(img.Simulated, SimDigest{n, c.digest})
	}
	return nil
}
