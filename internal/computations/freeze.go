package computations

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Freeze turns a draft into a manifest, which never changes again. Everything that
// is missing is said at once, each with its field.
func (s *Service) Freeze(ctx context.Context, who Identity, id ID, revision int64) (Computation, error) {
	return update(ctx, s, func(w Writer) (Computation, error) {
		x, err := s.onComputation(w, who, id, ComputationFreeze)
		if err != nil {
			return Computation{}, err
		}
		c := x.computation
		if err := changeable(&c); err != nil {
			return Computation{}, err
		}
		if err := current(&c, revision); err != nil {
			return Computation{}, err
		}
		res, err := resolve(w, &c)
		if err != nil {
			return Computation{}, err
		}
		if len(res.missing.all) > 0 {
			return Computation{}, res.missing.all
		}
		f, err := manifest.Freeze(res.manifest)
		var tooLong manifest.Faults // all else was found above
		if errors.As(err, &tooLong) {
			return Computation{}, &Error{Kind: Invalid, Message: "the " + tooLong[0].String(), Hint: "leave certificates of public authorities out of the datasets' sources, or shorten what is written"}
		}
		if err != nil {
			return Computation{}, fmt.Errorf("freezing computation %s: %w", id, err)
		}
		c.Manifest, c.Digest, c.Frozen = f.Raw, f.Digest, s.now()
		c.Draft.Keys = res.chosen
		c.Revision++
		if err := s.save(w, &c); err != nil {
			return Computation{}, err
		}
		return c, s.did(w, &x, ComputationFreeze, id, "digest", f.Digest.String())
	})
}

// resolution is what a draft comes to.
type resolution struct {
	manifest manifest.Manifest
	// chosen are the keys by user.
	chosen map[ID]ID
	// missing is what keeps it from being frozen; Messages tell all of it.
	missing faults
}

// resolver replaces users, keys and assets by what a manifest has.
type resolver struct {
	r      Reader
	c      *Computation
	out    resolution
	keys   map[ID]keys.Public // by user; zero: there is none that counts
	emails map[ID]string
}

// resolve makes the manifest of a draft, as far as that goes.
func resolve(r Reader, c *Computation) (*resolution, error) {
	v := &resolver{r: r, c: c, keys: map[ID]keys.Public{}, emails: map[ID]string{}}
	v.out.chosen = map[ID]ID{}
	d := &c.Draft
	m := &v.out.manifest
	*m = manifest.Manifest{
		Version: manifest.Version, ID: string(c.ID), Name: d.Name, Description: d.Description,
		TEE: d.TEE, AttestedTLS: d.AttestedTLS, Outputs: d.Outputs,
		Algorithm: manifest.Algorithm{Args: d.Algorithm.Args, Env: maps.Clone(d.Algorithm.Env), Limits: d.Algorithm.Limits},
	}
	_, _ = rand.Read(m.Nonce[:]) // never fails
	if err := v.algorithm(); err != nil {
		return nil, err
	}
	if err := v.datasets(); err != nil {
		return nil, err
	}
	if len(d.Consumers) == 0 {
		v.lack("consumers", "nobody is named to have the result")
	}
	var err error
	if m.Consumers, err = v.all("consumers", d.Consumers); err != nil {
		return nil, err
	}
	if err := v.release(); err != nil {
		return nil, err
	}
	if err := v.approvers(); err != nil {
		return nil, err
	}
	m.ScratchBytes = d.scratchBytes(m)
	v.validate()
	return &v.out, nil
}

func (v *resolver) lack(field, format string, args ...any) {
	v.out.missing.add(invalid(field, format, args...))
}

// email names a user in what people read.
func (v *resolver) email(user ID) (string, error) {
	if _, known := v.emails[user]; !known {
		u, err := v.r.User(user)
		if err != nil {
			return "", err
		}
		v.emails[user] = u.Email
	}
	return v.emails[user], nil
}

