package computations_test

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// A scenario asks for one use case as somebody. It asks for nothing that could be
// done: whoever may ask is told that it is at fault, and whoever may not must not
// get so far.
type scenario struct {
	// see and do are what it takes to know of the thing, and to do it; with an empty
	// do, everybody who is signed in may, for what is their own.
	see, do c.Action
	on      scope
	call    func(*stage, c.Identity) error
}

// scope says whose standing counts.
type scope int

const (
	nobody      scope = iota // needs no identity: a secret is shown instead
	oneself                  // is about the asker
	service                  // the service as a whole
	workspace                // a workspace
	computation              // a computation in it, or a run of it
)

// stage has one of everything.
type stage struct {
	*play
	runID, hostID, invitationID c.ID
}

func empty[T any](_ T, err error) error             { return err }
func empty2[T, U any](_ T, _ U, err error) error    { return err }
func own(f func(*stage, c.Identity) error) scenario { return scenario{on: oneself, call: f} }

func onService(do c.Action, f func(*stage, c.Identity) error) scenario {
	return scenario{on: service, do: do, call: f}
}

func inWorkspace(do c.Action, f func(*stage, c.Identity) error) scenario {
	return scenario{see: c.WorkspaceShow, do: do, on: workspace, call: f}
}

func onAsset(do c.Action, f func(*stage, c.Identity) error) scenario {
	return scenario{see: c.AssetShow, do: do, on: workspace, call: f}
}

func onInvitation(do c.Action, f func(*stage, c.Identity) error) scenario {
	return scenario{see: c.InvitationList, do: do, on: workspace, call: f}
}

func onComputation(do c.Action, f func(*stage, c.Identity) error) scenario {
	return scenario{see: c.ComputationShow, do: do, on: computation, call: f}
}

