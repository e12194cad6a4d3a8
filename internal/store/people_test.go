package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func testUsers(t *testing.T, s *store.Store) {
	u := computations.User{ID: "u1", Email: "ann@example.org", EmailVerified: true, Name: "Änn \x01", PasswordHash: "$argon2id$x",
		Issuer: "https://idp", Subject: "42", Operator: true, Disabled: true, Created: now}
	v := computations.User{ID: "u2", Email: "bob@example.org"}
	put(t, s, func(w writer) error { return w.PutUser(u) }, func(w writer) error { return w.PutUser(v) })
	same(t, s, u, func(r reader) (computations.User, error) { return r.User("u1") })
	same(t, s, u, func(r reader) (computations.User, error) { return r.UserByEmail("ann@example.org") })
	same(t, s, u, func(r reader) (computations.User, error) { return r.UserBySubject("https://idp", "42") })
	same(t, s, v, func(r reader) (computations.User, error) { return r.User("u2") })
	same(t, s, []computations.User{v, u}, func(r reader) ([]computations.User, error) { return r.Users(computations.Page{}) })
	same(t, s, 2, reader.CountUsers)
	u.Email, u.Issuer, u.Subject, u.Operator, u.EmailVerified = "anna@example.org", "", "", false, false
	put(t, s, func(w writer) error { return w.PutUser(u) })
	same(t, s, u, func(r reader) (computations.User, error) { return r.User("u1") })
	same(t, s, 2, reader.CountUsers)
}

func testCredentials(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	c := computations.Credential{ID: "c1", User: w.ann.ID, Kind: computations.AccessToken, Name: "ci", Hash: [32]byte{1}, Client: "cli",
		Created: now, Expires: now.Add(time.Hour), Used: now}
	d := computations.Credential{ID: "c2", User: w.ann.ID, Kind: computations.Session, Hash: [32]byte{2}}
	e := computations.Credential{ID: "c3", User: w.bob.ID, Kind: computations.Session, Hash: [32]byte{3}}
	update(t, s, func(wr writer) error {
		return errors.Join(wr.PutCredential(c), wr.PutCredential(d), wr.PutCredential(e))
	})
	same(t, s, c, func(r reader) (computations.Credential, error) { return r.Credential([32]byte{1}) })
	c.Used = now.Add(time.Minute)
	put(t, s, func(wr writer) error { return wr.TouchCredential("c1", c.Used) })
	same(t, s, []computations.Credential{d, c}, func(r reader) ([]computations.Credential, error) { return r.Credentials(w.ann.ID) })

	refused(t, s, computations.ErrNoRow, func(wr writer) error { return wr.DeleteCredential(w.bob.ID, "c1") })
	put(t, s, func(wr writer) error { return wr.DeleteCredential(w.ann.ID, "c1") })
	same(t, s, []computations.Credential{d}, func(r reader) ([]computations.Credential, error) { return r.Credentials(w.ann.ID) })
	put(t, s, func(wr writer) error { return wr.DeleteCredentials(w.ann.ID, computations.AccessToken) })
	same(t, s, []computations.Credential{d}, func(r reader) ([]computations.Credential, error) { return r.Credentials(w.ann.ID) })
	put(t, s, func(wr writer) error { return wr.DeleteCredentials(w.ann.ID, computations.Session) })
	same(t, s, nil, func(r reader) ([]computations.Credential, error) { return r.Credentials(w.ann.ID) })
	same(t, s, []computations.Credential{e}, func(r reader) ([]computations.Credential, error) { return r.Credentials(w.bob.ID) })
}

func testExpireCredentials(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	idle := now.Add(-time.Hour)
	for i, c := range []computations.Credential{
		{ID: "expired", Kind: computations.AccessToken, Expires: now.Add(-1)},
		{ID: "expires later", Kind: computations.AccessToken, Expires: now},
		{ID: "never expires", Kind: computations.AccessToken},
		{ID: "idle session", Kind: computations.Session, Expires: now.Add(time.Hour), Created: idle.Add(-1), Used: idle.Add(-1)},
		{ID: "session in use", Kind: computations.Session, Expires: now.Add(time.Hour), Created: idle.Add(-1), Used: idle},
		{ID: "new session", Kind: computations.Session, Expires: now.Add(time.Hour), Created: idle},
		{ID: "old token", Kind: computations.AccessToken, Created: idle.Add(-1), Used: idle.Add(-1)},
	} {
		c.User, c.Hash = w.ann.ID, [32]byte{byte(i)}
		put(t, s, func(wr writer) error { return wr.PutCredential(c) })
	}
	for i, want := range []int{1, 1, 0} {
		update(t, s, func(wr writer) error {
			n, err := wr.ExpireCredentials(now, idle, 1)
			if n != want {
				t.Errorf("%d: deleted %d, want %d", i, n, want)
			}
			return err
		})
	}
	ids(t, s, []id{"session in use", "old token", "new session", "never expires", "expires later"},
		func(c computations.Credential) id { return c.ID },
		func(r reader) ([]computations.Credential, error) { return r.Credentials(w.ann.ID) })
}