// key finds the key of a party: its choice, that which took its place, or the
// only one that there is. What keeps it from counting is said once.
func (v *resolver) key(field string, user ID) (keys.Public, error) {
	if k, known := v.keys[user]; known {
		return k, nil
	}
	v.keys[user] = keys.Public{}
	email, err := v.email(user)
	if err != nil {
		return keys.Public{}, err
	}
	why, err := gone(v.r, v.c.Workspace, user)
	if err != nil {
		return keys.Public{}, err
	}
	if why != "" {
		v.lack(field, "%s", why)
		return keys.Public{}, nil
	}
	k, why, err := choose(v.r, user, v.c.Draft.Keys[user])
	if err != nil {
		return keys.Public{}, err
	}
	if why != "" {
		v.lack(field, "%s %s", email, why)
		return keys.Public{}, nil
	}
	v.keys[user], v.out.chosen[user] = k.Public, k.ID
	return k.Public, nil
}

// choose finds the user's key for a computation, or says why there is none.
func choose(r Reader, user, choice ID) (k Key, why string, err error) {
	all, err := r.KeysOf(user)
	if err != nil {
		return Key{}, "", err
	}
	find := func(id ID) (Key, bool) {
		i := slices.IndexFunc(all, func(k Key) bool { return k.ID == id })
		if i < 0 {
			return Key{}, false
		}
		return all[i], true
	}
	if choice != "" {
		k, ok := find(choice)
		for range all { // each key is replaced at most once
			if !ok || k.Revoked.IsZero() || k.ReplacedBy == "" {
				break
			}
			k, ok = find(k.ReplacedBy)
		}
		if !ok || !k.Revoked.IsZero() {
			return Key{}, "has revoked the key that was chosen, and must choose another", nil
		}
		return k, "", nil
	}
	inUse := slices.DeleteFunc(slices.Clone(all), func(k Key) bool { return !k.Revoked.IsZero() })
	switch len(inUse) {
	case 0:
		return Key{}, "has registered no key", nil
	case 1:
		return inUse[0], "", nil
	}
	return Key{}, fmt.Sprintf("has %d keys, and must say which one to use here", len(inUse)), nil
}

// asset finds what a provider brings; nil where something is missing.
func (v *resolver) asset(slot, what string, provider, id ID, kind AssetKind) (*Asset, error) {
	if provider == "" {
		v.lack(slot+"/provider", "nobody is named to bring %s", what)
		return nil, nil
	}
	email, err := v.email(provider)
	if err != nil {
		return nil, err
	}
	if id == "" {
		v.lack(slot+"/asset", "%s has not said which asset is %s", email, what)
		return nil, nil
	}
	e, err := checkAssetOf(v.r, slot+"/asset", v.c.Workspace, provider, kind, id, true)
	if err != nil {
		return nil, err
	}
	if e != nil {
		v.lack(e.Field, "the asset that is named as %s %s", what, e.Message)
		return nil, nil
	}
	a, err := v.r.Asset(id)
	return &a, err
}

func (v *resolver) algorithm() error {
	slot, m := &v.c.Draft.Algorithm, &v.out.manifest.Algorithm
	a, err := v.asset("algorithm", "the algorithm", slot.Provider, slot.Asset, AssetAlgorithm)
	if err != nil {
		return err
	}
	if a != nil {
		m.Type, m.SHA256, m.Commitment, m.Size, m.Image = a.Type, a.SHA256, a.Commitment, a.Size, a.image()
		m.Files, m.Python = a.Files, a.Python
	}
	if slot.Provider != "" {
		m.Provider, err = v.key("algorithm/provider", slot.Provider)
	}
	return err
}

