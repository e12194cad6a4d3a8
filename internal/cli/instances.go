package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// instancesFile is in the CLI's own folder, too.
const instancesFile = "instances.json"

// instance is the VM that this person's programs deal with for a manifest. A
// host could start a second one, and show some of the participants that one.
type instance struct {
	Manifest manifest.Digest `json:"manifest_digest"`
	// Computation is the manifest's id, for people.
	Computation string `json:"computation"`
	// Key was made in the VM when it booted.
	Key   keys.Public `json:"instance_key"`
	TEE   attest.Type `json:"tee"`
	Since time.Time   `json:"since"`
}

// instances is the file of them, one for each manifest.
type instances struct {
	Version   int        `json:"version"`
	Instances []instance `json:"instances"`
}

func (s *instances) version() *int { return &s.Version }

func (s *instances) check() error {
	for i, v := range s.Instances {
		at := fmt.Sprintf("/instances/%d", i)
		switch {
		case v.Manifest == manifest.Digest{}:
			return fmt.Errorf("%s/manifest_digest is missing", at)
		case v.Key.IsZero():
			return fmt.Errorf("%s/instance_key is missing", at)
		}
		if j := slices.IndexFunc(s.Instances[:i], v.sameManifest); j >= 0 {
			return fmt.Errorf("%s/manifest_digest is that of /instances/%d, too", at, j)
		}
	}
	return nil
}

func (v instance) sameManifest(o instance) bool { return v.Manifest == o.Manifest }

// secondInstance refuses a VM beside the one that is known.
type secondInstance struct{ known, got instance }

func (e *secondInstance) Error() string {
	return fmt.Sprintf("this is a second VM of the same manifest: its instance key is %s, and that of the VM accepted on %s is %s",
		e.got.Key.Fingerprint(), e.known.Since.Format(time.RFC3339), e.known.Key.Fingerprint())
}

// instanceGuard lets one VM pass for one run of a command.
type instanceGuard struct {
	app *app
	// consent: another VM may take the place of the one that is known, once.
	consent bool

	mu     sync.Mutex
	passed *instance
}

// admit is asked of each VM whose evidence was accepted. It may be called by
// several connections at once.
func (g *instanceGuard) admit(v instance) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.passed != nil {
		if !g.passed.Key.Equal(v.Key) {
			return &secondInstance{*g.passed, v}
		}
		return nil
	}
	if err := g.app.rememberInstance(v, g.consent); err != nil {
		return err
	}
	g.passed = &v
	return nil
}

// knownInstance is the VM that is known for a manifest; nil: none.
func (a *app) knownInstance(d manifest.Digest) (*instance, error) {
	var known instances
	if err := a.readHome(instancesFile, &known); err != nil {
		if errors.Is(err, errNoHome) {
			return nil, nil // nor could one be remembered
		}
		return nil, err
	}
	i := slices.IndexFunc(known.Instances, instance{Manifest: d}.sameManifest)
	if i < 0 {
		return nil, nil
	}
	return &known.Instances[i], nil
}

// rememberInstance notes v as the one VM of its manifest, unless there is
// another one and no consent.
func (a *app) rememberInstance(v instance, consent bool) error {
	var known instances
	return a.updateHome(instancesFile, &known, func() error {
		i := slices.IndexFunc(known.Instances, v.sameManifest)
		switch {
		case i < 0:
			known.Instances = append(known.Instances, v)
		case known.Instances[i].Key.Equal(v.Key):
		case !consent:
			return &secondInstance{known.Instances[i], v}
		default:
			known.Instances[i] = v
		}
		return nil
	})
}

func (a *app) instancesCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "instances",
		Short: "Look at the VMs that were accepted, or forget one",
		Long: `The first VM whose evidence is accepted for a manifest is remembered by its instance
key, in instances.json beside the address book. A second one of the same manifest is
refused unless you say --new-instance: a host could show one VM to some participants
and another one to the others.`,
	}
	group(cmd, a.instancesListCmd(), a.instancesForgetCmd())
	return cmd
}

func (a *app) instancesListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "Print the VMs that were accepted",
		Example: `  cocos-cli instances list`,
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			known := instances{Instances: []instance{}}
			if err := a.readHome(instancesFile, &known); err != nil {
				return err
			}
			infos := make([]instanceInfo, len(known.Instances))
			var b strings.Builder
			for i, v := range known.Instances {
				infos[i] = infoOfInstance(v)
				fmt.Fprintf(&b, "%s  %s  %s  %s  %s\n", v.Manifest, infos[i].Fingerprint, v.Since.Format(time.RFC3339), infos[i].tee(), clean(v.Computation))
			}
			if err := a.out.result(map[string][]instanceInfo{"instances": infos}, "%s", b.String()); err != nil {
				return err
			}
			if len(infos) == 0 {
				a.out.hint("none yet: the first VM that is accepted for a manifest will be here")
			}
			return nil
		},
	}
}

// instanceInfo is what a script learns of one.
type instanceInfo struct {
	instance
	Fingerprint string `json:"fingerprint"`
	Simulated   bool   `json:"simulated"`
}

func infoOfInstance(v instance) instanceInfo {
	return instanceInfo{v, v.Key.Fingerprint(), v.TEE == attest.Sim}
}

func (i instanceInfo) tee() string {
	if i.Simulated {
		return simulatedMark
	}
	return string(i.TEE)
}

func (a *app) instancesForgetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "forget DIGEST",
		Short: "Forget the VM of a manifest",
		Long: `Forget the VM of the manifest with this digest: the next one whose evidence is
accepted takes its place.`,
		Example: `  cocos-cli instances forget 4f0c…`,
		Args:    exactly("DIGEST"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var known instances
			if err := a.readHome(instancesFile, &known); err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var digests []string
			for _, v := range known.Instances {
				digests = append(digests, v.Manifest.String()+"\t"+v.Computation)
			}
			return digests, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			d, err := manifest.ParseDigest(args[0])
			if err != nil {
				return usage(fmt.Errorf("DIGEST %w", err), "cocos-cli instances list shows them")
			}
			var (
				known instances
				gone  instance
			)
			err = a.updateHome(instancesFile, &known, func() error {
				i := slices.IndexFunc(known.Instances, instance{Manifest: d}.sameManifest)
				if i < 0 {
					return advise(fmt.Errorf("no VM of the manifest %s is known", d), "cocos-cli instances list shows the manifests")
				}
				gone = known.Instances[i]
				known.Instances = slices.Delete(known.Instances, i, i+1)
				return nil
			})
			if err != nil {
				return err
			}
			return a.out.result(infoOfInstance(gone), "%s\n", gone.Key.Fingerprint())
		},
	}
}
