package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	// brokerDir of the CLI's own folder is where a broker remembers, by default.
	brokerDir = "broker"
	// brokerFile is in it.
	brokerFile = "broker.json"
	// maxRefused bounds the second instances that are remembered for a manifest.
	maxRefused = 16
)

// reasonNoInstance is that of a consent to nobody.
const reasonNoInstance = "INSTANCE_UNKNOWN"

// brokered is the file of what a broker dealt with: the one VM of each manifest, and
// those that came after it and were refused.
type brokered struct {
	Version   int        `json:"version"`
	Instances []instance `json:"instances"`
	Refused   []instance `json:"refused"`
}

func (s *brokered) version() *int { return &s.Version }

func (s *brokered) check() error {
	known := instances{Instances: s.Instances}
	if err := known.check(); err != nil {
		return err
	}
	for i, v := range s.Refused {
		if v.Manifest == (manifest.Digest{}) || v.Key.IsZero() {
			return fmt.Errorf("/refused/%d lacks manifest_digest or instance_key", i)
		}
	}
	return nil
}

// admit takes v as the one VM of its manifest, if there is no other. One that is
// refused is noted, so that the owner can consent to it.
func (s *brokered) admit(v instance) (changed bool, err error) {
	i := slices.IndexFunc(s.Instances, v.sameManifest)
	switch {
	case i < 0:
		s.Instances = append(s.Instances, v)
		return true, nil
	case s.Instances[i].Key.Equal(v.Key):
		return false, nil
	}
	err = fmt.Errorf("%w: %w", keybroker.ErrSecondInstance, &secondInstance{s.Instances[i], v})
	if slices.ContainsFunc(s.Refused, v.same) {
		return false, err
	}
	s.Refused = append(s.Refused, v)
	if others := s.refusedOf(v.Manifest); len(others) > maxRefused {
		s.Refused = slices.DeleteFunc(s.Refused, others[0].same)
	}
	return true, err
}

func (s *brokered) refusedOf(d manifest.Digest) (all []instance) {
	for _, v := range s.Refused {
		if v.Manifest == d {
			all = append(all, v)
		}
	}
	return all
}

func (v instance) same(o instance) bool { return v.sameManifest(o) && v.Key.Equal(o.Key) }

// errUnchanged leaves the file as it is.
type errUnchanged struct{ err error }

func (e *errUnchanged) Error() string { return "nothing changed" }

// admitTo is brokered.admit on the file in dir.
func admitTo(dir string, v instance) error {
	var (
		s       brokered
		verdict error
	)
	err := updateOwn(dir, brokerFile, &s, func() error {
		changed, err := s.admit(v)
		if verdict = err; !changed {
			return &errUnchanged{err}
		}
		return nil
	})
	if same, ok := err.(*errUnchanged); ok {
		return same.err
	}
	if err != nil {
		return err
	}
	return verdict
}

func (a *app) brokerCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "Release keys of your datasets to VMs whose evidence you accept",
		Long: `Release keys of your datasets to VMs whose evidence you accept, while you are away. The
agent of a computation asks the broker that the manifest names (source.broker) in the
protocol of the Key Broker Service of Confidential Containers, and then takes the dataset
from its source itself.`,
	}
	group(cmd, a.brokerServeCmd(), a.brokerInstancesCmd(), a.brokerConsentCmd())
	return cmd
}

// stateFlag names the broker's folder.
func (a *app) stateFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "state", "", "the broker's own `FOLDER` (default: broker in this program's folder)")
}

func (a *app) brokerState(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	home, err := a.home()
	return filepath.Join(home, brokerDir), err
}

func (a *app) brokerInstancesCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "instances",
		Short: "Print the VMs that the broker deals with, and those it refused as second ones",
		Long: `Print the VMs that the broker deals with, and those that it refused because they are a
second one of the same manifest. A host could start two, and keep one for itself. Consent
to a second one only if you know why it is there: the first was stopped, say.`,
		Example: `  cocos-cli broker instances`,
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			folder, err := a.brokerState(dir)
			if err != nil {
				return err
			}
			var s brokered
			if err := readOwn(filepath.Join(folder, brokerFile), &s); err != nil {
				return err
			}
			all := map[string][]instanceInfo{"instances": {}, "refused": {}}
			var b strings.Builder
			for _, part := range []struct {
				name, word string
				vms        []instance
			}{{"instances", "known", s.Instances}, {"refused", "refused", s.Refused}} {
				for _, v := range part.vms {
					info := infoOfInstance(v)
					all[part.name] = append(all[part.name], info)
					fmt.Fprintf(&b, "%-7s  %s  %s  %s  %s  %s\n", part.word, v.Manifest, info.Fingerprint, v.Since.Format(time.RFC3339), info.tee(), clean(v.Computation))
				}
			}
			if err := a.out.result(all, "%s", b.String()); err != nil {
				return err
			}
			if len(s.Instances) == 0 {
				a.out.hint("none yet: the first VM that is accepted for a manifest will be here")
			}
			return nil
		},
	}
	a.stateFlag(cmd, &dir)
	return cmd
}

func (a *app) brokerConsentCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "consent DIGEST INSTANCE",
		Short: "Let a second VM of a manifest take the place of the first",
		Long: `Let the VM with the instance key INSTANCE (sha256:…), which the broker refused as a second
one of the manifest with this DIGEST, take the place of the one that it deals with. A
broker that runs heeds it at once; then have the agent ask again (cocos-cli data provide).`,
		Example: `  cocos-cli broker consent 4f0c… sha256:8bb3…`,
		Args:    exactly("DIGEST", "INSTANCE"),
		RunE: func(_ *cobra.Command, args []string) error {
			d, err := manifest.ParseDigest(args[0])
			if err != nil {
				return usage(fmt.Errorf("DIGEST %w", err), "cocos-cli broker instances shows them")
			}
			if err := checkFingerprint(args[1]); err != nil {
				return usage(fmt.Errorf("INSTANCE %w", err), "cocos-cli broker instances shows them")
			}
			folder, err := a.brokerState(dir)
			if err != nil {
				return err
			}
			var (
				s   brokered
				now instance
			)
			err = updateOwn(folder, brokerFile, &s, func() error {
				i := slices.IndexFunc(s.Refused, func(v instance) bool { return v.Manifest == d && v.Key.Fingerprint() == args[1] })
				if i < 0 {
					return &problem{
						err:    fmt.Errorf("no VM of the manifest %s with the instance key %s was refused", d, args[1]),
						reason: reasonNoInstance, hint: "cocos-cli broker instances shows those that were",
					}
				}
				now = s.Refused[i]
				s.Refused = slices.Delete(s.Refused, i, i+1)
				s.Instances = append(slices.DeleteFunc(s.Instances, now.sameManifest), now)
				return nil
			})
			if err != nil {
				return err
			}
			return a.out.result(infoOfInstance(now), "%s\n", now.Key.Fingerprint())
		},
	}
	a.stateFlag(cmd, &dir)
	return cmd
}

// instanceOf is what is remembered of an instance.
func instanceOf(v keybroker.Instance) instance {
	return instance{Manifest: v.Manifest, Computation: v.Computation, Key: v.Key, TEE: v.TEE, Since: v.At}
}
