package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/appraisal"
	"github.com/ultravioletrs/cocos/attest/collateral"
)

const (
	// maxPolicy bounds a policy's file, in bytes.
	maxPolicy = 4 << 20
	// collateralDir of the CLI's own folder is the cache of what was fetched.
	collateralDir = "collateral"
)

// policyFlags are those of every command that appraises evidence.
type policyFlags struct {
	file       string
	collateral []string
	fetch      bool
}

func (p *policyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.file, "policy", "", "your own appraisal policy, a `FILE`; what it does not list is refused")
	f.StringArrayVar(&p.collateral, "collateral", nil, "a `FILE` of what the vendor says of the platform: certificates, revocation lists, TCB info; or a cache folder (repeatable)")
	f.BoolVar(&p.fetch, "fetch", false, "ask AMD's or Intel's service for what is missing, and keep it in this program's folder")
}

// policy reads --policy.
func (a *app) policy(p *policyFlags) (attest.Policy, error) {
	if p.file == "" {
		return attest.Policy{}, usagef("give the policy that you wrote, or made with cocos-cli policy; without one nothing is accepted", "--policy is missing")
	}
	b, err := readSmall(p.file, maxPolicy)
	if err != nil {
		return attest.Policy{}, fmt.Errorf("reading --policy: %w", err)
	}
	policy, err := attest.ParsePolicy(b)
	if err != nil {
		return attest.Policy{}, advise(fmt.Errorf("%s is not a policy to appraise by: %w", p.file, err),
			"correct each; a policy that leaves something open refuses")
	}
	return policy, nil
}

// verifier reads --policy, --collateral and --fetch.
func (a *app) verifier(p *policyFlags) (attest.Verifier, error) {
	policy, err := a.policy(p)
	if err != nil {
		return nil, err
	}
	source, err := a.endorsements(p)
	if err != nil {
		return nil, err
	}
	return appraisal.New(policy, appraisal.Options{Source: source, Now: a.out.now}), nil
}

// endorsements are what this side has of the vendors' statements: files first,
// then folders, then the vendors' services.
func (a *app) endorsements(p *policyFlags) (attest.EndorsementSource, error) {
	var files []string
	var folders []attest.EndorsementSource
	for _, name := range p.collateral {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			folders = append(folders, collateral.Dir(name))
		} else {
			files = append(files, name)
		}
	}
	own, err := collateral.Files(files...)
	if err != nil {
		return nil, advise(fmt.Errorf("--collateral: %w", err), "give files as the vendor's service or tool wrote them")
	}
	sources := append([]attest.EndorsementSource{collateral.Static(own)}, folders...)
	if p.fetch {
		dir, err := a.home()
		if err != nil {
			return nil, err
		}
		sources = append(sources, collateral.Fetch(collateral.FetchConfig{Dir: filepath.Join(dir, collateralDir)}))
	}
	return collateral.All(sources...), nil
}
