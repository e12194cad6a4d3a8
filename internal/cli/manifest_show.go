package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) manifestShowCmd() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Say in plain words what a frozen manifest means, and whose keys it names",
		Long: `Say in plain words what a frozen manifest means: how it is protected, who brings
what, what leaves the VM and for whom, who must approve. Keys have the names of your
address book (cocos-cli contacts), or UNKNOWN.`,
		Example: `  cocos-cli manifest show manifest.json --key alice.pem`,
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := readManifest(args[0])
			if err != nil {
				return err
			}
			var own keys.Public
			if keyFile != "" {
				if own, err = readPublic(keyFile); err != nil {
					return err
				}
			}
			ps, err := a.parties(&f, own)
			if err != nil {
				return err
			}
			if err := a.out.result(struct {
				Digest   manifest.Digest `json:"digest"`
				Parties  []party         `json:"parties"`
				Manifest json.RawMessage `json:"manifest"`
			}{f.Digest, ps, f.Raw}, "%s", described(&f, ps)); err != nil {
				return err
			}
			if slices.ContainsFunc(ps, func(p party) bool { return !p.confirmed() }) {
				a.out.hint("UNKNOWN: nobody in your address book has this key; see cocos-cli contacts add --help")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "your own key, a `FILE`; it is shown as \"you\"")
	return cmd
}

// described is everything that a manifest says, with names.
func described(f *manifest.Frozen, ps []party) string {
	var b strings.Builder
	b.WriteString(summary(f, func(k keys.Public) string {
		i := slices.IndexFunc(ps, func(p party) bool { return p.Fingerprint == k.Fingerprint() })
		return ps[i].who() + ", " + k.Fingerprint()
	}))
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", what, clean(fmt.Sprintf(format, args...)))
	}
	line("output", "%s", leaving(f))
	for _, p := range ps {
		line("party", "%s: %s", p.who(), joined(p.Roles))
		line("", "%s", p.Fingerprint)
	}
	return b.String()
}

// imageLine says what a container is pinned to.
func imageLine(i manifest.Image) string {
	s := fmt.Sprintf("config %s, at most %s unpacked", i.Config, bytesize.Round(i.UnpackedMax))
	if i.Name != "" {
		s = packed(i.Name) + ", " + s
	}
	return s
}

// fileOrFolder is what an input comes as.
func fileOrFolder(unpackedMax int64) string {
	if unpackedMax > 0 {
		return "folder of at most " + bytesize.Round(unpackedMax)
	}
	return "file"
}

// sourceLines say where the agent takes a dataset from.
func sourceLines(s manifest.Source) []string {
	if s.IsZero() {
		return nil
	}
	from := "not uploaded: the agent takes it from " + s.URL
	if s.Endpoint != "" {
		from += ", at " + s.Endpoint
	}
	if s.Region != "" {
		from += ", region " + s.Region
	}
	lines := []string{from, "it is not encrypted there"}
	if s.Encryption != "" {
		lines[1] = "encrypted there (" + string(s.Encryption) + ")"
	}
	if s.InClear() {
		lines[1] = "NOT ENCRYPTED, over plain http: the host and everyone on the way read it"
	}
	if s.Broker != "" {
		lines = append(lines, "what it takes to have and read it is released by the key broker "+s.Broker+", as "+s.Resource)
	} else {
		lines = append(lines, "what it takes to have and read it, if anything, comes from its provider's client")
	}
	if len(s.Redirects) > 0 {
		lines = append(lines, "those may send the agent on to "+strings.Join(s.Redirects, ", "))
	}
	if s.Authorities != "" {
		lines = append(lines, fmt.Sprintf("certificates of its own (%d) vouch for these servers, not the public authorities", strings.Count(s.Authorities, "-----BEGIN CERTIFICATE-----")))
	}
	return lines
}

// leaving says what leaves the VM beside what is released to single consumers.
func leaving(f *manifest.Frozen) string {
	s := "the result, with what the program prints, to consumers alone"
	if len(f.Outputs.Release) > 0 {
		s = "of the result, and of what the program prints, what each consumer is released"
	}
	if f.Outputs.Pad {
		s += ", padded to one size"
	}
	if f.Outputs.OperatorOutput {
		return s + "; what the program prints to the host's OPERATOR, too; to the host, whether it succeeded"
	}
	return s + "; to the host, whether it succeeded"
}