// scenarios has every method of the service by its name. One that isn't here
// fails the test: say who may call it, before it is there for all.
var scenarios = map[string]scenario{
	// What needs no identity is tested for what it refuses, each on its own.
	"Name": {}, "InvitationLink": {}, "LoginCommand": {}, "Bootstrap": {}, "OperatorLink": {}, "RedeemLink": {}, "LinkInfo": {}, "SignIn": {}, "SignInExternal": {}, "Authenticate": {},
	"InvitationByLink": {}, "AcceptAsNew": {}, "DeclineInvitation": {}, "VerifyAudit": {}, "Upkeep": {},

	"SignOut":        own(func(s *stage, who c.Identity) error { return nil }), // asked for in its own test: it ends what this one needs
	"ChangePassword": own(func(s *stage, who c.Identity) error { return s.ChangePassword(s.ctx, who, password, "short") }),
	"SetName":        own(func(s *stage, who c.Identity) error { return s.SetName(s.ctx, who, "") }),
	"CreateToken":    own(func(s *stage, who c.Identity) error { return empty2(s.CreateToken(s.ctx, who, "", 0)) }),
	"Credentials":    own(func(s *stage, who c.Identity) error { return empty(s.Service.Credentials(s.ctx, who)) }),
	"RevokeCredential": own(func(s *stage, who c.Identity) error {
		return known(s.RevokeCredential(s.ctx, who, c.NewID()), "session or token")
	}),
	"Workspaces":    own(func(s *stage, who c.Identity) error { return empty(s.Workspaces(s.ctx, who)) }),
	"MyInvitations": own(func(s *stage, who c.Identity) error { return empty(s.MyInvitations(s.ctx, who)) }),
	"AcceptInvitation": own(func(s *stage, who c.Identity) error {
		return known(empty(s.AcceptInvitation(s.ctx, who, "ci_x")), "no such invitation")
	}),
	"AcceptMyInvitation": own(func(s *stage, who c.Identity) error {
		return known(empty(s.AcceptMyInvitation(s.ctx, who, c.NewID())), "no such invitation")
	}),
	"DeclineMyInvitation": own(func(s *stage, who c.Identity) error {
		return known(s.DeclineMyInvitation(s.ctx, who, c.NewID()), "no such invitation")
	}),
	"RegisterKey": own(func(s *stage, who c.Identity) error { return empty(s.RegisterKey(s.ctx, who, c.RegisterKey{})) }),
	"Keys":        own(func(s *stage, who c.Identity) error { return empty(s.Keys(s.ctx, who)) }),
	"RevokeKey":   own(func(s *stage, who c.Identity) error { return known(s.RevokeKey(s.ctx, who, c.NewID()), "no such key") }),
	"Users":       onService(c.UserList, func(s *stage, who c.Identity) error { return empty(s.Users(s.ctx, who, c.Page{})) }),
	"CreateUser":  onService(c.UserCreate, func(s *stage, who c.Identity) error { return empty2(s.CreateUser(s.ctx, who, "", "", true)) }),
	"SetUserDisabled": onService(c.UserDisable, func(s *stage, who c.Identity) error {
		return known(s.SetUserDisabled(s.ctx, who, c.NewID(), true), "no such user")
	}),
	"ResetPassword": onService(c.UserReset, func(s *stage, who c.Identity) error {
		return known(empty(s.ResetPassword(s.ctx, who, c.NewID())), "no such user")
	}),
	"Hosts":            onService(c.HostList, func(s *stage, who c.Identity) error { return empty(s.Hosts(s.ctx, who)) }),
	"Host":             onService(c.HostShow, func(s *stage, who c.Identity) error { return empty2(s.Host(s.ctx, who, s.hostID)) }),
	"CreateEnrolToken": onService(c.HostEnrol, func(s *stage, who c.Identity) error { return empty2(s.CreateEnrolToken(s.ctx, who, "", 0)) }),
	"EnrolTokens":      onService(c.HostEnrol, func(s *stage, who c.Identity) error { return empty(s.EnrolTokens(s.ctx, who)) }),
	"WithdrawEnrolToken": onService(c.HostWithdraw, func(s *stage, who c.Identity) error {
		return known(s.WithdrawEnrolToken(s.ctx, who, c.NewID()), "no such enrolment token")
	}),
	"CordonHost": onService(c.HostCordon, func(s *stage, who c.Identity) error { return s.CordonHost(s.ctx, who, s.hostID, false) }),
	"DrainHost":  onService(c.HostDrain, func(s *stage, who c.Identity) error { return s.DrainHost(s.ctx, who, s.hostID, false) }),
	"RevokeHost": onService(c.HostRevoke, func(s *stage, who c.Identity) error {
		return known(s.RevokeHost(s.ctx, who, c.NewID()), "no such host")
	}),
	"Settings":        onService(c.ServiceSettings, func(s *stage, who c.Identity) error { return empty(s.Settings(s.ctx, who)) }),
	"SetSetting":      onService(c.ServiceSettings, func(s *stage, who c.Identity) error { return s.SetSetting(s.ctx, who, "none", "") }),
	"CreateWorkspace": onService(c.WorkspaceCreate, func(s *stage, who c.Identity) error { return empty(s.CreateWorkspace(s.ctx, who, "")) }),
	"Workspace":       inWorkspace(c.WorkspaceShow, func(s *stage, who c.Identity) error { return empty2(s.Workspace(s.ctx, who, s.ws.ID)) }),
	"RenameWorkspace": inWorkspace(c.WorkspaceRename, func(s *stage, who c.Identity) error { return s.RenameWorkspace(s.ctx, who, s.ws.ID, "") }),
	"SetRetention":    inWorkspace(c.WorkspaceRetain, func(s *stage, who c.Identity) error { return s.SetRetention(s.ctx, who, s.ws.ID, 1) }),
	"Members":         inWorkspace(c.MemberList, func(s *stage, who c.Identity) error { return empty(s.Members(s.ctx, who, s.ws.ID)) }),
	"SetMemberRole":   inWorkspace(c.MemberRole, func(s *stage, who c.Identity) error { return s.SetMemberRole(s.ctx, who, s.ws.ID, s.bob.User, "king") }),
	"RemoveMember": inWorkspace(c.MemberRemove, func(s *stage, who c.Identity) error {
		return known(s.RemoveMember(s.ctx, who, s.ws.ID, s.op.User), "is no member")
	}),
	"Invite": inWorkspace(c.InvitationCreate, func(s *stage, who c.Identity) error {
		return empty2(s.Invite(s.ctx, who, c.Invite{Workspace: s.ws.ID}))
	}),
	"Invitations":        inWorkspace(c.InvitationList, func(s *stage, who c.Identity) error { return empty(s.Invitations(s.ctx, who, s.ws.ID)) }),
	"Invitation":         onInvitation(c.InvitationList, func(s *stage, who c.Identity) error { return empty(s.Invitation(s.ctx, who, s.invitationID)) }),
	"ResendInvitation":   onInvitation(c.InvitationResend, func(s *stage, who c.Identity) error { return empty(s.ResendInvitation(s.ctx, who, s.invitationID)) }),
	"WithdrawInvitation": onInvitation(c.InvitationWithdraw, func(s *stage, who c.Identity) error { return s.WithdrawInvitation(s.ctx, who, s.invitationID) }),
	"Audit": inWorkspace(c.AuditRead, func(s *stage, who c.Identity) error {
		return empty(s.Audit(s.ctx, who, c.AuditFilter{Workspace: s.ws.ID}))
	}),
	"CreateAsset": inWorkspace(c.AssetCreate, func(s *stage, who c.Identity) error {
		return empty(s.CreateAsset(s.ctx, who, c.Asset{Workspace: s.ws.ID}))
	}),
	"Assets": inWorkspace(c.AssetList, func(s *stage, who c.Identity) error {
		return empty(s.Assets(s.ctx, who, c.AssetFilter{Workspace: s.ws.ID}, c.Page{}))
	}),
	"Asset":       onAsset(c.AssetShow, func(s *stage, who c.Identity) error { return empty(s.Asset(s.ctx, who, s.dataset.ID)) }),
	"EditAsset":   onAsset(c.AssetEdit, func(s *stage, who c.Identity) error { return s.EditAsset(s.ctx, who, s.dataset.ID, "", "") }),
	"RetireAsset": onAsset(c.AssetRetire, func(s *stage, who c.Identity) error { return s.RetireAsset(s.ctx, who, s.dataset.ID) }),
	"CreateComputation": inWorkspace(c.ComputationCreate, func(s *stage, who c.Identity) error {
		return empty(s.CreateComputation(s.ctx, who, s.ws.ID, c.Draft{}))
	}),
	"ImportComputation": inWorkspace(c.ComputationImport, func(s *stage, who c.Identity) error { return empty(s.ImportComputation(s.ctx, who, s.ws.ID, nil)) }),
	"Computations": inWorkspace(c.ComputationList, func(s *stage, who c.Identity) error {
		return empty(s.Computations(s.ctx, who, c.ComputationFilter{Workspace: s.ws.ID}, c.Page{}))
	}),
	"CountComputations": inWorkspace(c.ComputationList, func(s *stage, who c.Identity) error { return empty(s.CountComputations(s.ctx, who, s.ws.ID)) }),
	"Computation":       onComputation(c.ComputationShow, func(s *stage, who c.Identity) error { return empty(s.Computation(s.ctx, who, s.id)) }),
	"EditDraft":         onComputation(c.ComputationEdit, func(s *stage, who c.Identity) error { return empty(s.EditDraft(s.ctx, who, s.id, -1, c.Draft{})) }),
	"SetParts": onComputation(c.ComputationParts, func(s *stage, who c.Identity) error {
		return s.SetParts(s.ctx, who, s.id, s.bob.User, []c.Part{"king"})
	}),
	"Supply":             onComputation(c.ComputationSupply, func(s *stage, who c.Identity) error { return s.Supply(s.ctx, who, s.id, c.Supply{}) }),
	"Freeze":             onComputation(c.ComputationFreeze, func(s *stage, who c.Identity) error { return empty(s.Freeze(s.ctx, who, s.id, -1)) }),
	"Approve":            onComputation(c.ComputationApprove, func(s *stage, who c.Identity) error { return s.Approve(s.ctx, who, s.id, manifest.Approval{}) }),
	"DryRun":             onComputation(c.ComputationDryRun, func(s *stage, who c.Identity) error { return empty(s.DryRun(s.ctx, who, s.id)) }),
	"StartRun":           onComputation(c.ComputationRun, func(s *stage, who c.Identity) error { return empty(s.StartRun(s.ctx, who, s.id)) }),
	"StopRun":            onComputation(c.RunStop, func(s *stage, who c.Identity) error { return s.StopRun(s.ctx, who, s.runID) }),
	"Runs":               onComputation(c.RunShow, func(s *stage, who c.Identity) error { return empty(s.Runs(s.ctx, who, s.id, c.Page{})) }),
	"Run":                onComputation(c.RunShow, func(s *stage, who c.Identity) error { return empty(s.Run(s.ctx, who, s.runID)) }),
	"CopyComputation":    onComputation(c.ComputationCopy, func(s *stage, who c.Identity) error { return empty(s.CopyComputation(s.ctx, who, s.id)) }),
	"ExportComputation":  onComputation(c.ComputationExport, func(s *stage, who c.Identity) error { return empty(s.ExportComputation(s.ctx, who, s.id)) }),
	"ArchiveComputation": onComputation(c.ComputationArchive, func(s *stage, who c.Identity) error { return s.ArchiveComputation(s.ctx, who, s.id, false) }),
	"Entries":            onComputation(c.RunEntries, func(s *stage, who c.Identity) error { return empty(s.Entries(s.ctx, who, s.runID, c.EntryFilter{})) }),
	"Watch": onComputation(c.RunEntries, func(s *stage, who c.Identity) error {
		return s.Watch(s.ctx, who, s.runID, 0, func([]c.Entry, c.Run) error { return nil })
	}),
	"SubmitReceipt": onComputation(c.ReceiptSubmit, func(s *stage, who c.Identity) error { return s.SubmitReceipt(s.ctx, who, s.runID, nil) }),
	"Receipt": onComputation(c.ReceiptShow, func(s *stage, who c.Identity) error {
		return known(empty(s.Receipt(s.ctx, who, s.runID)), "no receipt of this run")
	}),
}

