package store

import (
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

type (
	key        = computations.Key
	asset      = computations.Asset
	invitation = computations.Invitation
)

// storedKey also has the fingerprint, which is unique among keys in use.
type storedKey struct {
	key
	fingerprint string
}

var keyTable = newTable("keys", "id user_id name public created revoked replaced_by fingerprint", 1,
	", u.email", "JOIN users u ON u.id = t.user_id",
	func(k *storedKey) []any {
		return []any{&k.ID, &k.User, &k.Name, public{&k.Public}, moment{&k.Created}, moment{&k.Revoked},
			ref{&k.ReplacedBy}, &k.fingerprint, &k.Email}
	})

func (x *tx) Key(k id) (key, error) {
	found, err := keyTable.one(x, "WHERE t.id = $1", k)
	return found.key, err
}

func (x *tx) KeyByFingerprint(fingerprint string) (key, error) {
	found, err := keyTable.one(x, "WHERE t.fingerprint = $1 AND t.revoked = 0", fingerprint)
	return found.key, err
}

func (x *tx) KeysOf(user id) ([]key, error) {
	found, err := keyTable.all(x, "WHERE t.user_id = $1 ORDER BY t.id DESC", user)
	list := make([]key, len(found))
	for i := range found {
		list[i] = found[i].key
	}
	return list, err
}

func (x *tx) PutKey(k key) error {
	return keyTable.put(x, storedKey{key: k, fingerprint: k.Public.Fingerprint()})
}

var assets = newTable("assets", "id workspace_id owner_id name kind description sha256 size unpacked_max type image_name image_config created retired commitment files python source", 1,
	", u.email", "JOIN users u ON u.id = t.owner_id",
	func(a *asset) []any {
		return []any{&a.ID, &a.Workspace, &a.Owner, &a.Name, &a.Kind, &a.Description, sum{sum: (*[32]byte)(&a.SHA256)},
			&a.Size, &a.UnpackedMax, &a.Type, &a.ImageName, digest(&a.ImageConfig), moment{&a.Created}, moment{&a.Retired}, sum{sum: (*[32]byte)(&a.Commitment), null: true},
			doc{&a.Files}, doc{&a.Python}, doc{&a.Source}, &a.Email}
	})

func (x *tx) Asset(a id) (asset, error) { return assets.one(x, "WHERE t.id = $1", a) }

func (x *tx) Assets(af computations.AssetFilter, p computations.Page) ([]asset, error) {
	var f filter
	f.add("t.workspace_id = ?", af.Workspace)
	if af.Kind != "" {
		f.add("t.kind = ?", af.Kind)
	}
	if af.Owner != "" {
		f.add("t.owner_id = ?", af.Owner)
	}
	switch c := &af.Content; {
	case c.Committed():
		f.add("t.commitment = ?", sum{sum: (*[32]byte)(&c.Commitment)})
	case c.SHA256 != (manifest.Digest{}):
		f.add("t.sha256 = ?", sum{sum: (*[32]byte)(&c.SHA256)})
	}
	f.add(zeroUnless("t.retired", af.Retired))
	end := f.page(p)
	return assets.all(x, f.where(end), f.args...)
}

// zeroUnless compares with a literal, as the indexes of such columns do.
func zeroUnless(column string, set bool) string {
	if set {
		return column + " <> 0"
	}
	return column + " = 0"
}

func (x *tx) PutAsset(a asset) error { return assets.put(x, a) }

var invitations = newTable("invitations", "id workspace_id email role computation_id parts state hash by_id created sent expires answered_by", 1, "", "",
	func(i *invitation) []any {
		return []any{&i.ID, &i.Workspace, &i.Email, &i.Role, ref{&i.Computation}, doc{&i.Parts}, &i.State, sum{sum: &i.Hash},
			&i.By, moment{&i.Created}, moment{&i.Sent}, moment{&i.Expires}, ref{&i.AnsweredBy}}
	})

func (x *tx) Invitation(i id) (invitation, error) { return invitations.one(x, "WHERE t.id = $1", i) }

func (x *tx) InvitationByHash(hash [32]byte) (invitation, error) {
	return invitations.one(x, "WHERE t.hash = $1", hash)
}

func (x *tx) Invitations(workspace id) ([]invitation, error) {
	return invitations.all(x, "WHERE t.workspace_id = $1 ORDER BY t.id DESC LIMIT $2", workspace, maxEntries)
}

// WaitingInvitations compares with a literal, as the index does.
func (x *tx) WaitingInvitations(computation id) ([]invitation, error) {
	return invitations.all(x, "WHERE t.computation_id = $1 AND t.state = 'pending' ORDER BY t.id DESC", computation)
}

func (x *tx) CountWaiting(workspace id, now time.Time) (n int, err error) {
	return n, x.value([]any{&n}, "SELECT count(*) FROM invitations WHERE workspace_id = $1 AND state = 'pending' AND expires > $2", workspace, now)
}

func (x *tx) InvitationsFor(email string) ([]invitation, error) {
	return invitations.all(x, "WHERE t.email = $1 ORDER BY t.id DESC", email)
}

func (x *tx) PutInvitation(i invitation) error { return invitations.put(x, i) }
