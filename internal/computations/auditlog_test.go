package computations_test

import (
	"database/sql"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // to change what must not be changed

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/manifest"
)

// readers change nothing that anybody would ask about later.
var readers = []string{
	"Asset", "Assets", "Audit", "Authenticate", "Computation", "Computations", "CountComputations", "Credentials", "DryRun", "EnrolTokens", "Entries",
	"ExportComputation", "Host", "Hosts", "Invitation", "InvitationByLink", "InvitationLink", "Invitations", "Keys", "LinkInfo", "LoginCommand", "Members", "MyInvitations",
	"Name", "Receipt", "Run", "Runs", "Settings", "Upkeep", "Users", "VerifyAudit", "Watch", "Workspace", "Workspaces",
}

// Every use case that changes something says so in the audit log: who, what, and
// to what; and never a secret.
func TestEveryChangeIsInTheAuditLog(t *testing.T) { storetest.Each(t, everyChange) }

func everyChange(t *testing.T, fresh func(testing.TB) store.Config) {
	p := playOn(t, fresh)
	var secrets []string
	keep := func(secret string, err error) error {
		secrets = append(secrets, secret[strings.LastIndex(secret, "/")+1:])
		return err
	}
	annasKey := newKey(t)
	anna, host := p.person("anna"), c.Host{ID: c.NewID(), Name: "host-1"}
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error { return w.PutHost(host) }))
	var user c.User
	var inv c.Invitation
	var link, invitation string
	invite := func(email string) (err error) {
		inv, invitation, err = p.Invite(p.ctx, p.alice.Identity, c.Invite{Workspace: p.ws.ID, Email: email})
		return keep(invitation, err)
	}
	asset := p.asset(p.bob, p.ws, c.AssetDataset, "second.csv")
	var run c.Run
	runID := func() c.ID { return run.ID }
	var copied c.Computation
	var receipt []byte
	// says is what somebody will look for later in what a step leaves.
	says := map[string]map[string]func() string{
		"OperatorLink":  {"email": func() string { return p.op.Email }},
		"SubmitReceipt": {"sha256": func() string { return manifest.Sum(receipt).String() }, "outcome": func() string { return "succeeded" }},
		"RevokeKey":     {"fingerprint": func() string { return annasKey.Public().Fingerprint() }},
		"SetMemberRole": {"from": func() string { return "member" }, "to": func() string { return "manager" }},
		"RemoveMember":  {"role": func() string { return "manager" }},
		"SetSetting":    {"name": func() string { return "invitation-days" }, "value": func() string { return "3" }},
	}
	done := map[string]bool{}
	for _, step := range []struct {
		method string
		actor  *person // nil: the service, or nobody known
		action string
		do     func() error
	}{
		{"CreateUser", p.op, "user.create", func() (err error) {
			user, link, err = p.CreateUser(p.ctx, p.op.Identity, "zoe@example.org", "Zoe", false)
			return keep(link, err)
		}},
		{"RedeemLink", nil, "link.redeem", func() error { return keep(p.RedeemLink(p.ctx, secretIn(t, link), "", "", password, "test")) }},
		{"ResetPassword", p.op, "user.reset-password", func() error { return keep(p.ResetPassword(p.ctx, p.op.Identity, user.ID)) }},
		{"SetUserDisabled", p.op, "user.disable", func() error { return p.SetUserDisabled(p.ctx, p.op.Identity, user.ID, true) }},
		{"OperatorLink", nil, "operator.link", func() error { return keep(p.OperatorLink(p.ctx, p.op.Email)) }},
		{"SignIn", anna, "sign-in", func() error { return keep(p.SignIn(p.ctx, anna.Email, password, "test", "192.0.2.1")) }},
		{"SignInExternal", nil, "sign-in", func() error {
			session, _, err := p.SignInExternal(p.ctx, c.ExternalUser{Issuer: "https://id.example.org", Subject: "1", Email: anna.Email, EmailVerified: true}, "test")
			return keep(session, err)
		}},
		{"ChangePassword", anna, "password.change", func() error { return p.ChangePassword(p.ctx, anna.Identity, password, "eight blue bottles") }},
		{"SetName", anna, "user.name", func() error { return p.SetName(p.ctx, anna.Identity, "Anna") }},
		{"CreateToken", anna, "token.create", func() error {
			secret, token, err := p.CreateToken(p.ctx, anna.Identity, "ci", time.Hour)
			p.ok(keep(secret, err))
			p.ok(p.RevokeCredential(p.ctx, anna.Identity, token.ID))
			secret, _, err = p.CreateToken(p.ctx, anna.Identity, "ci", time.Hour)
			return keep(secret, err)
		}},
		{"RevokeCredential", anna, "credential.revoke", func() error {
			all, err := p.Service.Credentials(p.ctx, anna.Identity)
			p.ok(err)
			i := slices.IndexFunc(all, func(k c.Credential) bool { return k.Kind == c.AccessToken })
			return p.RevokeCredential(p.ctx, anna.Identity, all[i].ID)
		}},
		{"RegisterKey", anna, "key.register", func() error {
			k, err := p.RegisterKey(p.ctx, anna.Identity, p.proof(anna, annasKey, "anna"))
			anna.keyID = k.ID
			return err
		}},
		{"RevokeKey", anna, "key.revoke", func() error { return p.RevokeKey(p.ctx, anna.Identity, anna.keyID) }},
		{"CreateWorkspace", anna, "workspace.create", func() error { return empty(p.CreateWorkspace(p.ctx, anna.Identity, "Anna's")) }},
		{"RenameWorkspace", p.alice, "workspace.rename", func() error { return p.RenameWorkspace(p.ctx, p.alice.Identity, p.ws.ID, "Clinics") }},
		{"SetRetention", p.alice, "workspace.retention", func() error { return p.SetRetention(p.ctx, p.alice.Identity, p.ws.ID, time.Hour) }},
		{"Invite", p.alice, "invitation.create", func() error { return invite("yves@example.org") }},
		{"ResendInvitation", p.alice, "invitation.resend", func() (err error) {
			invitation, err = p.ResendInvitation(p.ctx, p.alice.Identity, inv.ID)
			return keep(invitation, err)
		}},
		{"AcceptAsNew", nil, "invitation.accept", func() error { return empty2(p.AcceptAsNew(p.ctx, invitation, "Yves", password, "test")) }},
		{"DeclineInvitation", nil, "invitation.decline", func() error { p.ok(invite("xenia@example.org")); return p.DeclineInvitation(p.ctx, invitation) }},
		{"WithdrawInvitation", p.alice, "invitation.withdraw", func() error {
			p.ok(invite("xenia@example.org"))
			return p.WithdrawInvitation(p.ctx, p.alice.Identity, inv.ID)
		}},
		{"DeclineMyInvitation", anna, "invitation.decline", func() error { p.ok(invite(anna.Email)); return p.DeclineMyInvitation(p.ctx, anna.Identity, inv.ID) }},
		{"AcceptMyInvitation", anna, "invitation.accept", func() error {
			p.ok(invite(anna.Email))
			return empty(p.AcceptMyInvitation(p.ctx, anna.Identity, inv.ID))
		}},
		{"SetMemberRole", p.alice, "member.role", func() error { return p.SetMemberRole(p.ctx, p.alice.Identity, p.ws.ID, anna.User, c.RoleManager) }},
		{"RemoveMember", p.alice, "member.remove", func() error { return p.RemoveMember(p.ctx, p.alice.Identity, p.ws.ID, anna.User) }},
		{"AcceptInvitation", anna, "invitation.accept", func() error {
			p.ok(invite(anna.Email))
			return empty(p.AcceptInvitation(p.ctx, anna.Identity, invitation))
		}},
		{"CreateAsset", p.bob, "asset.create", func() error {
			return empty(p.CreateAsset(p.ctx, p.bob.Identity, c.Asset{Workspace: p.ws.ID, Name: "x", Kind: c.AssetDataset, SHA256: [32]byte{1}}))
		}},
		{"EditAsset", p.bob, "asset.edit", func() error { return p.EditAsset(p.ctx, p.bob.Identity, asset.ID, "y", "") }},
		{"RetireAsset", p.bob, "asset.retire", func() error { return p.RetireAsset(p.ctx, p.bob.Identity, asset.ID) }},
		{"CreateComputation", p.bob, "computation.create", func() error { return empty(p.CreateComputation(p.ctx, p.bob.Identity, p.ws.ID, p.draft())) }},
		{"EditDraft", p.alice, "computation.edit", func() error { return empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, p.draft())) }},
		{"SetParts", p.alice, "computation.parts", func() error { return p.SetParts(p.ctx, p.alice.Identity, p.id, anna.User, []c.Part{c.PartViewer}) }},
		{"Supply", p.bob, "computation.supply", func() error { return p.Supply(p.ctx, p.bob.Identity, p.id, c.Supply{Key: p.bob.keyID}) }},
		{"Freeze", p.alice, "computation.freeze", func() error { return empty(p.Freeze(p.ctx, p.alice.Identity, p.id, 3)) }},
		{"Approve", p.bob, "computation.approve", func() error { return p.Approve(p.ctx, p.bob.Identity, p.id, p.approval(p.bob)) }},
		{"StartRun", p.alice, "computation.run", func() (err error) {
			p.approve(p.carol, p.dave)
			run, err = p.StartRun(p.ctx, p.alice.Identity, p.id)
			return err
		}},
		{"SubmitReceipt", p.carol, "receipt.submit", func() error {
			receipt = p.receiptOf(runID(), newKey(t), p.view(p.carol).Frozen)
			return p.SubmitReceipt(p.ctx, p.carol.Identity, runID(), receipt)
		}},
		{"StopRun", p.alice, "run.stop", func() error { return p.StopRun(p.ctx, p.alice.Identity, runID()) }},
		{"CopyComputation", p.carol, "computation.copy", func() (err error) {
			copied, err = p.CopyComputation(p.ctx, p.carol.Identity, p.id)
			return err
		}},
		{"ImportComputation", p.carol, "computation.import", func() error {
			raw, err := p.ExportComputation(p.ctx, p.carol.Identity, copied.ID)
			p.ok(err)
			return empty(p.ImportComputation(p.ctx, p.carol.Identity, p.ws.ID, raw))
		}},
		{"ArchiveComputation", p.alice, "computation.archive", func() error { return p.ArchiveComputation(p.ctx, p.alice.Identity, p.id, true) }},
		{"CreateEnrolToken", p.op, "host.enrol", func() error {
			_, secret, err := p.CreateEnrolToken(p.ctx, p.op.Identity, "host-2", time.Hour)
			return keep(secret, err)
		}},
		{"WithdrawEnrolToken", p.op, "host.withdraw-token", func() error {
			all, err := p.EnrolTokens(p.ctx, p.op.Identity)
			p.ok(err)
			return p.WithdrawEnrolToken(p.ctx, p.op.Identity, all[0].ID)
		}},
		{"CordonHost", p.op, "host.cordon", func() error { return p.CordonHost(p.ctx, p.op.Identity, host.ID, true) }},
		{"DrainHost", p.op, "host.drain", func() error { return p.DrainHost(p.ctx, p.op.Identity, host.ID, true) }},
		{"RevokeHost", p.op, "host.revoke", func() error { return p.RevokeHost(p.ctx, p.op.Identity, host.ID) }},
		{"SetSetting", p.op, "service.settings", func() error { return p.SetSetting(p.ctx, p.op.Identity, "invitation-days", "3") }},
		{"SignOut", p.dave, "sign-out", func() error { return p.SignOut(p.ctx, p.dave.Identity) }},
	} {
		done[step.method] = true
		p.clock.pass(time.Second)
		before, _, err := p.VerifyAudit(p.ctx)
		p.ok(err)
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.method, err)
		}
		after, _, err := p.VerifyAudit(p.ctx)
		p.ok(err)
		e := p.audited(after)
		for name, want := range says[step.method] {
			if got := e.Detail[name]; got != want() {
				t.Errorf("%s says that %s is %q, not %q", step.method, name, got, want())
			}
		}
		if after == before || e.Action != step.action || step.actor != nil && e.Actor != step.actor.User || !e.At.Equal(p.clock.Now()) {
			t.Errorf("%s left %d entries, the last of them %+v", step.method, after-before, e)
		}
		if inside := strings.SplitN(step.action, ".", 2)[0]; (e.Workspace == p.ws.ID) != slices.Contains([]string{"invitation", "member", "asset", "computation", "run", "receipt"}, inside) &&
			inside != "workspace" {
			t.Errorf("%s is noted in the workspace %q", step.method, e.Workspace)
		}
	}
	typ := reflect.TypeFor[*c.Service]()
	for i := range typ.NumMethod() {
		// Bootstrap was before there was anybody.
		if name := typ.Method(i).Name; !done[name] && name != "Bootstrap" && !slices.Contains(readers, name) {
			t.Errorf("%s has no step here", name)
		}
	}
	n, _, err := p.VerifyAudit(p.ctx)
	p.ok(err)
	secrets = append(secrets, password, "eight blue bottles")
	for i := range n {
		e := p.audited(i + 1)
		for _, secret := range secrets {
			if text := fmt.Sprint(e.Detail, e.Object); strings.Contains(text, secret) {
				t.Errorf("%s tells the secret %s", e.Action, secret)
			}
		}
	}
}

