package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) manifestCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Look at, freeze and approve manifests",
	}
	group(cmd, a.manifestCheckCmd(), a.manifestDigestCmd(), a.manifestFreezeCmd(), a.manifestShowCmd(), a.manifestApproveCmd())
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
			}{frozen, f.Digest, f.ID, f.Name}, "%s", summary(&f, keys.Public.Fingerprint)); err != nil {
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
