package cli

import (
	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
)

func (a *app) policyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Make and check policies by which evidence is appraised",
		Long: `Make and check policies by which evidence is appraised. A policy is your own file: what
it does not list is refused, and no service or host hands one out.`,
	}
	group(cmd, a.policyInitCmd(), a.policyFromEvidenceCmd(), a.policyCheckCmd())
	return cmd
}

func (a *app) policyCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE",
		Short:   "Say everything that is wrong with a policy, or what it accepts",
		Example: `  cocos-cli policy check policy.json`,
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := a.policy(&policyFlags{file: args[0]})
			if err != nil {
				return err
			}
			lines := policySummary(p)
			return a.out.result(struct {
				Accepts []policyLine `json:"accepts"`
			}{lines}, "%s", policyText(lines))
		},
	}
}

// printPolicy writes a policy to standard output: it is JSON with and without
// --json.
func (a *app) printPolicy(p attest.Policy) error {
	b, err := p.Bytes()
	if err != nil {
		return err
	}
	return a.out.write(b)
}