func testWorkspaces(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	w.ws.KeepEntries = time.Hour
	m := computations.Member{Workspace: w.ws.ID, User: w.ann.ID, Role: computations.RoleAdministrator, Joined: now, Email: w.ann.Email, Name: w.ann.Name}
	n := computations.Member{Workspace: w.ws.ID, User: w.bob.ID, Role: computations.RoleMember, Email: w.bob.Email, Name: w.bob.Name}
	o := computations.Member{Workspace: w.other.ID, User: w.ann.ID, Role: computations.RoleMember, Joined: now}
	update(t, s, func(wr writer) error {
		return errors.Join(wr.PutWorkspace(w.ws), wr.PutMember(n), wr.PutMember(m), wr.PutMember(o))
	})
	same(t, s, w.ws, func(r reader) (computations.Workspace, error) { return r.Workspace(w.ws.ID) })
	same(t, s, []computations.Workspace{w.other, w.ws}, func(r reader) ([]computations.Workspace, error) { return r.WorkspacesOf(w.ann.ID) })
	same(t, s, []computations.Workspace{w.ws}, reader.Forgetful)
	same(t, s, m, func(r reader) (computations.Member, error) { return r.Member(w.ws.ID, w.ann.ID) })
	same(t, s, []computations.Member{m, n}, func(r reader) ([]computations.Member, error) { return r.Members(w.ws.ID) })
	n.Role = computations.RoleManager
	put(t, s, func(wr writer) error { return wr.PutMember(n) })
	same(t, s, n, func(r reader) (computations.Member, error) { return r.Member(w.ws.ID, w.bob.ID) })
	put(t, s, func(wr writer) error { return wr.DeleteMember(w.ws.ID, w.bob.ID) })
	same(t, s, []computations.Member{m}, func(r reader) ([]computations.Member, error) { return r.Members(w.ws.ID) })
	same(t, s, nil, func(r reader) ([]computations.Workspace, error) { return r.WorkspacesOf(w.bob.ID) })
}

func testInvitations(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	i := computations.Invitation{ID: "i1", Workspace: w.ws.ID, Email: "carol@example.org", Role: computations.RoleMember, Computation: w.draft.ID,
		Parts: []computations.Part{computations.PartDataset, computations.PartConsumer}, State: computations.InvitationPending,
		Hash: [32]byte{1}, By: w.ann.ID, Created: now, Sent: now, Expires: now.Add(time.Hour)}
	j := computations.Invitation{ID: "i2", Workspace: w.other.ID, Email: "carol@example.org", Role: computations.RoleManager,
		State: computations.InvitationDeclined, Hash: [32]byte{2}, By: w.bob.ID, AnsweredBy: w.ann.ID}
	update(t, s, func(wr writer) error { return errors.Join(wr.PutInvitation(i), wr.PutInvitation(j)) })
	same(t, s, i, func(r reader) (computations.Invitation, error) { return r.Invitation("i1") })
	same(t, s, j, func(r reader) (computations.Invitation, error) { return r.InvitationByHash([32]byte{2}) })
	same(t, s, []computations.Invitation{i}, func(r reader) ([]computations.Invitation, error) { return r.Invitations(w.ws.ID) })
	same(t, s, []computations.Invitation{j, i}, func(r reader) ([]computations.Invitation, error) { return r.InvitationsFor("carol@example.org") })
	late := computations.Invitation{ID: "i3", Workspace: w.ws.ID, Email: "dan@example.org", Computation: w.draft.ID, State: computations.InvitationPending,
		Hash: [32]byte{4}, By: w.ann.ID, Expires: now}
	put(t, s, func(wr writer) error { return wr.PutInvitation(late) })
	waiting := func(r reader) ([]computations.Invitation, error) { return r.WaitingInvitations(w.draft.ID) }
	same(t, s, []computations.Invitation{late, i}, waiting)
	same(t, s, nil, func(r reader) ([]computations.Invitation, error) { return r.WaitingInvitations(w.frozen.ID) })
	count := func(r reader) (int, error) { return r.CountWaiting(w.ws.ID, now) }
	same(t, s, 1, count)
	i.Hash, i.State, i.AnsweredBy = [32]byte{3}, computations.InvitationAccepted, w.bob.ID
	put(t, s, func(wr writer) error { return wr.PutInvitation(i) })
	same(t, s, []computations.Invitation{late}, waiting)
	same(t, s, 0, count)
	same(t, s, i, func(r reader) (computations.Invitation, error) { return r.InvitationByHash([32]byte{3}) })
	if err := s.View(t.Context(), func(r reader) error { _, err := r.InvitationByHash([32]byte{1}); return err }); !errors.Is(err, computations.ErrNoRow) {
		t.Errorf("the old link: %v", err)
	}
}

