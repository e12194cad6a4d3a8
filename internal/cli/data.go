package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) dataCmd() *cobra.Command {
	var (
		name, salt string
		skip       bool
	)
	cmd := &cobra.Command{
		Use:   "data PATH...",
		Short: "Bring datasets",
		Long: `Send datasets to the agent: each a file, or a folder as its deterministic archive.
They are compared with the manifest before a byte of them is sent, and their names are
found there by their digests. Several are sent side by side; where one fails the
others go on. An upload that was cut goes on where it stopped.`,
		Example: `  cocos-cli data iris.csv --agent 127.0.0.1:7020 --agent-key sha256:… \
    --key bob.pem --manifest manifest.json
  cocos-cli data images/ --agent 127.0.0.1:7020 --policy policy.json \
    --key bob.pem --manifest manifest.json
  cocos-cli data scans-*.tar --agent 127.0.0.1:7020 --policy policy.json \
    --key bob.pem --manifest manifest.json`,
		Args: atLeastOne("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return a.bringAll(cmd, args, name != "", salt != "", skip)
			}
			in, err := openInput(args[0])
			if err != nil {
				return fmt.Errorf("bringing a dataset: %w", err)
			}
			if err := in.takeSalt(salt); err != nil {
				return err
			}
			id, err := a.identity()
			if err != nil {
				return err
			}
			if err := id.role(manifest.DatasetProvider); err != nil {
				return err
			}
			if err := a.unchanged(id); err != nil {
				return err
			}
			if skip && name == "" {
				return usagef("give the name that the manifest gives it: only a digest finds it there", "--name is missing beside --skip-check")
			}
			if d, ok := id.manifest.Dataset(name); ok {
				if err := in.fitsSalt("the dataset "+name, d.Content()); err != nil {
					return err
				}
			}
			p, err := a.prepare(cmd, id, manifest.DatasetProvider)
			if err != nil {
				return err
			}
			defer p.close()
			if !skip {
				if name, err = a.datasetName(cmd.Context(), id, &in, name); err != nil {
					return err
				}
			}
			ref := &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_DATASET, Name: name}
			return a.uploadAndSay(cmd.Context(), p, in, ref)
		},
	}
	cmd.AddCommand(a.provideCmd())
	a.agentFlags(cmd)
	skipFlag(cmd, &skip)
	saltFlag(cmd.Flags(), &salt)
	cmd.Flags().StringVar(&name, "name", "", "the dataset's `NAME` in the manifest")
	complete(cmd, "name", func() []string {
		f, err := readManifest(a.conn.manifest)
		if err != nil {
			return nil
		}
		var s []string
		for _, d := range f.Datasets {
			s = append(s, d.Name)
		}
		return s
	})
	return cmd
}

// datasetName finds which dataset of the manifest in is, and refuses one that
// it is not.
func (a *app) datasetName(ctx context.Context, id *identity, in *input, named string) (string, error) {
	if named != "" {
		d, ok := id.manifest.Dataset(named)
		if !ok {
			return "", advise(fmt.Errorf("the manifest has no dataset %q", named), "it has: %s", names(id.manifest.Datasets))
		}
		if !d.Provider.Equal(id.key.Public()) {
			return "", advise(fmt.Errorf("the dataset %q is to come from %s, not from your key, %s", named, d.Provider.Fingerprint(), id.key.Public().Fingerprint()),
				"give the --name of a dataset of yours: %s", names(own(id)))
		}
		if err := a.measure(ctx, in, &d.Size); err != nil {
			return "", err
		}
		return named, same(in, "the dataset "+named, d.Content(), d.Size)
	}
	if err := a.measure(ctx, in, nil); err != nil {
		return "", err
	}
	var found []manifest.Dataset
	for _, d := range own(id) {
		if in.is(d.Content()) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0].Name, same(in, "the dataset "+found[0].Name, found[0].Content(), found[0].Size)
	case 0:
		return "", &problem{reason: reasonDigest, field: "/datasets", err: fmt.Errorf("%s has the sha256 %s, and the manifest expects no such dataset from your key", in.path, in.digest),
			hint: "nothing was sent. Where it has a commitment, give its --salt. It expects: " + expectations(own(id))}
	}
	return "", advise(fmt.Errorf("the manifest has %s as %d datasets: %s", in.path, len(found), names(found)), "send it once for each, with --name")
}

// skipFlag is for those who know that their file is the right one.
func skipFlag(cmd *cobra.Command, skip *bool) {
	cmd.Flags().BoolVar(skip, "skip-check", false, "don't read all of it beforehand to compare it with the manifest; the agent compares it in any case")
}

// own lists the datasets that the caller's key is to bring.
func own(id *identity) []manifest.Dataset {
	var ds []manifest.Dataset
	for _, d := range id.manifest.Datasets {
		if d.Provider.Equal(id.key.Public()) {
			ds = append(ds, d)
		}
	}
	return ds
}

func names(ds []manifest.Dataset) string {
	s := make([]string, len(ds))
	for i, d := range ds {
		s[i] = d.Name
	}
	return strings.Join(s, ", ")
}

func expectations(ds []manifest.Dataset) string {
	s := make([]string, len(ds))
	for i, d := range ds {
		s[i] = fmt.Sprintf("%s: %s, %d bytes", d.Name, d.Content(), d.Size)
	}
	return strings.Join(s, "; ")
}

// measure sets in's size and digest, showing how far it is. If the right size
// is known, a file of another one is not read at all.
func (a *app) measure(ctx context.Context, in *input, want *int64) error {
	if want != nil && !in.folder && in.size != *want {
		return nil // same says so
	}
	show := a.out.progress("checking "+in.path, in.size)
	err := in.sum(ctx, show)
	show.stop()
	return err
}

// same compares in with what the manifest says of it.
func same(in *input, what string, c manifest.Content, size int64) error {
	differ := func(reason, format string, args ...any) error {
		return &problem{reason: reason, err: fmt.Errorf("%s is not %s of the manifest: "+format, append([]any{in.path, what}, args...)...),
			hint: "nothing was sent; give the very file or folder whose digest was registered: cocos-cli checksum PATH"}
	}
	switch {
	case in.size != size:
		return differ(reasonSize, "it has %d bytes, expected %d", in.size, size)
	case !in.is(c):
		return differ(reasonDigest, "its sha256 is %s, expected %s", in.digest, expected(c))
	}
	return nil
}

// expected is how people read a digest that is not the right one.
func expected(c manifest.Content) string {
	if c.Committed() {
		return "what makes, with the salt, the " + c.String()
	}
	return c.SHA256.String()
}

// uploadAndSay uploads and prints what a script wants to know.
func (a *app) uploadAndSay(ctx context.Context, p *peer, in input, ref *agentv1.InputRef) error {
	if err := p.open(ctx); err != nil {
		return err
	}
	done, err := a.upload(ctx, p, in, ref)
	if err != nil {
		return err
	}
	if a.out.json {
		return a.out.object(done)
	}
	a.out.hint("the agent has verified the %s", done.Input)
	return nil
}