// The first administrator's links, and the address that one of them takes, are in the
// log, too.
func TestBootstrapIsInTheAuditLog(t *testing.T) {
	w := bare(t, storetest.SQLite)
	w.ok(empty(w.Bootstrap(w.ctx)))
	link, err := w.Bootstrap(w.ctx)
	w.ok(err)
	session, err := w.RedeemLink(w.ctx, secretIn(t, link), "Olga", "olga@example.org", password, "test")
	w.op = w.signedIn(session, err)
	for i, want := range []struct {
		action string
		detail map[string]string
	}{
		{"user.create", map[string]string{"email": "admin@localhost"}},
		{"operator.link", map[string]string{"email": "admin@localhost"}},
		{"operator.link", map[string]string{"email": "admin@localhost"}},
		{"link.redeem", map[string]string{"email": "olga@example.org", "email-before": "admin@localhost", "client": "test"}},
	} {
		if e := w.audited(int64(i + 1)); e.Action != want.action || e.Object != w.op.User || !reflect.DeepEqual(e.Detail, want.detail) {
			t.Errorf("entry %d is %+v, want %+v", i+1, e, want)
		}
	}
}

// audited is the entry of that sequence.
func (w *world) audited(sequence int64) c.AuditEntry {
	w.t.Helper()
	var found []c.AuditEntry
	w.ok(w.store.View(w.ctx, func(r c.Reader) (err error) {
		found, err = r.AuditChain(sequence-1, 1)
		return err
	}))
	if len(found) != 1 {
		w.t.Fatalf("no entry %d in the audit log", sequence)
	}
	return found[0]
}

