package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/hal/measure"
)

// defaultVCPUType is the model that a Manager gives SEV-SNP guests unless it is
// told otherwise.
const defaultVCPUType = "EPYC-v4"

func (a *app) measureImageCmd() *cobra.Command {
	var (
		l        launchFlags
		snp, tdx string
		vcpus    []int
		models   []string
	)
	cmd := &cobra.Command{
		Use:   "image DIR",
		Short: "Print what a built image measures as in every TEE",
		Long: `Print what the image in DIR, as make hal builds it, measures as: in the simulated
TEE, and with the firmware given in SEV-SNP and TDX. The files are held against
image.json; the command line is that of attested guests.`,
		Example: `  cocos-cli measure image cmd/manager/img --vcpus 1,2,4
  cocos-cli measure image cmd/manager/img --firmware-snp OVMF.amdsev.fd --firmware-tdx OVMF.fd --vcpus 4 --json`,
		Args: exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := measure.ImageOptions{VCPUs: vcpus, VCPUTypes: models}
			var err error
			if o.GuestFeatures, err = l.number(); err != nil {
				return err
			}
			if o.TDX, err = l.tdxOptions(cmd); err != nil {
				return err
			}
			if len(vcpus) == 0 {
				return usagef(seeHelp(cmd), "--vcpus is empty")
			}
			for _, n := range vcpus {
				if err := (&shape{vcpus: n}).check(); err != nil {
					return err
				}
			}
			for _, m := range models {
				if err := (&shape{vcpuType: m}).checkModel(); err != nil {
					return err
				}
			}
			for _, f := range []struct {
				flag, name string
				to         *[]byte
			}{{"firmware-snp", snp, &o.SNPFirmware}, {"firmware-tdx", tdx, &o.TDXFirmware}} {
				if f.name == "" {
					continue
				}
				if *f.to, err = readSmall(f.name, maxFirmware); err != nil {
					return fmt.Errorf("--%s: %w", f.flag, err)
				}
			}
			img, err := measure.MeasureImage(args[0], o)
			if err != nil {
				return err
			}
			if o.SNPFirmware != nil {
				a.unknownVerifier(snp, o.SNPFirmware)
			}
			if o.TDXFirmware != nil {
				a.unknownMeasurer(tdx, o.TDXFirmware)
			}
			if err := a.out.result(img, "%s", imageText(img)); err != nil {
				return err
			}
			if o.SNPFirmware == nil || o.TDXFirmware == nil {
				a.out.hint("SEV-SNP and TDX measure the firmware, too: name it with --firmware-snp and --firmware-tdx")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&snp, "firmware-snp", "", "SEV-SNP's firmware, a `FILE`")
	f.StringVar(&tdx, "firmware-tdx", "", "TDX's firmware, a `FILE`")
	f.IntSliceVar(&vcpus, "vcpus", []int{1, 2, 4, 8}, "`NUMBERS` of virtual CPUs")
	f.StringSliceVar(&models, "vcpu-type", []string{defaultVCPUType}, "QEMU's `MODELS` of them; SEV-SNP alone measures them")
	f.StringVar(&l.features, "guest-features", "1", "SEV_FEATURES of the guest, a `NUMBER`, hexadecimal with 0x; 1 is QEMU's")
	complete(cmd, "vcpu-type", measure.VCPUTypes)
	l.tdx(cmd)
	return cmd
}

// imageText has a line for each digest, the digest last.
func imageText(img measure.Image) string {
	var b strings.Builder
	for _, d := range img.SNP {
		fmt.Fprintf(&b, "sev-snp  vCPUs %d  %s  features %#x  %s\n", d.VCPUs, d.VCPUType, d.GuestFeatures, d.Measurement)
	}
	if t := img.TDX; t != nil {
		fmt.Fprintf(&b, "tdx      MRTD (%s)  %s\ntdx      RTMR1  %s\ntdx      RTMR2  %s\n", t.PageOrder, t.MRTD, t.RTMR1, t.RTMR2)
	}
	for _, d := range img.Simulated {
		fmt.Fprintf(&b, "sim      vCPUs %d  %s\n", d.VCPUs, d.Measurement)
	}
	return b.String()
}