func (v *resolver) datasets() error {
	for i, slot := range v.c.Draft.Datasets {
		at := fmt.Sprintf("datasets/%d", i)
		d := manifest.Dataset{Name: slot.Name}
		a, err := v.asset(at, "the dataset "+slot.Name, slot.Provider, slot.Asset, AssetDataset)
		if err != nil {
			return err
		}
		if a != nil {
			d.SHA256, d.Commitment, d.Size, d.UnpackedMax, d.Source = a.SHA256, a.Commitment, a.Size, a.UnpackedMax, a.Source
		}
		if slot.Provider != "" {
			if d.Provider, err = v.key(at+"/provider", slot.Provider); err != nil {
				return err
			}
		}
		v.out.manifest.Datasets = append(v.out.manifest.Datasets, d)
	}
	return nil
}

// all finds the keys of several users.
func (v *resolver) all(field string, users []ID) ([]keys.Public, error) {
	var ks []keys.Public
	for i, user := range users {
		k, err := v.key(fmt.Sprintf("%s/%d", field, i), user)
		if err != nil {
			return nil, err
		}
		ks = append(ks, k)
	}
	return ks, nil
}

// release replaces users by keys.
func (v *resolver) release() error {
	d := &v.c.Draft
	for i, r := range d.Release {
		k, err := v.key(fmt.Sprintf("release/%d/consumer", i), r.Consumer)
		if err != nil {
			return err
		}
		v.out.manifest.Outputs.Release = append(v.out.manifest.Outputs.Release, manifest.Release{Consumer: k, Files: r.Files, Output: r.Output})
	}
	if len(d.Release) == 0 {
		return nil
	}
	for i, user := range d.Consumers {
		if slices.ContainsFunc(d.Release, func(r ReleaseSlot) bool { return r.Consumer == user }) {
			continue
		}
		email, err := v.email(user)
		if err != nil {
			return err
		}
		v.lack(fmt.Sprintf("consumers/%d", i), "it is said what others get of the result, and not what %s gets", email)
	}
	return nil
}

func (v *resolver) approvers() error {
	d := &v.c.Draft
	parties := d.parties()
	users := d.Approvers
	if len(users) == 0 && (d.AttestedTLS || d.Outputs.OperatorOutput) {
		users = d.users()
	}
	for i, user := range d.Approvers {
		if len(parties[user]) == 0 {
			email, err := v.email(user)
			if err != nil {
				return err
			}
			v.lack(fmt.Sprintf("approvers/%d", i), "%s must approve, and brings nothing and gets nothing: only parties approve", email)
		}
	}
	var err error
	v.out.manifest.Approvals, err = v.all("approvers", users)
	return err
}

// users are the parties, in the order of the manifest.
func (d *Draft) users() []ID {
	var users []ID
	add := func(user ID) {
		if user != "" && !slices.Contains(users, user) {
			users = append(users, user)
		}
	}
	add(d.Algorithm.Provider)
	for _, slot := range d.Datasets {
		add(slot.Provider)
	}
	for _, user := range d.Consumers {
		add(user)
	}
	return users
}

// validate adds what the manifest's own rules say, but of what is missing anyway.
func (v *resolver) validate() {
	var found manifest.Faults
	if !errors.As(v.out.manifest.Validate(), &found) {
		return
	}
	resolved := []string{"/algorithm/type", "/algorithm/sha256", "/algorithm/size", "/algorithm/image", "/algorithm/files", "/algorithm/python", "/algorithm/provider", "/consumers", "/approvals", "/outputs/release", "/outputs/operator_output"}
	incomplete := len(v.out.missing.all) > 0
	for _, f := range found {
		if d := &v.c.Draft; f.Path == "/scratch_bytes" && d.ScratchBytes > 0 {
			v.lack("scratch_bytes", "the disk for inputs shall have %d bytes, and they need %d: make it larger, or let their size decide", d.ScratchBytes, v.out.manifest.ScratchNeed())
			continue
		}
		ofSlot := strings.HasPrefix(f.Path, "/datasets/") && !strings.HasSuffix(f.Path, "/name")
		if incomplete && (ofSlot || slices.ContainsFunc(resolved, func(p string) bool { return strings.HasPrefix(f.Path, p) })) {
			continue
		}
		v.lack(strings.TrimPrefix(f.Path, "/"), "%s", f.String())
	}
}
