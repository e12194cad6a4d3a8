package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/explain"
	"github.com/ultravioletrs/cocos/attest/sgx"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/attest/tdx"
	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/measure"
)

// launchedFlags name what was expected to run, and what may have run instead: each
// may be given several times, the expected one first.
type launchedFlags struct {
	images, firmwares, kernels, initrds, lines, manifests []string
	shape
}

func (l *launchedFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&l.images, "image", nil, "a built image, a `DIR`; the one that you expected first (repeatable, as are the next)")
	f.StringArrayVar(&l.firmwares, "firmware", nil, "the firmware, a `FILE`")
	f.StringArrayVar(&l.kernels, "kernel", nil, "a kernel, a `FILE`")
	f.StringArrayVar(&l.initrds, "initrd", nil, "an initial RAM disk, a `FILE`")
	f.StringArrayVar(&l.lines, "append", nil, "a kernel command line")
	f.StringArrayVar(&l.manifests, "manifest", nil, "a frozen manifest, a `FILE`; the one that you approved first")
	l.flags(cmd)
}

// read reads everything that was named.
func (l *launchedFlags) read(cmd *cobra.Command) (explain.Inputs, error) {
	in := explain.Inputs{VCPUs: l.vcpus, VCPUType: l.vcpuType}
	if cmd.Flags().Changed("vcpus") {
		if err := l.check(); err != nil {
			return in, err
		}
	}
	if l.vcpuType != "" {
		if err := l.checkModel(); err != nil {
			return in, err
		}
	}
	var err error
	if in.GuestFeatures, err = l.number(); err != nil {
		return in, err
	}
	for _, dir := range l.images {
		f, err := measure.ReadFiles(dir)
		if err != nil {
			return in, err
		}
		in.Kernels = append(in.Kernels, explain.File{Name: filepath.Join(dir, hal.KernelFile), Content: f.Kernel})
		in.Initrds = append(in.Initrds, explain.File{Name: filepath.Join(dir, hal.InitrdFile), Content: f.Initrd})
		in.CommandLines = append(in.CommandLines,
			explain.CommandLine{Name: "attested guests of " + dir, Text: f.Image.CommandLine.Attested},
			explain.CommandLine{Name: "plain guests of " + dir, Text: f.Image.CommandLine.Plain})
	}
	for i, line := range l.lines {
		in.CommandLines = append(in.CommandLines, explain.CommandLine{Name: fmt.Sprintf("--append %d", i+1), Text: line})
	}
	for _, part := range []struct {
		flag  string
		names []string
		limit int64
		to    *[]explain.File
	}{
		{"firmware", l.firmwares, maxFirmware, &in.Firmwares},
		{"kernel", l.kernels, maxKernel, &in.Kernels},
		{"initrd", l.initrds, maxInitrd, &in.Initrds},
	} {
		for _, name := range part.names {
			b, err := readSmall(name, part.limit)
			if err != nil {
				return in, fmt.Errorf("--%s: %w", part.flag, err)
			}
			*part.to = append(*part.to, explain.File{Name: name, Content: b})
		}
	}
	for _, name := range l.manifests {
		f, err := readManifest(name)
		if err != nil {
			return in, err
		}
		in.Manifests = append(in.Manifests, explain.Manifest{Name: name, Digests: attest.LaunchDigestsOf(f.Raw)})
	}
	return in, nil
}