func testSettings(t *testing.T, s *store.Store) {
	get := func(r reader) (string, error) { return r.Setting("sign-up") }
	same(t, s, "", get)
	for _, value := range []string{"invitation", "oidc", ""} {
		put(t, s, func(w writer) error { return w.PutSetting("sign-up", value) })
		same(t, s, value, get)
	}
}

func testKeys(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	second, err := keys.Generate(keys.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	k := computations.Key{ID: "k1", User: w.ann.ID, Name: "laptop", Public: w.annKey.Public(), Created: now, Email: w.ann.Email}
	l := computations.Key{ID: "k2", User: w.ann.ID, Public: second.Public(), Email: w.ann.Email}
	update(t, s, func(wr writer) error { return errors.Join(wr.PutKey(k), wr.PutKey(l)) })
	same(t, s, k, func(r reader) (computations.Key, error) { return r.Key("k1") })
	same(t, s, k, func(r reader) (computations.Key, error) { return r.KeyByFingerprint(k.Public.Fingerprint()) })
	same(t, s, []computations.Key{l, k}, func(r reader) ([]computations.Key, error) { return r.KeysOf(w.ann.ID) })
	k.Revoked, k.ReplacedBy = now, "k2"
	put(t, s, func(wr writer) error { return wr.PutKey(k) })
	same(t, s, k, func(r reader) (computations.Key, error) { return r.Key("k1") })
	if err := s.View(t.Context(), func(r reader) error { _, err := r.KeyByFingerprint(k.Public.Fingerprint()); return err }); !errors.Is(err, computations.ErrNoRow) {
		t.Errorf("a revoked key: %v", err)
	}
	// A revoked key may be registered again.
	again := computations.Key{ID: "k3", User: w.bob.ID, Public: k.Public, Email: w.bob.Email}
	put(t, s, func(wr writer) error { return wr.PutKey(again) })
	same(t, s, again, func(r reader) (computations.Key, error) { return r.KeyByFingerprint(k.Public.Fingerprint()) })
}

func testAssets(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	a := computations.Asset{ID: "a1", Workspace: w.ws.ID, Owner: w.ann.ID, Name: "scans", Kind: computations.AssetDataset, Description: "d",
		SHA256: manifest.Sum([]byte("x")), Size: 1 << 40, UnpackedMax: 1 << 41, Created: now, Email: w.ann.Email,
		Source: manifest.Source{URL: "s3://b/k", Endpoint: "https://s3.example", Region: "eu", Encryption: manifest.Age, Broker: "https://kbs.example", Resource: "a/b/c", Redirects: []string{"cdn.example:443"}, Authorities: "-----BEGIN…\n"}}
	b := computations.Asset{ID: "a2", Workspace: w.ws.ID, Owner: w.bob.ID, Name: "mean", Kind: computations.AssetAlgorithm,
		SHA256: manifest.Sum([]byte("y")), Type: manifest.Container, ImageName: "mean:2", ImageConfig: manifest.Sum([]byte("z")), UnpackedMax: 5, Email: w.bob.Email,
		Files:  []manifest.File{{Name: "requirements.txt", SHA256: manifest.Sum([]byte("r")), Size: 3}, {Name: "wheels", Commitment: manifest.Commitment{8}, Size: 1 << 40, UnpackedMax: 1 << 41}},
		Python: manifest.Packages{Requirements: "requirements.txt", Wheels: "wheels"}}
	c := computations.Asset{ID: "a3", Workspace: w.ws.ID, Owner: w.bob.ID, Kind: computations.AssetDataset, Retired: now, Email: w.bob.Email}
	d := computations.Asset{ID: "a4", Workspace: w.other.ID, Owner: w.bob.ID, Kind: computations.AssetDataset, Email: w.bob.Email}
	update(t, s, func(wr writer) error {
		return errors.Join(wr.PutAsset(a), wr.PutAsset(b), wr.PutAsset(c), wr.PutAsset(d))
	})
	of := func(f computations.AssetFilter, want ...computations.Asset) {
		t.Helper()
		f.Workspace = w.ws.ID
		same(t, s, want, func(r reader) ([]computations.Asset, error) { return r.Assets(f, computations.Page{}) })
	}
	list := func(kind computations.AssetKind, retired bool, want ...computations.Asset) {
		t.Helper()
		of(computations.AssetFilter{Kind: kind, Retired: retired}, want...)
	}
	same(t, s, a, func(r reader) (computations.Asset, error) { return r.Asset("a1") })
	list("", false, b, a)
	list(computations.AssetDataset, false, a)
	list(computations.AssetAlgorithm, false, b)
	list("", true, c)
	of(computations.AssetFilter{Owner: w.ann.ID}, a)
	of(computations.AssetFilter{Owner: w.bob.ID}, b)
	of(computations.AssetFilter{Owner: w.ann.ID, Content: a.Content()}, a)
	of(computations.AssetFilter{Owner: w.bob.ID, Content: a.Content()})
	of(computations.AssetFilter{Owner: w.bob.ID, Kind: computations.AssetDataset})
	of(computations.AssetFilter{Owner: w.bob.ID, Kind: computations.AssetDataset, Retired: true}, c)
	a.Retired = now
	put(t, s, func(wr writer) error { return wr.PutAsset(a) })
	list("", false, b)
	list(computations.AssetDataset, true, c, a)
}

// testPages goes through lists two at a time, and asks for too many.
func testPages(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	const n = 7
	var users, comps, runs, assets []id
	update(t, s, func(wr writer) error {
		var errs []error
		for i := range n {
			name := id('a' + rune(i))
			users = append([]id{"user-z" + name}, users...)
			comps = append([]id{"comp-z" + name}, comps...)
			runs = append([]id{"run-z" + name}, runs...)
			assets = append([]id{"asset-" + name}, assets...)
			errs = append(errs,
				wr.PutUser(computations.User{ID: users[0], Email: string(name)}),
				wr.PutComputation(computations.Computation{ID: comps[0], Workspace: w.other.ID, Creator: w.ann.ID}),
				wr.SetParts(comps[0], w.bob.ID, []computations.Part{computations.PartViewer}),
				wr.PutRun(computations.Run{ID: runs[0], Computation: comps[0], Workspace: w.other.ID, Number: 1, By: w.ann.ID, State: computations.RunRunning}),
				wr.PutAsset(computations.Asset{ID: assets[0], Workspace: w.other.ID, Owner: w.ann.ID}))
		}
		return errors.Join(errs...)
	})
	users = append(users, w.bob.ID, w.ann.ID)
	for name, list := range map[string]struct {
		want []id
		get  func(r reader, p computations.Page) ([]id, error)
	}{
		"Users": {users, func(r reader, p computations.Page) ([]id, error) {
			l, err := r.Users(p)
			return names(l, func(u computations.User) id { return u.ID }), err
		}},
		"Computations": {comps, func(r reader, p computations.Page) ([]id, error) {
			l, err := r.Computations(computations.ComputationFilter{Workspace: w.other.ID}, p)
			return names(l, computationID), err
		}},
		"Computations of a user and state": {comps, func(r reader, p computations.Page) ([]id, error) {
			l, err := r.Computations(computations.ComputationFilter{Workspace: w.other.ID, User: w.bob.ID, States: []string{"running", "draft"}}, p)
			return names(l, computationID), err
		}},
		"Runs": {runs, func(r reader, p computations.Page) ([]id, error) {
			l, err := r.Runs(computations.RunFilter{Workspace: w.other.ID}, p)
			return names(l, runID), err
		}},
		"Runs of a user and state": {runs, func(r reader, p computations.Page) ([]id, error) {
			l, err := r.Runs(computations.RunFilter{Workspace: w.other.ID, User: w.bob.ID, States: []computations.RunState{"failed", "running"}}, p)
			return names(l, runID), err
		}},
		"Assets": {assets, func(r reader, p computations.Page) ([]id, error) {
			l, err := r.Assets(computations.AssetFilter{Workspace: w.other.ID}, p)
			return names(l, func(a computations.Asset) id { return a.ID }), err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []id
			p := computations.Page{Limit: 2}
			for {
				var page []id
				view(t, s, func(r reader) (err error) { page, err = list.get(r, p); return err })
				if got = append(got, page...); len(page) < 2 {
					break
				}
				p.Before = page[1]
			}
			if len(got) != len(list.want) {
				t.Fatalf("got %v, want %v", got, list.want)
			}
			for i := range got {
				if got[i] != list.want[i] {
					t.Errorf("got %v, want %v", got, list.want)
				}
			}
			view(t, s, func(r reader) error {
				all, err := list.get(r, computations.Page{Limit: 1 << 30})
				if len(all) != len(list.want) {
					t.Errorf("all at once: %d, want %d", len(all), len(list.want))
				}
				return err
			})
		})
	}
}

func names[T any](list []T, name func(T) id) []id {
	var out []id
	for _, v := range list {
		out = append(out, name(v))
	}
	return out
}

func computationID(c computations.Computation) id { return c.ID }
func runID(r computations.Run) id                 { return r.ID }
