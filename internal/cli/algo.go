package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) algoCmd() *cobra.Command {
	var (
		skip         bool
		salt         string
		files, salts []string
	)
	cmd := &cobra.Command{
		Use:   "algo FILE",
		Short: "Bring the algorithm, and the files beside it",
		Long: `Send the algorithm to the agent, and after it the files and folders that the manifest
has beside it. All of them are compared with the manifest before a byte is sent. An
upload that was cut goes on where it stopped: run the same command again.`,
		Example: `  cocos-cli algo lin_reg.py --agent 127.0.0.1:7020 --agent-key sha256:… \
    --key alice.pem --manifest manifest.json
  cocos-cli algo train.py --file requirements.txt --file wheels=build/wheels/ \
    --agent 127.0.0.1:7020 --policy policy.json --key alice.pem --manifest manifest.json`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := openInput(args[0])
			if err != nil {
				return fmt.Errorf("bringing the algorithm: %w", err)
			}
			if in.folder {
				return usagef("give the ELF file, the Python script, the WebAssembly module or the image archive itself", "%s is a folder; an algorithm is one file", in.path)
			}
			if err := in.takeSalt(salt); err != nil {
				return err
			}
			id, err := a.identity()
			if err != nil {
				return err
			}
			if err := id.role(manifest.AlgorithmProvider); err != nil {
				return err
			}
			if err := a.unchanged(id); err != nil {
				return err
			}
			m := &id.manifest.Algorithm
			if err := in.fitsSalt("the algorithm", m.Content()); err != nil {
				return err
			}
			beside, err := openBeside(m, files, salts, skip)
			if err != nil {
				return err
			}
			p, err := a.prepare(cmd, id, manifest.AlgorithmProvider)
			if err != nil {
				return err
			}
			defer p.close()
			if !skip {
				if err := a.measure(cmd.Context(), &in, &m.Size); err != nil {
					return err
				}
				if err := same(&in, "the algorithm", m.Content(), m.Size); err != nil {
					return err
				}
				if err := a.checkBeside(cmd.Context(), m, beside); err != nil {
					return err
				}
			}
			return a.uploadAll(cmd.Context(), p, m, in, beside)
		},
	}
	a.agentFlags(cmd)
	skipFlag(cmd, &skip)
	saltFlag(cmd.Flags(), &salt)
	cmd.Flags().StringArrayVar(&files, "file", nil, "a file or folder beside the algorithm, `[NAME=]PATH`; without a name it is found in the manifest by its digest; may be repeated")
	cmd.Flags().StringArrayVar(&salts, "file-salt", nil, "`NAME=FILE` with the salt of the commitment by which the manifest names that file; may be repeated")
	return cmd
}

// uploadAll uploads the algorithm and what is beside it, one after the other, and
// prints what a script wants to know.
func (a *app) uploadAll(ctx context.Context, p *peer, m *manifest.Algorithm, in input, beside []beside) error {
	ref := &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_ALGORITHM}
	if err := p.open(ctx); err != nil {
		return err
	}
	var all struct {
		uploaded
		Files []uploaded `json:"files,omitempty"`
	}
	var err error
	if all.uploaded, err = a.upload(ctx, p, in, ref); err != nil {
		return err
	}
	for _, f := range beside {
		done, err := a.upload(ctx, p, f.input, &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_FILE, Name: f.name})
		if err != nil {
			return err
		}
		all.Files = append(all.Files, done)
	}
	if a.out.json {
		return a.out.object(all)
	}
	a.out.hint("the agent has verified the %s", all.Input)
	for _, f := range all.Files {
		a.out.hint("the agent has verified the %s", f.Input)
	}
	if left := notGiven(m, beside); left != "" {
		a.out.hint("next: the manifest has more files beside it; unless the agent has them (cocos-cli state), bring them with --file: %s", left)
	}
	return nil
}
