package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/manifest"
)

func (a *app) algoCmd() *cobra.Command {
	var (
		skip bool
		salt string
	)
	cmd := &cobra.Command{
		Use:   "algo FILE",
		Short: "Bring the algorithm",
		Long: `Send the algorithm to the agent. The file is compared with the manifest before a
byte is sent. An upload that was cut goes on where it stopped.`,
		Example: `  cocos-cli algo lin_reg.py --agent 127.0.0.1:7020 --agent-key sha256:… \
    --key alice.pem --manifest manifest.json`,
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
			if err := in.fitsSalt("the algorithm", id.manifest.Algorithm.Content()); err != nil {
				return err
			}
			p, err := a.prepare(cmd, id, manifest.AlgorithmProvider)
			if err != nil {
				return err
			}
			defer p.close()
			if !skip {
				m := &id.manifest.Algorithm
				if err := a.measure(cmd.Context(), &in, &m.Size); err != nil {
					return err
				}
				if err := same(&in, "the algorithm", m.Content(), m.Size); err != nil {
					return err
				}
			}
			ref := &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_ALGORITHM}
			return a.uploadAndSay(cmd.Context(), p, in, ref)
		},
	}
	a.agentFlags(cmd)
	skipFlag(cmd, &skip)
	saltFlag(cmd.Flags(), &salt)
	return cmd
}