// known turns the answer to a question for what isn't there into one that got
// through: text is what only those are told who may ask it.
func known(err error, text string) error {
	if kindOf(err) == c.NotFound && strings.Contains(err.Error(), text) {
		return nil
	}
	return err
}

// newStage has a run that ended, so that watching it ends, too.
func newStage(t *testing.T) *stage {
	p := newPlay(t)
	p.ready()
	s := &stage{play: p, runID: p.run().ID, hostID: c.NewID()}
	p.put(s.runID, func(r *c.Run) { r.State, r.Ended = c.RunFinished, p.clock.Now() })
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error {
		return w.PutHost(c.Host{ID: s.hostID, Name: "host-1", Enrolled: p.clock.Now()})
	}))
	inv, _, err := p.Invite(p.ctx, p.alice.Identity, c.Invite{Workspace: p.ws.ID, Email: "erin@example.org"})
	p.ok(err)
	p.ok(p.WithdrawInvitation(p.ctx, p.alice.Identity, inv.ID))
	s.invitationID = inv.ID
	p.ok(p.RetireAsset(p.ctx, p.bob.Identity, p.dataset.ID))
	return s
}

// identities calls f for each scenario that needs one.
func identities(t *testing.T, f func(t *testing.T, name string, sc scenario)) {
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range scenarios {
			if !yield(name) {
				return
			}
		}
	}) {
		if sc := scenarios[name]; sc.on != nobody {
			t.Run(name, func(t *testing.T) { f(t, name, sc) })
		}
	}
}

