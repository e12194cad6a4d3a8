package console

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// keysPage is one's keys, and how to register one.
type keysPage struct {
	InUse, Revoked []computations.Key
	// Prefix is what commands call the files of a new key; Login the command that
	// signs in. Install and Token are steps before it, the latter for those who have
	// no password.
	Prefix, Login, Install, Token string
}

func showKeys(q *call) error {
	all, err := q.c.Service.Keys(q.r.Context(), q.who)
	if err != nil {
		return err
	}
	p := keysPage{Prefix: computations.KeyPrefix(q.who.Email), Login: q.c.Service.LoginCommand(q.who.Password), Install: computations.InstallText, Token: computations.TokenText}
	for _, k := range all {
		if k.Revoked.IsZero() {
			p.InUse = append(p.InUse, k)
		} else {
			p.Revoked = append(p.Revoked, k)
		}
	}
	return q.page("keys", view{Title: "Keys", Section: "keys", Data: p})
}

func askRevokeKey(q *call) error {
	all, err := q.c.Service.Keys(q.r.Context(), q.who)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(k computations.Key) bool { return k.ID == q.id("key") })
	if i < 0 {
		return &computations.Error{Kind: computations.NotFound, Message: "you have no such key"}
	}
	k := all[i]
	return q.ask(view{Title: "Revoke the key “" + k.Name + "”?", Section: "keys", Above: []link{{"Keys", "/keys"}}}, question{
		Texts: []string{
			"Drafts can't use it any more, and computations that name it can't be started again.",
			"Revoke it if its private half is lost, or in somebody else's hands. It can't be taken back.",
		},
		Items:  []string{k.Public.Fingerprint()},
		Action: "Revoke the key", To: "/keys/" + string(k.ID) + "/revoke", Back: "/keys", Danger: true,
	})
}

func revokeKey(q *call) error {
	if err := q.c.Service.RevokeKey(q.r.Context(), q.who, q.id("key")); err != nil {
		return err
	}
	return q.done("/keys", "key-revoked")
}

// assetsPage lists a workspace's assets.
type assetsPage struct {
	Assets  []computations.Asset
	Kind    computations.AssetKind
	Retired bool
	Older   string
}

// pageLength is how many lines a list has.
const pageLength = 50

func showAssets(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	query := q.r.URL.Query()
	p := assetsPage{Kind: computations.AssetKind(query.Get("kind")), Retired: query.Get("retired") == "yes"}
	if p.Kind != computations.AssetAlgorithm && p.Kind != computations.AssetDataset {
		p.Kind = ""
	}
	p.Assets, err = q.c.Service.Assets(q.r.Context(), q.who, computations.AssetFilter{Workspace: in.ID, Kind: p.Kind, Retired: p.Retired},
		computations.Page{Before: computations.ID(query.Get("before")), Limit: pageLength + 1})
	if err != nil {
		return err
	}
	if len(p.Assets) > pageLength {
		p.Assets = p.Assets[:pageLength]
		p.Older = older(query, string(p.Assets[pageLength-1].ID))
	}
	f := newForm(query)
	return q.page("assets", view{Title: "Assets", Section: "assets", In: in, Form: f, Data: p})
}

func newAsset(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	kind := q.r.URL.Query().Get("kind")
	if kind != string(computations.AssetAlgorithm) {
		kind = string(computations.AssetDataset)
	}
	f := newForm(nil).set("kind", kind).set("type", string(manifest.Python)).set("source/encryption", "")
	return q.page("asset-new", assetForm(in, f))
}

// assetPage has the choices of an asset's form.
type assetForms struct{ Kinds, Types, Encryptions []choice }

func assetForm(in *place, f *form) view {
	return view{
		Title: "Register an asset", Section: "assets", In: in, Form: f, Above: []link{{"Assets", "/w/" + string(in.ID) + "/assets"}},
		Data: assetForms{
			Kinds:       []choice{{Value: "dataset", Text: "Dataset"}, {Value: "algorithm", Text: "Algorithm"}},
			Types:       []choice{{Value: "python", Text: "Python script"}, {Value: "binary", Text: "Binary (ELF)"}, {Value: "wasm", Text: "WebAssembly module (WASI)"}, {Value: "container", Text: "Container image archive"}},
			Encryptions: encryptionChoices(),
		},
	}
}

