package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) computationsFreezeCmd() *cobra.Command {
	var (
		workspace string
		sure      bool
	)
	cmd := &cobra.Command{
		Use:   "freeze COMPUTATION",
		Short: "Turn a draft into its manifest, which never changes again",
		Args:  exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				if !sure {
					if err := a.agree(ctx, "Freeze the manifest of %s? It never changes again.", c.Name); err != nil {
						return err
					}
				}
				r, err := s.computations.Freeze(ctx, &computationsv1.FreezeRequest{ComputationId: c.ID, Revision: c.Revision})
				if err != nil {
					return s.explain("freezing", err)
				}
				info := infoOfComputation(r.GetComputation())
				if err := a.out.result(info, "%s\n", info.Digest); err != nil {
					return err
				}
				a.out.hint("frozen; now its parties approve it, each on their own machine: cocos-cli computations approve %s --key FILE", info.ID)
				return nil
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	yesFlag(cmd, &sure)
	return cmd
}

// manifest fetches the frozen manifest of a computation. Nothing that the service
// says of it counts: its digest is computed here.
func (s *service) manifest(ctx context.Context, c computationInfo) (manifest.Frozen, error) {
	r, err := s.computations.GetManifest(ctx, &computationsv1.GetManifestRequest{ComputationId: c.ID})
	if err != nil {
		return manifest.Frozen{}, s.explain("fetching the manifest", err)
	}
	f, err := manifest.Parse(r.GetManifest())
	if err != nil {
		return manifest.Frozen{}, &problem{reason: reasonManifestDigest, err: fmt.Errorf("fetching the manifest: what the service sent is none: %w", err),
			hint: "nothing was signed. Ask the operator of the service, and those who take part"}
	}
	differs := func(what, got, want string) error {
		return &problem{reason: reasonManifestDigest, field: what,
			err:  fmt.Errorf("fetching the manifest: the service sent one whose %s is %s, and speaks of %s", what, got, want),
			hint: "nothing was signed. Don't go on before you know why: ask those who take part for the digest that they see"}
	}
	switch {
	case string(r.GetManifestDigest()) != string(f.Digest[:]):
		return manifest.Frozen{}, differs("digest", f.Digest.String(), fmt.Sprintf("%x", r.GetManifestDigest()))
	case c.Digest != f.Digest.String():
		return manifest.Frozen{}, differs("digest", f.Digest.String(), clean(c.Digest))
	case f.ID != c.ID:
		return manifest.Frozen{}, differs("id", f.ID, c.ID)
	}
	return f, nil
}

func (a *app) computationsManifestCmd() *cobra.Command {
	var workspace, out string
	cmd := &cobra.Command{
		Use:   "manifest COMPUTATION",
		Short: "Fetch the frozen manifest, for the commands that talk with the VM",
		Long: `Fetch the frozen manifest, for the commands that talk with the VM. It is printed as it
is hashed, one line without an end, or kept in a file with --out.`,
		Example: `  cocos-cli computations manifest iris --out manifest.json`,
		Args:    exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				f, err := s.manifest(ctx, c)
				if err != nil {
					return err
				}
				if out == "" {
					return a.out.write(f.Raw)
				}
				if err := keepFile(out, f.Raw); err != nil {
					return err
				}
				return a.out.result(map[string]any{"digest": f.Digest, "file": out}, "%s  %s\n", f.Digest, out)
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to keep it in; one with anything else in it is not overwritten")
	return cmd
}

// keepFile writes a file that isn't there, or has these very bytes already.
func keepFile(name string, data []byte) error {
	b, err := readSmall(name, int64(len(data))+1)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := replaceFile(name, data); err != nil {
			return advise(fmt.Errorf("writing %s: %w", name, err), "choose with --out a place that you can write to")
		}
		return nil
	case err == nil && string(b) == string(data):
		return nil
	}
	return advise(fmt.Errorf("%s exists and is another one", name), "move it away, or choose another --out")
}

func (a *app) computationsApproveCmd() *cobra.Command {
	var (
		workspace, keyFile, digest, out string
		sure                            bool
	)
	cmd := &cobra.Command{
		Use:   "approve COMPUTATION --key KEY",
		Short: "Read a frozen manifest on your own machine, sign its digest, send the signature",
		Long: `Fetch a frozen manifest, compute its digest, show what it says with the names of your
address book, and sign it with your private key, as cocos-cli manifest approve does.
The signature alone is sent. Nothing that the service says of the manifest counts.
The digest is noted, in approvals.json beside the address book: algo and data refuse
another manifest with the same id, whoever hands it out later.

A key that is neither yours nor in your address book is refused: the service could
have put in keys of its own. cocos-cli contacts add --help says how a key gets there.`,
		Example: `  cocos-cli computations approve iris --key bob.pem --out manifest.json`,
		Args:    exactly("COMPUTATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keyFile == "" {
				return usagef(seeHelp(cmd), "--key is missing: the private key to approve with")
			}
			var expected manifest.Digest
			if digest != "" {
				var err error
				if expected, err = manifest.ParseDigest(digest); err != nil {
					return usage(fmt.Errorf("--digest %w", err), "give all of it, as another participant's cocos-cli shows it")
				}
			}
			key, err := readPrivate(keyFile)
			if err != nil {
				return err
			}
			return a.withComputation(cmd, args[0], workspace, func(ctx context.Context, s *service, c computationInfo) error {
				if c.Digest == "" {
					return advise(errNotFrozen, "wait until it is frozen: cocos-cli computations show %s", c.ID)
				}
				f, err := s.manifest(ctx, c)
				if err != nil {
					return err
				}
				if digest != "" && f.Digest != expected {
					return &problem{reason: reasonManifestDigest, field: "digest", err: fmt.Errorf("the manifest has the digest %s, not that of --digest, %s", f.Digest, expected),
						hint: "nothing was signed. The service may show one manifest to you and another one to others: ask them"}
				}
				if err := a.review(&f, "the manifest of "+c.ID, key.Public()); err != nil {
					return err
				}
				if !sure {
					if err := a.agree(ctx, "Approve %s?", f.Digest); err != nil {
						return err
					}
				}
				approval, err := f.Approve(key)
				if err != nil {
					return err
				}
				// Kept before it is sent: what was approved is what inputs go to.
				if err := a.noteApproval(&f); err != nil {
					return err
				}
				if out != "" {
					if err := keepFile(out, f.Raw); err != nil {
						return err
					}
				}
				if _, err := s.computations.Approve(ctx, &computationsv1.ApproveRequest{
					ComputationId: c.ID, PublicKey: approval.PublicKey.SPKI(), Signature: approval.Signature,
				}); err != nil {
					return s.explain("approving", err)
				}
				return a.out.result(map[string]any{"computation_id": c.ID, "digest": f.Digest, "fingerprint": key.Public().Fingerprint()}, "%s\n", f.Digest)
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	fl := cmd.Flags()
	fl.StringVar(&keyFile, "key", "", "private key `FILE` to sign with")
	fl.StringVar(&digest, "digest", "", "refuse any other manifest than that of this digest, in `HEX`")
	fl.StringVar(&out, "out", "", "also keep the manifest in a `FILE`")
	yesFlag(cmd, &sure)
	return cmd
}