// Every method has a scenario, and those that take no identity are known.
func TestEveryUseCaseHasItsScenario(t *testing.T) {
	typ := reflect.TypeFor[*c.Service]()
	methods := map[string]bool{}
	for i := range typ.NumMethod() {
		m := typ.Method(i)
		methods[m.Name] = true
		sc, known := scenarios[m.Name]
		if !known {
			t.Errorf("%s has no scenario: say who may call it", m.Name)
			continue
		}
		takes := false
		for j := range m.Type.NumIn() {
			takes = takes || m.Type.In(j) == reflect.TypeFor[c.Identity]()
		}
		if takes != (sc.on != nobody) {
			t.Errorf("%s: takes an identity is %t, and its scenario says otherwise", m.Name, takes)
		}
		if !slices.Contains([]string{"Name", "InvitationLink", "LoginCommand"}, m.Name) && (m.Type.NumIn() < 2 || m.Type.In(1) != reflect.TypeFor[context.Context]()) {
			t.Errorf("%s does not take the context first", m.Name)
		}
	}
	for name := range scenarios {
		if !methods[name] {
			t.Errorf("there is no method %s any more", name)
		}
	}
	// Every action is decided somewhere.
	asked := map[c.Action]bool{c.AuditServiceRead: true, c.ComputationInvite: true} // TestOtherStandings
	for _, sc := range scenarios {
		asked[sc.do] = true
	}
	for _, a := range c.Actions() {
		if !asked[a] {
			t.Errorf("no scenario asks for %s", a)
		}
	}
}