// released says what one consumer gets.
func released(r manifest.Release) string {
	s := "gets how the run ended"
	if r.Output {
		s += ", what the program prints"
	}
	if len(r.Files) > 0 {
		s += fmt.Sprintf(", of results/ the files %q", r.Files)
	}
	return s
}

// protection says what keeps the host out.
func protection(f *manifest.Frozen) string {
	var s string
	switch f.TEE {
	case manifest.TEENone:
		return "none: a plain VM, which its host can read"
	case manifest.TEESim:
		s = "sim: SIMULATED, which protects nothing"
	default:
		s = string(f.TEE)
	}
	if f.AttestedTLS {
		return s + "; attested TLS: nothing is sent to a VM before its report was appraised"
	}
	return s + "; no attested TLS: nothing shows who answers beyond what the host says"
}

// maxSeconds is what a time.Duration holds.
const maxSeconds = math.MaxInt64 / int64(time.Second)

// packed is text without runs of spaces: with them somebody could fill up a line
// of the terminal, and begin the next one as one of ours.
func packed(s string) string { return strings.Join(strings.Fields(s), " ") }

// summary tells people what a manifest means, with keys as name shows them.
func summary(f *manifest.Frozen, name func(keys.Public) string) string {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", what, clean(fmt.Sprintf(format, args...)))
	}
	each := func(what string, ks []keys.Public) {
		for _, k := range ks {
			line(what, "%s", name(k))
		}
	}
	line("digest", "%s", f.Digest)
	line("computation", "%s (%s)", packed(f.Name), f.ID)
	line("protection", "%s", protection(f))
	if f.Description != "" {
		line("", "%s", packed(f.Description))
	}
	alg := &f.Algorithm
	line("algorithm", "%s, %s, %s", alg.Type, bytesize.Round(alg.Size), alg.Content())
	if alg.Type == manifest.Container {
		line("image", "%s", imageLine(alg.Image))
	}
	line("", "by %s", name(alg.Provider))
	for _, f := range alg.Files {
		line("file", "%s, %s, %s, %s", f.Name, fileOrFolder(f.UnpackedMax), bytesize.Round(f.Size), f.Content())
	}
	if alg.Python != (manifest.Packages{}) {
		line("packages", "those of %s, from the wheels in %s alone, installed before the script starts", alg.Python.Requirements, alg.Python.Wheels)
	}
	if len(alg.Args) > 0 {
		line("arguments", "%q", alg.Args)
	}
	for _, v := range slices.Sorted(maps.Keys(alg.Env)) {
		line("variable", "%s=%q", v, alg.Env[v])
	}
	for _, l := range []struct {
		name  string
		value int64
		text  string
	}{
		{"memory", alg.Limits.MemoryBytes, bytesize.Round(alg.Limits.MemoryBytes)},
		{"processes", alg.Limits.Processes, fmt.Sprint(alg.Limits.Processes)},
		{"time", alg.Limits.Seconds, brief(time.Duration(min(alg.Limits.Seconds, maxSeconds)) * time.Second)},
		{"processors", alg.Limits.CPUMilli, fmt.Sprintf("%g", float64(alg.Limits.CPUMilli)/1000)},
		{"output", alg.Limits.OutputBytes, bytesize.Round(alg.Limits.OutputBytes)},
		{"result", f.Outputs.ResultMax, bytesize.Round(f.Outputs.ResultMax)},
	} {
		if l.value > 0 {
			line("limit", "%s: %s", l.name, l.text)
		}
	}
	for _, d := range f.Datasets {
		line("dataset", "%s, %s, %s, %s", d.Name, fileOrFolder(d.UnpackedMax), bytesize.Round(d.Size), d.Content())
		line("", "by %s", name(d.Provider))
		for _, said := range sourceLines(d.Source) {
			line("", "%s", said)
		}
	}
	if servers := f.Servers(); len(servers) > 0 {
		line("connections", "the agent opens some, to these alone: %s", strings.Join(servers, ", "))
	}
	if f.ScratchBytes > 0 {
		line("scratch", "%s on a disk of the host's, for the inputs; the agent encrypts it", bytesize.Round(f.ScratchBytes))
	}
	for _, k := range f.Consumers {
		line("consumer", "%s", name(k))
		if r, everything := f.ReleaseTo(k); !everything {
			line("", "%s", released(r))
		}
	}
	each("approver", f.Approvals)
	return b.String()
}