func createAsset(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	a := computations.Asset{
		Workspace: in.ID, Name: q.post("name"), Kind: computations.AssetKind(q.post("kind")), Description: lines(q.post("description")),
	}
	if a.Kind == computations.AssetAlgorithm {
		a.Type = manifest.AlgorithmType(q.post("type"))
	}
	var bad faults
	sum := q.post("sha256")
	if hidden, ok := strings.CutPrefix(sum, "commitment:"); ok {
		err = a.Commitment.UnmarshalText([]byte(strings.TrimSpace(hidden)))
	} else {
		a.SHA256, err = manifest.ParseDigest(sum)
	}
	if err != nil {
		bad.add(invalid("sha256", err.Error(), ""))
	}
	if a.Size, err = byteSize("size", q.post("size")); err != nil {
		bad.add(err)
	}
	if a.Type == manifest.Container {
		a.ImageName = q.post("image_name")
		if a.ImageConfig, err = manifest.ParseDigest(q.post("image_config")); err != nil {
			bad.add(invalid("image_config", err.Error(), ""))
		}
	}
	if a.Kind == computations.AssetDataset || a.Type == manifest.Container {
		if a.UnpackedMax, err = byteSize("unpacked_max", q.post("unpacked_max")); err != nil {
			bad.add(err)
		}
	}
	q.takeInputs(&a, &bad)
	if err = bad.err(); err == nil {
		a, err = q.c.Service.CreateAsset(q.r.Context(), q.who, a)
	}
	if err != nil {
		return q.again(onFields(err), "asset-new", assetForm(in, q.posted()))
	}
	return q.done("/a/"+string(a.ID), "asset")
}

// lines is a text of a textarea, whose lines end as people's files do.
func lines(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }

// assetPage is one asset.
type assetPage struct {
	Asset computations.Asset
	// Mine and MayRetire say which buttons are there.
	Mine, MayRetire bool
	Size            string
}

func (q *call) assetView(form *form) (view, error) {
	a, err := q.c.Service.Asset(q.r.Context(), q.who, q.id("asset"))
	if err != nil {
		return view{}, err
	}
	in, err := q.in(a.Workspace)
	if err != nil {
		return view{}, err
	}
	if form == nil {
		form = newForm(nil).set("name", a.Name).set("description", a.Description)
	}
	mine := a.Owner == q.who.User
	return view{
		Title: a.Name, Section: "assets", In: in, Form: form, Above: []link{{"Assets", "/w/" + string(in.ID) + "/assets"}},
		Data: assetPage{a, mine, a.Retired.IsZero() && (mine || in.Administers()), strconv.FormatInt(a.Size, 10)},
	}, nil
}

func showAsset(q *call) error {
	v, err := q.assetView(nil)
	if err != nil {
		return err
	}
	return q.page("asset", v)
}

func editAsset(q *call) error {
	if err := q.c.Service.EditAsset(q.r.Context(), q.who, q.id("asset"), q.post("name"), lines(q.post("description"))); err != nil {
		v, failed := q.assetView(q.posted())
		if failed != nil {
			return failed
		}
		return q.again(err, "asset", v)
	}
	return q.done("/a/"+string(q.id("asset")), "asset-saved")
}

func askRetireAsset(q *call) error {
	v, err := q.assetView(nil)
	if err != nil {
		return err
	}
	p := v.Data.(assetPage)
	if err := q.allow(p.MayRetire || !p.Asset.Retired.IsZero(), computations.AssetRetire); err != nil {
		return err
	}
	here := "/a/" + string(p.Asset.ID)
	return q.ask(view{Title: "Retire “" + p.Asset.Name + "”?", Section: "assets", In: v.In, Above: append(v.Above, link{p.Asset.Name, here})}, question{
		Texts:  []string{"New drafts can't use it any more. Computations that were frozen with it stay as they are.", "A retired asset can't be brought back. The data itself is with its owner and stays there."},
		Action: "Retire the asset", To: here + "/retire", Back: here, Danger: true,
	})
}

func retireAsset(q *call) error {
	if err := q.c.Service.RetireAsset(q.r.Context(), q.who, q.id("asset")); err != nil {
		return err
	}
	return q.done("/a/"+string(q.id("asset")), "retired")
}
