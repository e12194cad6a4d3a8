package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) manifestApproveCmd() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use:   "approve FILE --key KEY",
		Short: "Sign a frozen manifest's digest",
		Long: `Sign the digest of a frozen manifest, your roles in it and your key with your
private key, and print the approval as JSON. What you approve is shown, with every
key's fingerprint.

A key that is neither yours nor in your address book is refused: whoever handed you
the manifest could have put in keys of its own. cocos-cli contacts add --help says how
a key gets there.

The digest is noted, in approvals.json beside the address book: algo and data refuse
another manifest with the same id.`,
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
			if err := a.review(&f, args[0], key.Public()); err != nil {
				return err
			}
			approval, err := f.Approve(key)
			if err != nil {
				return err
			}
			if err := a.noteApproval(&f); err != nil {
				return err
			}
			return a.out.object(approval)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "private key `FILE` to sign with")
	return cmd
}

// review shows what is to be approved, and refuses it unless key is asked to approve
// it and every other key is one that this person knows. name is where the manifest
// is from.
func (a *app) review(f *manifest.Frozen, name string, key keys.Public) error {
	if !f.HasRole(key, manifest.Approver) {
		return advise(fmt.Errorf("%s does not ask %s to approve it", name, key.Fingerprint()),
			"give the --key that the manifest lists under /approvals, or ask its creator to list yours")
	}
	ps, err := a.parties(f, key)
	if err != nil {
		return err
	}
	a.out.hint("%s", strings.TrimSuffix(described(f, ps), "\n"))
	return unconfirmed(name, ps)
}
