package store

import (
	"errors"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

type (
	id         = computations.ID
	user       = computations.User
	credential = computations.Credential
	workspace  = computations.Workspace
	member     = computations.Member
)

var users = newTable("users", "id email email_verified name password_hash issuer subject operator disabled created", 1, "", "",
	func(u *user) []any {
		return []any{&u.ID, &u.Email, &u.EmailVerified, &u.Name, &u.PasswordHash, &u.Issuer, &u.Subject,
			&u.Operator, &u.Disabled, moment{&u.Created}}
	})

func (x *tx) User(u id) (user, error) { return users.one(x, "WHERE t.id = $1", u) }

func (x *tx) UserByEmail(email string) (user, error) {
	return users.one(x, "WHERE t.email = $1", email)
}

// UserBySubject: users without a provider have an empty issuer, and are nobody's.
func (x *tx) UserBySubject(issuer, subject string) (user, error) {
	return users.one(x, "WHERE t.issuer = $1 AND t.subject = $2 AND t.issuer <> ''", issuer, subject)
}

func (x *tx) Users(p computations.Page) ([]user, error) {
	var f filter
	end := f.page(p)
	return users.all(x, f.where(end), f.args...)
}

func (x *tx) CountUsers() (n int, err error) {
	return n, x.value([]any{&n}, "SELECT count(*) FROM users")
}

func (x *tx) PutUser(u user) error { return users.put(x, u) }

var credentials = newTable("credentials", "id user_id kind name hash client created expires used", 1, "", "",
	func(c *credential) []any {
		return []any{&c.ID, &c.User, &c.Kind, &c.Name, sum{sum: &c.Hash}, &c.Client,
			moment{&c.Created}, moment{&c.Expires}, moment{&c.Used}}
	})

func (x *tx) Credential(hash [32]byte) (credential, error) {
	return credentials.one(x, "WHERE t.hash = $1", hash)
}

func (x *tx) Credentials(user id) ([]credential, error) {
	return credentials.all(x, "WHERE t.user_id = $1 ORDER BY t.id DESC", user)
}

func (x *tx) PutCredential(c credential) error { return credentials.put(x, c) }

func (x *tx) TouchCredential(credential id, used time.Time) error {
	n, err := x.exec("UPDATE credentials SET used = $1 WHERE id = $2", used, credential)
	return orNoRow(n, err)
}

func (x *tx) DeleteCredential(user, credential id) error {
	n, err := x.exec("DELETE FROM credentials WHERE id = $1 AND user_id = $2", credential, user)
	return orNoRow(n, err)
}

func (x *tx) DeleteCredentials(user id, kind computations.CredentialKind) error {
	_, err := x.exec("DELETE FROM credentials WHERE user_id = $1 AND kind = $2", user, kind)
	return err
}

// ExpireCredentials takes a session that was never used as used when it was made.
func (x *tx) ExpireCredentials(now, idle time.Time, limit int) (int, error) {
	n, err := x.exec(`DELETE FROM credentials WHERE id IN (
		SELECT id FROM credentials WHERE expires <> 0 AND expires < $1 LIMIT $2)`, now, limit)
	if err != nil || int(n) >= limit {
		return int(n), err
	}
	m, err := x.exec(`DELETE FROM credentials WHERE id IN (
		SELECT id FROM credentials WHERE kind = $1 AND used < $2 AND created < $2 LIMIT $3)`,
		computations.Session, idle, limit-int(n))
	return int(n + m), err
}

// orNoRow turns a change of nothing into ErrNoRow.
func orNoRow(n int64, err error) error {
	if err == nil && n == 0 {
		err = computations.ErrNoRow
	}
	return err
}

var workspaces = newTable("workspaces", "id name created keep_entries", 1, "", "",
	func(w *workspace) []any { return []any{&w.ID, &w.Name, moment{&w.Created}, &w.KeepEntries} })

func (x *tx) Workspace(workspace id) (workspace, error) {
	return workspaces.one(x, "WHERE t.id = $1", workspace)
}

func (x *tx) WorkspacesOf(user id) ([]workspace, error) {
	return workspaces.all(x, `WHERE t.id IN (SELECT workspace_id FROM members WHERE user_id = $1)
		ORDER BY t.name, t.id`, user)
}

func (x *tx) Forgetful() ([]workspace, error) {
	return workspaces.all(x, "WHERE t.keep_entries <> 0 ORDER BY t.id")
}

func (x *tx) PutWorkspace(w workspace) error { return workspaces.put(x, w) }

var members = newTable("members", "workspace_id user_id role joined", 2, ", u.email, u.name, u.disabled", "JOIN users u ON u.id = t.user_id",
	func(m *member) []any {
		return []any{&m.Workspace, &m.User, &m.Role, moment{&m.Joined}, &m.Email, &m.Name, &m.Disabled}
	})

func (x *tx) Member(workspace, user id) (member, error) {
	return members.one(x, "WHERE t.workspace_id = $1 AND t.user_id = $2", workspace, user)
}

func (x *tx) Members(workspace id) ([]member, error) {
	return members.all(x, "WHERE t.workspace_id = $1 ORDER BY u.email", workspace)
}

func (x *tx) PutMember(m member) error { return members.put(x, m) }

func (x *tx) DeleteMember(workspace, user id) error {
	n, err := x.exec("DELETE FROM members WHERE workspace_id = $1 AND user_id = $2", workspace, user)
	return orNoRow(n, err)
}

// Setting is empty where nothing was set.
func (x *tx) Setting(name string) (value string, err error) {
	err = x.value([]any{&value}, "SELECT value FROM settings WHERE name = $1", name)
	if errors.Is(err, computations.ErrNoRow) {
		err = nil
	}
	return value, err
}

func (x *tx) PutSetting(name, value string) error {
	_, err := x.exec("INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
	return err
}
