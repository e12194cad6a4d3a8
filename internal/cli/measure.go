package cli

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// Bounds of what is measured, in bytes.
const (
	maxFirmware = ovmf.MaxSize
	maxKernel   = 256 << 20
	maxInitrd   = 1 << 30
)

// launchFlags say what a VM is launched with. Which of them a command has, and
// needs, is its own.
type launchFlags struct {
	firmware, kernel, initrd, commandLine string
	shape
	order       string
	initrdFirst bool
}

// shape is that of the VM, which AMD's TEEs measure.
type shape struct {
	vcpus    int
	vcpuType string
	features string
}

func (l *launchFlags) files(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.firmware, "firmware", "", "the firmware that QEMU is given with -bios, a `FILE`")
	f.StringVar(&l.kernel, "kernel", "", "the kernel, a `FILE`")
	f.StringVar(&l.initrd, "initrd", "", "the initial RAM disk, a `FILE`")
	f.StringVar(&l.commandLine, "append", "", "the kernel's command line, exactly as it is given to QEMU")
}

func (s *shape) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&s.vcpus, "vcpus", 0, "`NUMBER` of virtual CPUs")
	f.StringVar(&s.vcpuType, "vcpu-type", "", "QEMU's `MODEL` of them, such as EPYC-v4")
	f.StringVar(&s.features, "guest-features", strconv.Itoa(measure.DefaultGuestFeatures), "SEV_FEATURES of the guest, a `NUMBER`, hexadecimal with 0x; 1 is QEMU's")
	complete(cmd, "vcpu-type", measure.VCPUTypes)
}

func (l *launchFlags) tdx(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.order, "page-order", string(measure.SinglePass), "how the host adds a TD's pages: `ORDER` is single-pass (Linux 6.16 and later) or two-pass")
	f.BoolVar(&l.initrdFirst, "initrd-first", false, "the firmware puts initrd=initrd before the command line (EDK II after 2025.02)")
	complete(cmd, "page-order", pageOrders)
}

func pageOrders() []string {
	var names []string
	for _, o := range measure.PageOrders() {
		names = append(names, string(o))
	}
	return names
}

// tdxOptions checks the flags of tdx.
func (l *launchFlags) tdxOptions(cmd *cobra.Command) (measure.TDXOptions, error) {
	for _, o := range measure.PageOrders() {
		if l.order == string(o) {
			return measure.TDXOptions{PageOrder: o, InitrdFirst: l.initrdFirst}, nil
		}
	}
	return measure.TDXOptions{}, usagef(seeHelp(cmd), "--page-order %q is not known: %s", l.order, strings.Join(pageOrders(), " or "))
}

// needed wants the flags that a command can't do without.
func needed(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if !cmd.Flags().Changed(name) {
			return usagef(seeHelp(cmd), "--%s is missing", name)
		}
	}
	return nil
}

// number reads --guest-features.
func (s *shape) number() (uint64, error) {
	n, err := strconv.ParseUint(s.features, 0, 64)
	if err != nil {
		return 0, usagef("SEV_FEATURES are bits, such as 0x1 or 0x21", "--guest-features %q is no number of 64 bits", s.features)
	}
	return n, nil
}

// check looks at the shape before files are read.
func (s *shape) check() error {
	if s.vcpus < 1 || s.vcpus > measure.MaxVCPUs {
		return usagef("give the number that the VM has", "--vcpus %d: expected 1 to %d", s.vcpus, measure.MaxVCPUs)
	}
	return nil
}

// checkModel refuses a model that is not known.
func (s *shape) checkModel() error {
	if !measure.KnownVCPUType(s.vcpuType) {
		return usagef("give QEMU's name of the model, with or without its version", "--vcpu-type %q is not known; known are %s", s.vcpuType, strings.Join(measure.VCPUTypes(), ", "))
	}
	return nil
}

// read reads the files that were named.
func (l *launchFlags) read() (measure.Launch, error) {
	m := measure.Launch{CommandLine: l.commandLine, VCPUs: l.vcpus, VCPUType: l.vcpuType}
	for _, f := range []struct {
		flag, name string
		limit      int64
		to         *[]byte
	}{
		{"firmware", l.firmware, maxFirmware, &m.Firmware},
		{"kernel", l.kernel, maxKernel, &m.Kernel},
		{"initrd", l.initrd, maxInitrd, &m.Initrd},
	} {
		if f.name == "" {
			continue
		}
		var err error
		if *f.to, err = readSmall(f.name, f.limit); err != nil {
			return m, fmt.Errorf("--%s: %w", f.flag, err)
		}
	}
	return m, nil
}