// Whatever is changed, put in, taken out or turned around in the log shows, and
// where. A cut at the end shows against a noted head.
func TestAuditLogThatWasTamperedWith(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.ok(w.SetName(w.ctx, w.op.Identity, fmt.Sprint("Olga ", i)))
	}
	n, head, err := w.VerifyAudit(w.ctx)
	if err != nil || n != 8 {
		t.Fatalf("%d entries, %v", n, err)
	}
	database := w.copied()
	for name, tt := range map[string]struct{ sql, want string }{
		"action":        {"UPDATE audit SET action = 'sign-out' WHERE sequence = 3", "broken at entry 3: it was changed"},
		"actor":         {"UPDATE audit SET actor_id = 'x' WHERE sequence = 3", "broken at entry 3: it was changed"},
		"workspace":     {"UPDATE audit SET workspace_id = 'x' WHERE sequence = 3", "broken at entry 3: it was changed"},
		"object":        {"UPDATE audit SET object_id = 'x' WHERE sequence = 3", "broken at entry 3: it was changed"},
		"time":          {"UPDATE audit SET at = at + 1000 WHERE sequence = 3", "broken at entry 3: it was changed"},
		"detail":        {`UPDATE audit SET detail = '{"x":"y"}' WHERE sequence = 3`, "broken at entry 3: it was changed"},
		"hash":          {"UPDATE audit SET hash = zeroblob(32) WHERE sequence = 3", "broken at entry 3: it was changed"},
		"previous":      {"UPDATE audit SET previous = hash WHERE sequence = 3", "broken at entry 3: it does not follow"},
		"taken out":     {"DELETE FROM audit WHERE sequence = 3", "entry 3 is missing"},
		"first one out": {"DELETE FROM audit WHERE sequence = 1", "entry 1 is missing"},
		"numbered anew": {"DELETE FROM audit WHERE sequence = 3; UPDATE audit SET sequence = sequence - 1 WHERE sequence > 3", "broken at entry 3: it does not follow"},
		"cut":           {"DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := ""
			w := bare(t, func(t testing.TB) store.Config {
				config := storedIn(database)(t)
				path = config.Path
				return config
			})
			db, err := sql.Open("sqlite", path)
			w.ok(err)
			defer db.Close()
			_, err = db.Exec("DROP TRIGGER audit_not_changed; DROP TRIGGER audit_not_deleted; " + tt.sql)
			w.ok(err)
			m, now, err := w.VerifyAudit(w.ctx)
			if tt.want == "" {
				if err != nil || m != n-1 || now == head {
					t.Errorf("%d entries with the head %x, %v", m, now, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Each member of an entry is in its hash.
func TestAuditSum(t *testing.T) {
	base := c.AuditEntry{Sequence: 7, At: time.UnixMicro(1), Workspace: "w", Actor: "a", Action: "x", Object: "o", Detail: map[string]string{"k": "v", "l": "m"}, Previous: [32]byte{1}}
	sum := base.Sum()
	seen := map[[32]byte]string{sum: "as it is"}
	for name, change := range map[string]func(*c.AuditEntry){
		"sequence":     func(e *c.AuditEntry) { e.Sequence++ },
		"time":         func(e *c.AuditEntry) { e.At = e.At.Add(time.Microsecond) },
		"workspace":    func(e *c.AuditEntry) { e.Workspace = "" },
		"actor":        func(e *c.AuditEntry) { e.Actor = "" },
		"action":       func(e *c.AuditEntry) { e.Action = "" },
		"object":       func(e *c.AuditEntry) { e.Object = "" },
		"moved":        func(e *c.AuditEntry) { e.Workspace, e.Actor = "wa", "" },
		"previous":     func(e *c.AuditEntry) { e.Previous[31] = 1 },
		"a value":      func(e *c.AuditEntry) { e.Detail = map[string]string{"k": "w", "l": "m"} },
		"a name":       func(e *c.AuditEntry) { e.Detail = map[string]string{"j": "v", "l": "m"} },
		"one less":     func(e *c.AuditEntry) { e.Detail = map[string]string{"k": "v"} },
		"none":         func(e *c.AuditEntry) { e.Detail = nil },
		"run together": func(e *c.AuditEntry) { e.Detail = map[string]string{"k": "vlm"} },
	} {
		e := base
		change(&e)
		if other, double := seen[e.Sum()]; double {
			t.Errorf("%s has the same hash as %s", name, other)
		}
		seen[e.Sum()] = name
	}
	same := base
	same.At, same.Email, same.Hash = base.At.In(time.FixedZone("x", 3600)), "e", [32]byte{9}
	if same.Sum() != sum {
		t.Error("the hash depends on what isn't in it")
	}
}