// Who can't show a credential that holds gets no further, whatever it is about.
func TestUnauthenticated(t *testing.T) {
	s := newStage(t)
	ended := func(name string, end func(p *person)) c.Identity {
		p := s.person(name)
		s.join(s.ws, s.alice, p, c.RoleAdministrator)
		end(p)
		return p.Identity
	}
	token := func(ttl time.Duration) c.Identity {
		p := s.person("tom")
		secret, _, err := s.CreateToken(s.ctx, p.Identity, "program", ttl)
		s.ok(err)
		id, err := s.Authenticate(s.ctx, secret)
		s.ok(err)
		return id
	}
	wrong := map[string]c.Identity{
		"nobody":         {},
		"made up":        {User: s.alice.User, Credential: s.alice.Credential, Kind: c.Session, Email: s.alice.Email, Operator: true},
		"signed out":     ended("sam", func(p *person) { s.ok(s.SignOut(s.ctx, p.Identity)) }),
		"revoked":        ended("rita", func(p *person) { s.ok(s.RevokeCredential(s.ctx, p.Identity, p.Credential)) }),
		"disabled":       ended("dora", func(p *person) { s.ok(s.SetUserDisabled(s.ctx, s.op.Identity, p.User, true)) }),
		"password reset": ended("pia", func(p *person) { s.ok(empty(s.ResetPassword(s.ctx, s.op.Identity, p.User))) }),
		"expired token":  token(time.Hour),
	}
	s.clock.pass(11 * time.Hour)
	s.ok(empty(s.Authenticate(s.ctx, s.alice.session))) // is used, and goes on
	s.clock.pass(2 * time.Hour)
	wrong["idle session"] = s.bob.Identity
	identities(t, func(t *testing.T, name string, sc scenario) {
		if name == "SignOut" {
			sc.call = func(s *stage, who c.Identity) error { return s.SignOut(s.ctx, who) }
		}
		for who, id := range wrong {
			if got := kindOf(sc.call(s, id)); got != c.Unauthenticated {
				t.Errorf("%s got %s", who, got)
			}
		}
		if name == "SignOut" {
			return
		}
		if got := kindOf(sc.call(s, s.alice.Identity)); got == c.Unauthenticated {
			t.Errorf("somebody who is signed in got %s", got)
		}
	})
}

// What an access token is refused, though its user may do it: a program's secret
// makes no accounts, no passwords and no other secrets, and changes nobody's.
func TestWhatAccessTokensMayNot(t *testing.T) {
	s := newStage(t)
	secret, _, err := s.CreateToken(s.ctx, s.op.Identity, "program", time.Hour)
	s.ok(err)
	token, err := s.Authenticate(s.ctx, secret)
	s.ok(err)
	inPerson := []string{"ChangePassword", "CreateToken", "RevokeCredential", "CreateUser", "ResetPassword", "SetUserDisabled", "SetSetting", "CreateEnrolToken"}
	identities(t, func(t *testing.T, name string, sc scenario) {
		err := sc.call(s, token)
		refusal := kindOf(err) == c.Denied && strings.Contains(err.Error(), "an access token can't do this")
		if want := slices.Contains(inPerson, name); refusal != want {
			t.Errorf("refused because it is a token: %t (%v), want %t", refusal, err, want)
		}
	})
}
