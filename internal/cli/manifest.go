package cli

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) manifestCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Look at, freeze and approve manifests",
	}
	group(cmd, a.manifestCheckCmd(), a.manifestDigestCmd(), a.manifestFreezeCmd(), a.manifestApproveCmd())
	return cmd
}

func (a *app) manifestCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Say everything that is wrong with a manifest, or what it means",
		Long: `Say everything that is wrong with a manifest, or what it means: who brings what,
who gets the result, who must approve. Takes drafts as well as frozen ones.`,
		Example: `  cocos-cli manifest check manifest.json`,
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			raw, err := readSmall(args[0], manifest.MaxSize)
			if err != nil {
				return fmt.Errorf("reading the manifest: %w", err)
			}
			f, parseErr := manifest.Parse(raw)
			if parseErr != nil {
				if f, err = freezeDraft(args[0], raw); err != nil {
					return err
				}
			}
			frozen := parseErr == nil
			if err := a.out.result(struct {
				Frozen bool            `json:"frozen"`
				Digest manifest.Digest `json:"digest"`
				ID     string          `json:"id"`
				Name   string          `json:"name"`
			}{frozen, f.Digest, f.ID, f.Name}, "%s", summary(&f)); err != nil {
				return err
			}
			if !frozen {
				a.out.hint("valid, but not frozen: cocos-cli manifest freeze %s", args[0])
			}
			return nil
		},
	}
}

func (a *app) manifestDigestCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "digest FILE",
		Short:   "Print the digest of a frozen manifest: the computation's name",
		Example: `  cocos-cli manifest digest manifest.json`,
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := readManifest(args[0])
			if err != nil {
				return err
			}
			return a.out.result(map[string]manifest.Digest{"digest": f.Digest}, "%s\n", f.Digest)
		},
	}
}

func (a *app) manifestFreezeCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "freeze FILE",
		Short: "Print a draft in the canonical form that has a digest",
		Long: `Print a draft manifest in its canonical form (RFC 8785), the one that has a
digest. It is one line without an end, with or without --json.`,
		Example: `  cocos-cli manifest freeze draft.json > manifest.json`,
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			raw, err := readSmall(args[0], manifest.MaxSize)
			if err != nil {
				return fmt.Errorf("reading the manifest: %w", err)
			}
			f, err := freezeDraft(args[0], raw)
			if err != nil {
				return err
			}
			return a.out.write(f.Raw)
		},
	}
}

func (a *app) manifestApproveCmd() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use:   "approve FILE --key KEY",
		Short: "Sign a frozen manifest's digest",
		Long: `Sign the digest of a frozen manifest with your private key and print the approval
as JSON. Compare the fingerprints that it shows with those that the others told
you themselves: whoever handed you the manifest could have put in keys of its own.`,
		Example: `  cocos-cli manifest approve manifest.json --key alice.pem > alice.approval.json`,
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keyFile == "" {
				return usagef(seeHelp(cmd), "--key is missing: the private key to approve with")
			}
			f, err := readManifest(args[0])
			if err != nil {
				return err
			}
			key, err := readPrivate(keyFile)
			if err != nil {
				return err
			}
			if !f.HasRole(key.Public(), manifest.Approver) {
				return advise(fmt.Errorf("%s does not ask %s to approve it", args[0], key.Public().Fingerprint()),
					"give the --key that the manifest lists under /approvals, or ask its creator to list yours")
			}
			approval, err := manifest.Approve(f.Digest, key)
			if err != nil {
				return err
			}
			a.out.hint("%s", strings.TrimSuffix(summary(&f), "\n"))
			return a.out.object(approval)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "private key `FILE` to sign with")
	return cmd
}

// readManifest reads a frozen manifest.
func readManifest(name string) (manifest.Frozen, error) {
	raw, err := readSmall(name, manifest.MaxSize)
	if err != nil {
		return manifest.Frozen{}, fmt.Errorf("reading the manifest: %w", err)
	}
	f, err := manifest.Parse(raw)
	if err != nil {
		if _, draftErr := freezeDraft(name, raw); draftErr != nil {
			return manifest.Frozen{}, draftErr
		}
		return manifest.Frozen{}, advise(fmt.Errorf("reading %s: %w", name, err),
			"if it is a draft of yours: cocos-cli manifest freeze %s. If it came frozen, its bytes were changed on the way: fetch it anew", name)
	}
	return f, nil
}

// freezeDraft freezes a manifest in any spacing and order of keys.
func freezeDraft(name string, raw []byte) (manifest.Frozen, error) {
	m, err := manifest.Decode(raw)
	if err == nil {
		var f manifest.Frozen
		if f, err = manifest.Freeze(m); err == nil {
			return f, nil
		}
	}
	var faults manifest.Faults
	if !errors.As(err, &faults) {
		return manifest.Frozen{}, fmt.Errorf("reading %s: %w", name, err)
	}
	texts := make([]string, len(faults))
	for i, f := range faults {
		texts[i] = f.String()
	}
	return manifest.Frozen{}, advise(fmt.Errorf("%s is not a valid manifest: %s", name, strings.Join(texts, "; ")),
		"correct what is named; docs/manifest.md has each field")
}

// maxSeconds is what a time.Duration holds.
const maxSeconds = math.MaxInt64 / int64(time.Second)

// summary tells people what a manifest means.
func summary(f *manifest.Frozen) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	each := func(name string, ks []keys.Public) {
		for _, k := range ks {
			line(name, "%s", k.Fingerprint())
		}
	}
	line("digest", "%s", f.Digest)
	line("computation", "%s (%s)", f.Name, f.ID)
	if f.TEE == manifest.TEENone {
		line("protection", "none: a plain VM, which its host can read")
	} else {
		line("protection", "%s, attested TLS %t", f.TEE, f.AttestedTLS)
	}
	if f.Description != "" {
		line("", "%s", f.Description)
	}
	alg := &f.Algorithm
	line("algorithm", "%s, %s, sha256 %s", alg.Type, size(alg.Size), alg.SHA256)
	line("", "by %s", alg.Provider.Fingerprint())
	if len(alg.Args) > 0 {
		line("arguments", "%q", alg.Args)
	}
	for _, name := range slices.Sorted(maps.Keys(alg.Env)) {
		line("variable", "%s=%q", name, alg.Env[name])
	}
	for _, l := range []struct {
		name  string
		value int64
		text  string
	}{
		{"memory", alg.Limits.MemoryBytes, size(alg.Limits.MemoryBytes)},
		{"processes", alg.Limits.Processes, fmt.Sprint(alg.Limits.Processes)},
		{"time", alg.Limits.Seconds, brief(time.Duration(min(alg.Limits.Seconds, maxSeconds)) * time.Second)},
		{"output", alg.Limits.OutputBytes, size(alg.Limits.OutputBytes)},
		{"result", f.Outputs.ResultMax, size(f.Outputs.ResultMax)},
	} {
		if l.value > 0 {
			line("limit", "%s: %s", l.name, l.text)
		}
	}
	for _, d := range f.Datasets {
		kind := "file"
		if d.UnpackedMax > 0 {
			kind = "folder of at most " + size(d.UnpackedMax)
		}
		line("dataset", "%s, %s, %s, sha256 %s", d.Name, kind, size(d.Size), d.SHA256)
		line("", "by %s", d.Provider.Fingerprint())
	}
	each("consumer", f.Consumers)
	each("approver", f.Approvals)
	return b.String()
}
