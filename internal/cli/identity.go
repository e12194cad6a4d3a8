package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// identity is who calls, and for which computation.
type identity struct {
	key    keys.Private
	digest manifest.Digest
	// manifest is nil if only the digest is known.
	manifest *manifest.Frozen
}

// identity reads --key, --manifest and --manifest-digest. The manifest itself is
// needed: it says whether the agent must be attested, and a digest alone would
// let whoever names the agent pass over that.
func (a *app) identity() (*identity, error) {
	if a.conn.key != "" && a.conn.manifest == "" {
		return nil, usagef("give the frozen manifest that you approved: it says how the agent has to prove itself before anything is sent", "--manifest is missing")
	}
	return a.digestIdentity()
}

// digestIdentity is identity for calls that carry nothing secret, for which the
// digest alone may do.
func (a *app) digestIdentity() (*identity, error) {
	c := &a.conn
	if c.key == "" {
		return nil, usagef("give the private key whose public key the manifest names; cocos-cli keys makes one", "--key is missing")
	}
	id, err := a.computation()
	if err != nil {
		return nil, err
	}
	id.key, err = readPrivate(c.key)
	return id, err
}

// computation reads --manifest and --manifest-digest.
func (a *app) computation() (*identity, error) {
	c := &a.conn
	if c.manifest == "" && c.manifestDigest == "" {
		return nil, usagef("give the frozen manifest that you approved, or its digest: what you sign is bound to it",
			"--manifest or --manifest-digest is missing")
	}
	var id identity
	if c.manifestDigest != "" {
		d, err := manifest.ParseDigest(c.manifestDigest)
		if err != nil {
			return nil, usage(fmt.Errorf("--manifest-digest %w", err), "cocos-cli manifest digest FILE prints it")
		}
		id.digest = d
	}
	if c.manifest != "" {
		f, err := readManifest(c.manifest)
		if err != nil {
			return nil, err
		}
		if c.manifestDigest != "" && f.Digest != id.digest {
			return nil, advise(fmt.Errorf("%s has the digest %s, not that of --manifest-digest, %s", c.manifest, f.Digest, id.digest),
				"one of the two is not the computation that you approved: don't go on before you know which")
		}
		id.manifest, id.digest = &f, f.Digest
	}
	return &id, nil
}

// readPrivate reads a private key.
func readPrivate(name string) (keys.Private, error) {
	b, err := readSmall(name, maxKeyFile)
	if err != nil {
		return keys.Private{}, advise(fmt.Errorf("reading the private key: %w", err), "cocos-cli keys makes a key pair")
	}
	k, err := keys.ParsePrivatePEM(b)
	if err != nil {
		return keys.Private{}, advise(fmt.Errorf("reading the private key %s: %w", name, err), "give a file as cocos-cli keys writes it: PREFIX.pem")
	}
	return k, nil
}

// role checks that the manifest, if it is known, gives the key the role.
func (id *identity) role(r manifest.Role) error {
	if id.manifest == nil || id.manifest.HasRole(id.key.Public(), r) {
		return nil
	}
	has := "no role at all"
	if rs := id.manifest.RolesOf(id.key.Public()); len(rs) > 0 {
		has = "only " + joined(rs)
	}
	return advise(fmt.Errorf("the manifest does not make the key %s %s: it has %s", id.key.Public().Fingerprint(), article(r), has),
		"give the --key that you registered for this role; cocos-cli manifest check shows the fingerprints")
}

func article(r manifest.Role) string {
	if strings.ContainsRune("aeiou", rune(r[0])) {
		return "an " + string(r)
	}
	return "a " + string(r)
}

func joined(rs []manifest.Role) string {
	s := make([]string, len(rs))
	for i, r := range rs {
		s[i] = string(r)
	}
	return strings.Join(s, ", ")
}

// roleFlag is for commands that every role may give.
func (a *app) roleFlag(cmd *cobra.Command, role *string) {
	cmd.Flags().StringVar(role, "role", "", "`ROLE` to speak in (default: the first that the manifest gives your key)")
	complete(cmd, "role", func() []string {
		var s []string
		for _, r := range manifest.Roles() {
			s = append(s, string(r))
		}
		return s
	})
}

// anyRole is the role named, or the first that the manifest gives.
func (id *identity) anyRole(named string) (manifest.Role, error) {
	if named != "" {
		for _, r := range manifest.Roles() {
			if named == string(r) {
				return r, id.role(r)
			}
		}
		return "", usagef("use one of: "+joined(manifest.Roles()), "--role %q is not known", named)
	}
	if id.manifest == nil {
		return "", usagef("use one of: "+joined(manifest.Roles()), "--role is missing: without --manifest it is not known which one your key has")
	}
	rs := id.manifest.RolesOf(id.key.Public())
	if len(rs) == 0 {
		return "", advise(fmt.Errorf("the manifest gives the key %s no role", id.key.Public().Fingerprint()),
			"give the --key that you registered; cocos-cli manifest check shows the fingerprints")
	}
	return rs[0], nil
}