func (a *app) attestationExplainCmd() *cobra.Command {
	var (
		e              evidenceFlags
		p              policyFlags
		l              launchedFlags
		reportData, at string
	)
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say in plain words what evidence says, and why it is refused",
		Long: `Say in plain words what evidence says, and, with --policy, why it is refused: the most
likely cause is found by recomputing the measurement with other numbers and models of
virtual CPUs, command lines, kernels, initial RAM disks and firmware than expected.
What you expected is named first; further ones of each may be what ran instead.

This is no verdict: cocos-cli attestation verify gives one. Without --report-data the
evidence's own is taken, so old evidence, and that of others, is not told from fresh.`,
		Example: `  cocos-cli attestation explain --type snp --evidence report.bin
  cocos-cli attestation explain --evidence evidence.json --policy policy.json --manifest manifest.json \
    --image cmd/manager/img --firmware OVMF.amdsev.fd --vcpus 4 --vcpu-type EPYC-v4`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			evidence, err := a.evidence(&e)
			if err != nil {
				return err
			}
			in, err := l.read(cmd)
			if err != nil {
				return err
			}
			facts, err := explain.Say(evidence)
			if err != nil {
				return fmt.Errorf("%s: %w", e.file, err)
			}
			out := explanation{Type: evidence.Type, Says: facts, Causes: []string{}}
			var result attest.Result
			if p.file != "" {
				want, err := expectOwn(evidence, in.Manifests, reportData, at)
				if err != nil {
					return err
				}
				policy, err := a.policy(&p)
				if err != nil {
					return err
				}
				in.Policy = &policy
				verifier, err := a.verifier(&p)
				if err != nil {
					return err
				}
				var refusal *attest.Refusal
				if result, err = verifier.Verify(cmd.Context(), evidence, want); err != nil && !errors.As(err, &refusal) {
					return fmt.Errorf("%s can't be appraised: %w", e.file, err)
				}
				out.Accepted, out.Simulated = &result.Accepted, result.Simulated
			}
			out.Causes = append(out.Causes, explain.Explain(result, evidence, in)...)
			if err := a.out.result(out, "%s", out.text()); err != nil {
				return err
			}
			if p.file != "" && reportData == "" {
				a.out.hint("report data was not judged: give --report-data, or let cocos-cli attestation verify decide")
			}
			return nil
		},
	}
	e.add(cmd)
	p.add(cmd)
	l.add(cmd)
	f := cmd.Flags()
	f.StringVar(&reportData, "report-data", "", "what the evidence was to bind, 64 bytes in `HEX`")
	f.StringVar(&at, "time", "", "judge dates for this `TIME`, such as 2025-06-01T00:00:00Z, instead of now")
	return cmd
}

// expectOwn is what the evidence is held against; without report data, its own.
func expectOwn(e attest.Evidence, manifests []explain.Manifest, reportData, at string) (attest.Expected, error) {
	var want attest.Expected
	if len(manifests) > 0 && e.Type != attest.SGX {
		want.Launch = &manifests[0].Digests
	}
	if at != "" {
		t, err := time.Parse(time.RFC3339, at)
		if err != nil || t.IsZero() {
			return want, usagef("such as 2025-06-01T00:00:00Z", "--time %q is not a time of RFC 3339", at)
		}
		want.At = t
	}
	if reportData != "" {
		b, err := hex.DecodeString(reportData)
		if err != nil || len(b) != attest.ReportDataSize {
			return want, usagef(fmt.Sprintf("%d hexadecimal digits", 2*attest.ReportDataSize), "--report-data is not %d bytes in hexadecimal", attest.ReportDataSize)
		}
		want.ReportData = attest.ReportData(b)
		return want, nil
	}
	switch e.Type {
	case attest.SNP, attest.Sim:
		if r, err := snp.Parse(e.Report); err == nil {
			want.ReportData = r.ReportData
		}
	case attest.TDX:
		if q, err := tdx.Parse(e.Report); err == nil {
			want.ReportData = q.ReportData
		}
	case attest.SGX:
		if q, err := sgx.Parse(e.Report); err == nil {
			want.ReportData = q.Report.ReportData
		}
	}
	return want, nil
}

// explanation is the output.
type explanation struct {
	Type      attest.Type    `json:"type"`
	Simulated bool           `json:"simulated"`
	Says      []explain.Fact `json:"says"`
	// Accepted is there where a policy was.
	Accepted *bool `json:"accepted,omitempty"`
	// Causes are of a refusal; otherwise, what measurements follow from.
	Causes []string `json:"causes"`
}

func (x *explanation) text() string {
	var b strings.Builder
	if x.Type == attest.Sim {
		b.WriteString(simulatedBanner)
	}
	b.WriteString("The evidence says, whoever made it:\n")
	for _, f := range x.Says {
		fmt.Fprintf(&b, "  %-14s %s\n", f.Name, clean(f.Text))
	}
	switch {
	case x.Accepted == nil && len(x.Causes) == 0:
	case x.Accepted == nil:
		b.WriteString("\nRecomputed:\n")
	case *x.Accepted:
		b.WriteString("\nThe policy accepts it.\n")
	default:
		b.WriteString("\nThe policy REFUSES it. What happened, the most likely first:\n")
	}
	for _, c := range x.Causes {
		fmt.Fprintf(&b, "  - %s\n", clean(c))
	}
	return b.String()
}
