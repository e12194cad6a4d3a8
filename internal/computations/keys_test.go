package computations_test

import (
	"strings"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// A key is registered with a proof that is right in everything.
func TestProofOfPossession(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.person("alice"), w.person("bob")
	mine, other := newKey(t), newKey(t)
	now := w.clock.Now()
	sign := func(k keys.Private, text keys.Text) []byte {
		sig, err := k.Sign(text)
		w.ok(err)
		return sig
	}
	good := w.proof(alice, mine, "alice")
	for name, tt := range map[string]struct {
		change func(*c.RegisterKey)
		why    string
	}{
		"no name":      {func(k *c.RegisterKey) { k.Name = "" }, "name: "},
		"no key":       {func(k *c.RegisterKey) { k.Public = keys.Public{} }, "public: "},
		"no signature": {func(k *c.RegisterKey) { k.Signature = nil }, "signature: "},
		"by another key": {func(k *c.RegisterKey) {
			k.Signature = sign(other, keys.RegistrationText(serviceName, alice.Email, mine.Public(), now))
		}, "signature: "},
		"another's key":   {func(k *c.RegisterKey) { k.Public = other.Public() }, "signature: "},
		"another account": {func(k *c.RegisterKey) { k.Signature = w.proof(bob, mine, "x").Signature }, "signature: "},
		"another service": {func(k *c.RegisterKey) {
			k.Signature = sign(mine, keys.RegistrationText("https://evil.example.org", alice.Email, mine.Public(), now))
		}, "signature: "},
		"another time": {func(k *c.RegisterKey) { k.At = k.At.Add(time.Second) }, "signature: "},
		"for a purpose else": {func(k *c.RegisterKey) {
			text := keys.RegistrationText(serviceName, alice.Email, mine.Public(), now)
			text.Purpose = keys.PurposeCall
			k.Signature = sign(mine, text)
		}, "signature: "},
		"too old": {func(k *c.RegisterKey) {
			k.At = now.Add(-10*time.Minute - time.Second)
			k.Signature = sign(mine, keys.RegistrationText(serviceName, alice.Email, mine.Public(), k.At))
		}, "at: "},
		"from the future": {func(k *c.RegisterKey) {
			k.At = now.Add(10*time.Minute + time.Second)
			k.Signature = sign(mine, keys.RegistrationText(serviceName, alice.Email, mine.Public(), k.At))
		}, "at: "},
		"replaces nothing": {func(k *c.RegisterKey) { k.Replaces = c.NewID() }, "replaces: "},
	} {
		ask := good
		tt.change(&ask)
		_, err := w.RegisterKey(w.ctx, alice.Identity, ask)
		t.Run(name, func(t *testing.T) { refused(t, err, c.Invalid, tt.why) })
	}
	k, err := w.RegisterKey(w.ctx, alice.Identity, good)
	w.ok(err)
	if !k.Public.Equal(mine.Public()) || k.User != alice.User {
		t.Errorf("registered %+v", k)
	}
	_, err = w.RegisterKey(w.ctx, alice.Identity, good)
	refused(t, err, c.Conflict, "registered already")
	_, err = w.RegisterKey(w.ctx, bob.Identity, w.proof(bob, mine, "mine"))
	refused(t, err, c.Conflict, "by another user")
}

func TestKeysOfEachKind(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	for _, kind := range keys.Kinds() {
		k, err := keys.Generate(kind)
		w.ok(err)
		w.ok(empty(w.RegisterKey(w.ctx, alice.Identity, w.proof(alice, k, string(kind)))))
	}
}

func TestRotateAndRevoke(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.withKey(w.person("alice")), w.person("bob")
	old := alice.keyID
	next := newKey(t)
	ask := w.proof(alice, next, "next")
	ask.Replaces = old
	// Only one's own.
	foreign := w.proof(bob, newKey(t), "x")
	foreign.Replaces = old
	_, err := w.RegisterKey(w.ctx, bob.Identity, foreign)
	refused(t, err, c.Invalid, "replaces: ")
	k, err := w.RegisterKey(w.ctx, alice.Identity, ask)
	w.ok(err)
	all, err := w.Keys(w.ctx, alice.Identity)
	w.ok(err)
	for _, each := range all {
		if gone := each.ID == old; gone != !each.Revoked.IsZero() || gone && each.ReplacedBy != k.ID {
			t.Errorf("after rotation: %+v", each)
		}
	}
	refused(t, w.RevokeKey(w.ctx, alice.Identity, old), c.Conflict, "revoked already")
	refused(t, w.RevokeKey(w.ctx, bob.Identity, k.ID), c.NotFound, "no such key")
	w.ok(w.RevokeKey(w.ctx, alice.Identity, k.ID))
	// A key that nobody uses any more can be registered by whoever has it.
	w.ok(empty(w.RegisterKey(w.ctx, bob.Identity, w.proof(bob, next, "found"))))
	w.ok(w.store.Update(w.ctx, func(x c.Writer) error {
		for range 100 {
			if err := x.PutKey(c.Key{ID: c.NewID(), User: alice.User, Name: "x", Public: newKey(t).Public(), Created: w.clock.Now()}); err != nil {
				return err
			}
		}
		return nil
	}))
	_, err = w.RegisterKey(w.ctx, alice.Identity, w.proof(alice, newKey(t), "one more"))
	refused(t, err, c.Limited, "as many keys")
}

// container makes of an asset what every container says.
func container(a *c.Asset) {
	a.Kind, a.Type = c.AssetAlgorithm, manifest.Container
	a.ImageName, a.ImageConfig, a.UnpackedMax = "stats:1", [32]byte{9}, 1<<20
}

func TestAssets(t *testing.T) {
	p := newPlay(t)
	good := c.Asset{Workspace: p.ws.ID, Name: "photos", Kind: c.AssetDataset, SHA256: [32]byte{1}, Size: 7, UnpackedMax: 70}
	for name, tt := range map[string]struct {
		change func(*c.Asset)
		field  string
	}{
		"no name":              {func(a *c.Asset) { a.Name = " " }, "name"},
		"name that hides":      {func(a *c.Asset) { a.Name = "a\u200bb" }, "name"},
		"long description":     {func(a *c.Asset) { a.Description = strings.Repeat("x", 5000) }, "description"},
		"no kind":              {func(a *c.Asset) { a.Kind = "" }, "kind"},
		"no digest":            {func(a *c.Asset) { a.SHA256 = [32]byte{} }, "sha256"},
		"digest beside":        {func(a *c.Asset) { a.Commitment = [32]byte{2} }, "commitment"},
		"less than nothing":    {func(a *c.Asset) { a.Size = -1 }, "size"},
		"too large":            {func(a *c.Asset) { a.Size = 1<<50 + 1 }, "size"},
		"unpacks to nothing":   {func(a *c.Asset) { a.UnpackedMax = -1 }, "unpacked_max"},
		"typed data":           {func(a *c.Asset) { a.Type = "python" }, "type"},
		"untyped algorithm":    {func(a *c.Asset) { a.Kind, a.UnpackedMax = c.AssetAlgorithm, 0 }, "type"},
		"empty algorithm":      {func(a *c.Asset) { a.Kind, a.UnpackedMax, a.Type, a.Size = c.AssetAlgorithm, 0, "python", 0 }, "size"},
		"packed algorithm":     {func(a *c.Asset) { a.Kind, a.Type = c.AssetAlgorithm, "python" }, "unpacked_max"},
		"data with an image":   {func(a *c.Asset) { a.ImageConfig = [32]byte{1} }, "image_config"},
		"data with a name":     {func(a *c.Asset) { a.ImageName = "x" }, "image_config"},
		"script with an image": {func(a *c.Asset) { container(a); a.Type, a.UnpackedMax = "python", 0 }, "image_config"},
		"no config":            {func(a *c.Asset) { container(a); a.ImageConfig = [32]byte{} }, "image_config"},
		"no bound":             {func(a *c.Asset) { container(a); a.UnpackedMax = 0 }, "unpacked_max"},
		"name of an image":     {func(a *c.Asset) { container(a); a.ImageName = "a b" }, "image_name"},
	} {
		ask := good
		tt.change(&ask)
		_, err := p.CreateAsset(p.ctx, p.bob.Identity, ask)
		t.Run(name, func(t *testing.T) { refused(t, err, c.Invalid, tt.field+": ") })
	}
	forged := good
	forged.ID, forged.Owner, forged.Retired = p.dataset.ID, p.alice.User, p.clock.Now()
	a, err := p.CreateAsset(p.ctx, p.bob.Identity, forged)
	p.ok(err)
	if a.ID == p.dataset.ID || a.Owner != p.bob.User || !a.Retired.IsZero() {
		t.Errorf("made %+v", a)
	}
	p.ok(p.RetireAsset(p.ctx, p.alice.Identity, a.ID)) // as administrator
	refused(t, p.RetireAsset(p.ctx, p.bob.Identity, a.ID), c.Conflict, "retired already")
	in, err := p.Assets(p.ctx, p.carol.Identity, c.AssetFilter{Workspace: p.ws.ID, Kind: c.AssetDataset}, c.Page{})
	p.ok(err)
	out, err := p.Assets(p.ctx, p.carol.Identity, c.AssetFilter{Workspace: p.ws.ID, Retired: true}, c.Page{})
	p.ok(err)
	if len(in) != 1 || in[0].ID != p.dataset.ID || len(out) != 1 || out[0].ID != a.ID {
		t.Errorf("in use %+v, retired %+v", in, out)
	}
}