func (a *app) measureCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "measure",
		Short: "Compute what a TEE measures of a launch",
		Long: `Compute what a TEE measures of a launch, from the files alone: nothing that a host
says is needed. What comes out goes into a policy (cocos-cli policy init does that).`,
	}
	group(cmd, a.measureImageCmd(), a.measureSNPCmd(), a.measureTDXCmd())
	return cmd
}

func (a *app) measureSNPCmd() *cobra.Command {
	var l launchFlags
	cmd := &cobra.Command{
		Use:   "snp",
		Short: "Print the launch digest of SEV-SNP",
		Long: `Print the launch digest of an SEV-SNP guest that QEMU starts with kernel-hashes=on.
It covers the firmware, the hashes of kernel, initial RAM disk and command line, and
a save area for each virtual CPU.`,
		Example: `  cocos-cli measure snp --firmware OVMF.amdsev.fd --kernel bzImage --initrd rootfs.cpio.gz \
    --append "console=null panic=-1" --vcpus 4 --vcpu-type EPYC-v4`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "firmware", "kernel", "initrd", "vcpus", "vcpu-type"); err != nil {
				return err
			}
			features, err := l.number()
			if err == nil {
				err = l.check()
			}
			if err == nil {
				err = l.checkModel()
			}
			if err != nil {
				return err
			}
			m, err := l.read()
			if err != nil {
				return err
			}
			m.GuestFeatures = features
			digest, err := measure.SNP(m)
			if err != nil {
				return err
			}
			a.unknownVerifier(l.firmware, m.Firmware)
			return a.out.result(measure.SNPDigest{VCPUs: m.VCPUs, VCPUType: m.VCPUType, GuestFeatures: features, Measurement: digest}, "%x\n", digest)
		},
	}
	l.files(cmd)
	l.flags(cmd)
	return cmd
}

// unknownVerifier warns of a firmware whose measurement may cover nothing of what
// it boots.
func (a *app) unknownVerifier(name string, b []byte) {
	if sum := sha256.Sum256(b); !ovmf.KnownVerifying(sum) {
		a.out.hint("%s has the SHA-256 %x: no build that is known to compare kernel, initial RAM disk and command line with the\nmeasured hashes. If it does not, the measurement says nothing of them, and a host boots what it likes", clean(name), sum)
	}
}

// unknownMeasurer warns of a firmware whose RTMRs may be others.
func (a *app) unknownMeasurer(name string, b []byte) {
	if sum := sha256.Sum256(b); !ovmf.KnownMeasuring(sum) {
		a.out.hint("%s has the SHA-256 %x: no build whose order of measuring is known. RTMR1 and RTMR2 may be others,\nor zero if it measures nothing", clean(name), sum)
	}
}

func (a *app) measureTDXCmd() *cobra.Command {
	var l launchFlags
	cmd := &cobra.Command{
		Use:   "tdx",
		Short: "Print MRTD, RTMR1 and RTMR2 of a TD",
		Long: `Print MRTD, RTMR1 and RTMR2 of a TD that QEMU starts with a kernel: MRTD is over the
firmware, RTMR1 over the kernel, RTMR2 over command line and initial RAM disk. RTMR0
depends on the host's ACPI tables and the TD's shape: take it from evidence.`,
		Example: `  cocos-cli measure tdx --firmware OVMF.fd --kernel bzImage --initrd rootfs.cpio.gz --append "console=null panic=-1"`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "firmware", "kernel", "initrd"); err != nil {
				return err
			}
			o, err := l.tdxOptions(cmd)
			if err != nil {
				return err
			}
			m, err := l.read()
			if err != nil {
				return err
			}
			m.TDX = o
			td, err := measure.TDX(m)
			if err != nil {
				return err
			}
			a.unknownMeasurer(l.firmware, m.Firmware)
			return a.out.result(measure.TDDigests{
				MRTD: td.MRTD, RTMR1: td.RTMR1, RTMR2: td.RTMR2, PageOrder: o.PageOrder, InitrdFirst: o.InitrdFirst,
				KnownFirmware: ovmf.KnownMeasuring(sha256.Sum256(m.Firmware)),
			}, "MRTD   %x  (%s)\nRTMR1  %x\nRTMR2  %x\n", td.MRTD, o.PageOrder, td.RTMR1, td.RTMR2)
		},
	}
	l.files(cmd)
	l.tdx(cmd)
	return cmd
}
