package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/keys"
)

// registeredKey is a key as the service has it.
type registeredKey struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"`
	Type        keys.Kind  `json:"type"`
	Fingerprint string     `json:"fingerprint"`
	Created     *time.Time `json:"created"`
	Revoked     *time.Time `json:"revoked,omitempty"`
	ReplacedBy  string     `json:"replaced_by,omitempty"`
}

// infoOfKey reads a key from the service: the fingerprint is computed here.
func infoOfKey(k *computationsv1.Key) (registeredKey, error) {
	pub, err := keys.ParsePublic(k.GetPublicKey())
	if err != nil {
		return registeredKey{}, fmt.Errorf("the service has a key %s that can't be read: %w", clean(k.GetId()), err)
	}
	return registeredKey{
		ID: k.GetId(), Name: k.GetName(), Type: pub.Kind(), Fingerprint: pub.Fingerprint(),
		Created: moment(k.GetCreated()), Revoked: moment(k.GetRevoked()), ReplacedBy: k.GetReplacedBy(),
	}, nil
}

func (s *service) ownKeys(ctx context.Context) ([]registeredKey, error) {
	r, err := s.keys.ListKeys(ctx, &computationsv1.ListKeysRequest{})
	if err != nil {
		return nil, s.explain("listing your keys", err)
	}
	var all []registeredKey
	for _, k := range r.GetKeys() {
		info, err := infoOfKey(k)
		if err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	return all, nil
}

// ownKey finds a key in use by its name, fingerprint or id.
func (s *service) ownKey(ctx context.Context, named string) (registeredKey, error) {
	all, err := s.ownKeys(ctx)
	if err != nil {
		return registeredKey{}, err
	}
	var found []registeredKey
	for _, k := range all {
		if k.Revoked == nil && (k.Name == named || k.Fingerprint == named || k.ID == named) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return registeredKey{}, advise(fmt.Errorf("you have no key %q in use at the service", named), "cocos-cli keys list shows them; cocos-cli keys register FILE adds one")
	}
	return registeredKey{}, usagef("give its fingerprint; cocos-cli keys list shows it", "several of your keys are called %q", named)
}

func (a *app) keysRegisterCmd() *cobra.Command {
	var (
		name, replaces string
		sure           bool
	)
	cmd := &cobra.Command{
		Use:   "register FILE",
		Short: "Register the public half of a key with the service",
		Long: `Register the public half of a key with the service that you are signed in to. FILE is
the private key: with it this program proves that you hold it, and sends the public
half with the proof. What is signed is formed here, of the service's address, your
own, the key and the time; the service has no say in it.`,
		Example: `  cocos-cli keys register alice.pem
  cocos-cli keys register alice-2.pem --replaces alice`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readPrivate(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				name = strings.TrimSuffix(filepath.Base(args[0]), privateExt)
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				q := &computationsv1.RegisterKeyRequest{Name: name, PublicKey: key.Public().SPKI()}
				if replaces != "" {
					old, err := s.ownKey(ctx, replaces)
					if err != nil {
						return err
					}
					if !sure {
						if err := a.agree(ctx, "Revoke the key %s (%s) for good, with %s in its place?", old.Name, old.Fingerprint, name); err != nil {
							return err
						}
					}
					q.ReplacesKeyId = old.ID
				}
				at := a.out.now().UTC().Truncate(time.Second)
				q.At = timestamppb.New(at)
				if q.Signature, err = key.Sign(keys.RegistrationText(s.Service, s.Email, key.Public(), at)); err != nil {
					return err
				}
				r, err := s.keys.RegisterKey(ctx, q)
				if err != nil {
					return s.explain("registering the key", err)
				}
				info, err := infoOfKey(r.GetKey())
				if err != nil {
					return err
				}
				return a.out.result(info, "%s\n", info.Fingerprint)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what the service's lists call it (default: the file's name)")
	cmd.Flags().StringVar(&replaces, "replaces", "", "`KEY` of yours that it takes the place of, by name or fingerprint; that one is revoked")
	yesFlag(cmd, &sure)
	return cmd
}

func (a *app) keysListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List your keys at the service",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				all, err := s.ownKeys(ctx)
				if err != nil {
					return err
				}
				return listed(a, "keys", all, []string{"NAME", "TYPE", "STATE", "CREATED", "FINGERPRINT"}, func(k registeredKey) []string {
					state := "in use"
					if k.Revoked != nil {
						state = "revoked " + when(k.Revoked)
					}
					return []string{k.Name, string(k.Type), state, when(k.Created), k.Fingerprint}
				}, "none is registered yet: cocos-cli keys register FILE")
			})
		},
	}
}

func (a *app) keysRevokeCmd() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use:   "revoke KEY",
		Short: "End the use of one of your keys at the service",
		Long: `End the use of one of your keys at the service, by its name or fingerprint, for good:
nothing that names it can be frozen, approved or run there any more. What it signed
before stays signed.`,
		Args: exactly("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				k, err := s.ownKey(ctx, args[0])
				if err != nil {
					return err
				}
				if !sure {
					if err := a.agree(ctx, "Revoke the key %s (%s) for good?", k.Name, k.Fingerprint); err != nil {
						return err
					}
				}
				if _, err := s.keys.RevokeKey(ctx, &computationsv1.RevokeKeyRequest{KeyId: k.ID}); err != nil {
					return s.explain("revoking the key", err)
				}
				return a.out.result(map[string]string{"id": k.ID, "fingerprint": k.Fingerprint}, "%s\n", k.Fingerprint)
			})
		},
	}
	yesFlag(cmd, &sure)
	return cmd
}
