package userapi_test

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/keys"
)

// scope says how a method finds out who may call it.
type scope int

const (
	// open to everybody: the request has what it takes.
	open scope = iota
	// own: about the caller, or a thing of the caller's.
	own
	// service: for operators.
	service
	// tenant: by the caller's standing in a workspace, or in a computation.
	tenant
)

// method is one entry of the table: a request that is right for one person, who.
type method struct {
	scope scope
	who   string
	// action is what it takes; see what it takes to know that the thing is there.
	action, see computations.Action
	// inner: it is about a computation, where parts count.
	inner bool
	// owner: the thing is this person's.
	owner   string
	request func(*world) proto.Message
}

// methods has every method of every service. One that isn't here fails the test.
var methods = map[string]method{
	// Accounts.
	"AccountsService/GetService": {scope: open, request: func(*world) proto.Message { return &computationsv1.GetServiceRequest{} }},
	"AccountsService/SignIn": {scope: open, request: func(*world) proto.Message {
		return &computationsv1.SignInRequest{Email: "nobody@example.org", Password: "not the password"}
	}},
	"AccountsService/GetLink": {scope: open, request: func(w *world) proto.Message {
		return &computationsv1.GetLinkRequest{Secret: w.links["link"]}
	}},
	"AccountsService/RedeemLink": {scope: open, request: func(w *world) proto.Message {
		return &computationsv1.RedeemLinkRequest{Secret: w.links["link"], Password: "a long and winding road"}
	}},
	"AccountsService/SignOut":    {scope: own, who: "carl", request: func(*world) proto.Message { return &computationsv1.SignOutRequest{} }},
	"AccountsService/GetAccount": {scope: own, who: "carl", request: func(*world) proto.Message { return &computationsv1.GetAccountRequest{} }},
	"AccountsService/ChangePassword": {scope: own, who: "carl", request: func(*world) proto.Message {
		return &computationsv1.ChangePasswordRequest{OldPassword: "what it was", NewPassword: "a long and winding road"}
	}},
	"AccountsService/SetName": {scope: own, who: "carl", request: func(*world) proto.Message { return &computationsv1.SetNameRequest{Name: "Carl"} }},
	"AccountsService/CreateToken": {scope: own, who: "carl", request: func(*world) proto.Message {
		return &computationsv1.CreateTokenRequest{Name: "program", Ttl: durationpb.New(time.Hour)}
	}},
	"AccountsService/ListCredentials": {scope: own, who: "carl", request: func(*world) proto.Message { return &computationsv1.ListCredentialsRequest{} }},
	"AccountsService/RevokeCredential": {scope: own, who: "carl", owner: "carl", request: func(w *world) proto.Message {
		return &computationsv1.RevokeCredentialRequest{CredentialId: string(w.things["token"])}
	}},
	"AccountsService/ListUsers": {scope: service, action: computations.UserList, who: "olga", request: func(*world) proto.Message { return &computationsv1.ListUsersRequest{} }},
	"AccountsService/CreateUser": {scope: service, action: computations.UserCreate, who: "olga", request: func(*world) proto.Message {
		return &computationsv1.CreateUserRequest{Email: "fresh@example.org", Name: "Fresh"}
	}},
	"AccountsService/SetUserDisabled": {scope: service, action: computations.UserDisable, who: "olga", request: func(w *world) proto.Message {
		return &computationsv1.SetUserDisabledRequest{UserId: string(w.users["vera"]), Disabled: true}
	}},
	"AccountsService/ResetPassword": {scope: service, action: computations.UserReset, who: "olga", request: func(w *world) proto.Message {
		return &computationsv1.ResetPasswordRequest{UserId: string(w.users["vera"])}
	}},
	"AccountsService/GetSettings": {scope: service, action: computations.ServiceSettings, who: "olga", request: func(*world) proto.Message { return &computationsv1.GetSettingsRequest{} }},
	"AccountsService/SetSetting": {scope: service, action: computations.ServiceSettings, who: "olga", request: func(*world) proto.Message {
		return &computationsv1.SetSettingRequest{Name: "invitation-days", Value: "3"}
	}},

	// Workspaces.
	"WorkspacesService/CreateWorkspace": {scope: own, who: "stan", request: func(*world) proto.Message { return &computationsv1.CreateWorkspaceRequest{Name: "Mine"} }},
	"WorkspacesService/ListWorkspaces":  {scope: own, who: "ada", request: func(*world) proto.Message { return &computationsv1.ListWorkspacesRequest{} }},
	"WorkspacesService/GetWorkspace": {scope: tenant, who: "ada", action: computations.WorkspaceShow, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.GetWorkspaceRequest{WorkspaceId: string(w.things["workspace"])}
	}},
	"WorkspacesService/RenameWorkspace": {scope: tenant, who: "ada", action: computations.WorkspaceRename, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.RenameWorkspaceRequest{WorkspaceId: string(w.things["workspace"]), Name: "Renamed"}
	}},
	"WorkspacesService/SetRetention": {scope: tenant, who: "ada", action: computations.WorkspaceRetain, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.SetRetentionRequest{WorkspaceId: string(w.things["workspace"]), KeepEntries: durationpb.New(24 * time.Hour)}
	}},
	"WorkspacesService/ListMembers": {scope: tenant, who: "ada", action: computations.MemberList, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.ListMembersRequest{WorkspaceId: string(w.things["workspace"])}
	}},
	"WorkspacesService/SetMemberRole": {scope: tenant, who: "ada", action: computations.MemberRole, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.SetMemberRoleRequest{WorkspaceId: string(w.things["workspace"]), UserId: string(w.users["edith"]), Role: "manager"}
	}},
	"WorkspacesService/RemoveMember": {scope: tenant, who: "ada", action: computations.MemberRemove, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.RemoveMemberRequest{WorkspaceId: string(w.things["workspace"]), UserId: string(w.users["dan"])}
	}},

	// Invitations.
	"InvitationsService/CreateInvitation": {scope: tenant, who: "ada", action: computations.InvitationCreate, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.CreateInvitationRequest{WorkspaceId: string(w.things["workspace"]), Email: "guest@example.org"}
	}},
	"InvitationsService/ListInvitations": {scope: tenant, who: "ada", action: computations.InvitationList, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.ListInvitationsRequest{WorkspaceId: string(w.things["workspace"])}
	}},
	"InvitationsService/ListMyInvitations": {scope: own, who: "ines", request: func(*world) proto.Message { return &computationsv1.ListMyInvitationsRequest{} }},
	"InvitationsService/GetInvitation": {scope: open, request: func(w *world) proto.Message {
		return &computationsv1.GetInvitationRequest{Secret: w.links["new invitation"]}
	}},
	"InvitationsService/AcceptInvitation": {scope: own, who: "ines", owner: "ines", request: func(w *world) proto.Message {
		return &computationsv1.AcceptInvitationRequest{Secret: w.links["my invitation"]}
	}},
	"InvitationsService/AcceptMyInvitation": {scope: own, who: "ines", owner: "ines", request: func(w *world) proto.Message {
		return &computationsv1.AcceptMyInvitationRequest{InvitationId: string(w.things["my invitation"])}
	}},
	"InvitationsService/DeclineMyInvitation": {scope: own, who: "ines", owner: "ines", request: func(w *world) proto.Message {
		return &computationsv1.DeclineMyInvitationRequest{InvitationId: string(w.things["my invitation"])}
	}},
	"InvitationsService/AcceptAsNew": {scope: open, request: func(w *world) proto.Message {
		return &computationsv1.AcceptAsNewRequest{Secret: w.links["new invitation"], Name: "New", Password: "a long and winding road"}
	}},
	"InvitationsService/DeclineInvitation": {scope: open, request: func(w *world) proto.Message {
		return &computationsv1.DeclineInvitationRequest{Secret: w.links["new invitation"]}
	}},
	"InvitationsService/ResendInvitation": {scope: tenant, who: "ada", owner: "ada", action: computations.InvitationResend, see: computations.InvitationList, request: func(w *world) proto.Message {
		return &computationsv1.ResendInvitationRequest{InvitationId: string(w.things["invitation"])}
	}},
	"InvitationsService/WithdrawInvitation": {scope: tenant, who: "ada", owner: "ada", action: computations.InvitationWithdraw, see: computations.InvitationList, request: func(w *world) proto.Message {
		return &computationsv1.WithdrawInvitationRequest{InvitationId: string(w.things["invitation"])}
	}},

	// Keys.
	"KeysService/RegisterKey": {scope: own, who: "vera", request: func(w *world) proto.Message { return w.registration("vera") }},
	"KeysService/ListKeys":    {scope: own, who: "rita", request: func(*world) proto.Message { return &computationsv1.ListKeysRequest{} }},
	"KeysService/RevokeKey": {scope: own, who: "rita", owner: "rita", request: func(w *world) proto.Message {
		return &computationsv1.RevokeKeyRequest{KeyId: string(w.things["rita's key"])}
	}},

	// Assets.
	"AssetsService/CreateAsset": {scope: tenant, who: "nemo", action: computations.AssetCreate, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.CreateAssetRequest{WorkspaceId: string(w.things["workspace"]), Name: "fresh", Kind: "dataset", Sha256: make32(9), Size: 1}
	}},
	"AssetsService/ListAssets": {scope: tenant, who: "nemo", action: computations.AssetList, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.ListAssetsRequest{WorkspaceId: string(w.things["workspace"])}
	}},
	"AssetsService/GetAsset": {scope: tenant, who: "nemo", action: computations.AssetShow, see: computations.AssetShow, request: func(w *world) proto.Message {
		return &computationsv1.GetAssetRequest{AssetId: string(w.things["dataset"])}
	}},
	"AssetsService/EditAsset": {scope: tenant, who: "dora", owner: "dora", action: computations.AssetEdit, see: computations.AssetShow, request: func(w *world) proto.Message {
		return &computationsv1.EditAssetRequest{AssetId: string(w.things["dataset"]), Name: "renamed"}
	}},
	"AssetsService/RetireAsset": {scope: tenant, who: "dora", owner: "dora", action: computations.AssetRetire, see: computations.AssetShow, request: func(w *world) proto.Message {
		return &computationsv1.RetireAssetRequest{AssetId: string(w.things["dataset"])}
	}},

	// Computations.
	"ComputationsService/CreateComputation": {scope: tenant, who: "nemo", action: computations.ComputationCreate, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.CreateComputationRequest{WorkspaceId: string(w.things["workspace"]), Draft: w.draft()}
	}},
	"ComputationsService/ListComputations": {scope: tenant, who: "mona", action: computations.ComputationList, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.ListComputationsRequest{WorkspaceId: string(w.things["workspace"])}
	}},
	"ComputationsService/CountComputations": {scope: tenant, who: "mona", action: computations.ComputationList, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.CountComputationsRequest{WorkspaceId: string(w.things["workspace"])}
	}},
	"ComputationsService/GetComputation": {scope: tenant, inner: true, who: "vera", action: computations.ComputationShow, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.GetComputationRequest{ComputationId: string(w.things["frozen"])}
	}},
	"ComputationsService/EditDraft": {scope: tenant, inner: true, who: "edith", action: computations.ComputationEdit, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.EditDraftRequest{ComputationId: string(w.things["draft"]), Revision: w.revision("draft"), Draft: w.draft()}
	}},
	"ComputationsService/SetParts": {scope: tenant, inner: true, who: "edith", action: computations.ComputationParts, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.SetPartsRequest{ComputationId: string(w.things["draft"]), UserId: string(w.users["mona"]), Parts: []string{"viewer"}}
	}},
	"ComputationsService/Supply": {scope: tenant, inner: true, who: "dora", action: computations.ComputationSupply, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.SupplyRequest{ComputationId: string(w.things["draft"]), KeyId: string(w.things["dora's key"]), Slot: "datasets/tides", AssetId: string(w.things["dataset"])}
	}},
	"ComputationsService/Freeze": {scope: tenant, inner: true, who: "edith", action: computations.ComputationFreeze, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.FreezeRequest{ComputationId: string(w.things["complete"]), Revision: w.revision("complete")}
	}},
	"ComputationsService/GetManifest": {scope: tenant, inner: true, who: "vera", action: computations.ComputationShow, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.GetManifestRequest{ComputationId: string(w.things["frozen"])}
	}},
	"ComputationsService/Approve": {scope: tenant, inner: true, who: "rita", action: computations.ComputationApprove, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.ApproveRequest{ComputationId: string(w.things["frozen"]), PublicKey: w.approval.PublicKey.SPKI(), Signature: w.approval.Signature}
	}},
	"ComputationsService/DryRun": {scope: tenant, inner: true, who: "rune", action: computations.ComputationDryRun, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.DryRunRequest{ComputationId: string(w.things["ready"])}
	}},
	"ComputationsService/CopyComputation": {scope: tenant, inner: true, who: "vera", action: computations.ComputationCopy, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.CopyComputationRequest{ComputationId: string(w.things["frozen"])}
	}},
	"ComputationsService/ExportComputation": {scope: tenant, inner: true, who: "vera", action: computations.ComputationExport, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.ExportComputationRequest{ComputationId: string(w.things["frozen"])}
	}},
	"ComputationsService/ImportComputation": {scope: tenant, who: "nemo", action: computations.ComputationImport, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.ImportComputationRequest{WorkspaceId: string(w.things["workspace"]), Json: w.exported()}
	}},
	"ComputationsService/ArchiveComputation": {scope: tenant, inner: true, who: "carl", action: computations.ComputationArchive, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.ArchiveComputationRequest{ComputationId: string(w.things["draft"]), Archived: true}
	}},

	// Runs.
	"RunsService/StartRun": {scope: tenant, inner: true, who: "rune", action: computations.ComputationRun, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.StartRunRequest{ComputationId: string(w.things["ready"])}
	}},
	"RunsService/StopRun": {scope: tenant, inner: true, who: "rune", action: computations.RunStop, see: computations.RunShow, request: func(w *world) proto.Message {
		return &computationsv1.StopRunRequest{RunId: string(w.things["queued run"])}
	}},
	"RunsService/ListRuns": {scope: tenant, inner: true, who: "vera", action: computations.RunShow, see: computations.ComputationShow, request: func(w *world) proto.Message {
		return &computationsv1.ListRunsRequest{ComputationId: string(w.things["done"])}
	}},
	"RunsService/GetRun": {scope: tenant, inner: true, who: "vera", action: computations.RunShow, see: computations.RunShow, request: func(w *world) proto.Message {
		return &computationsv1.GetRunRequest{RunId: string(w.things["run"])}
	}},
	"RunsService/ListEntries": {scope: tenant, inner: true, who: "vera", action: computations.RunEntries, see: computations.RunShow, request: func(w *world) proto.Message {
		return &computationsv1.ListEntriesRequest{RunId: string(w.things["run"])}
	}},
	"RunsService/Watch": {scope: tenant, inner: true, who: "vera", action: computations.RunEntries, see: computations.RunShow, request: func(w *world) proto.Message {
		return &computationsv1.WatchRequest{RunId: string(w.things["run"])}
	}},
	"RunsService/SubmitReceipt": {scope: tenant, inner: true, who: "rita", action: computations.ReceiptSubmit, see: computations.RunShow, request: func(w *world) proto.Message {
		return &computationsv1.SubmitReceiptRequest{RunId: string(w.things["run"]), Receipt: w.receipt}
	}},
	"RunsService/GetReceipt": {scope: tenant, inner: true, who: "rita", action: computations.ReceiptShow, see: computations.RunShow, request: func(w *world) proto.Message {
		return &computationsv1.GetReceiptRequest{RunId: string(w.things["run"])}
	}},

	// Hosts.
	"HostsService/ListHosts": {scope: service, action: computations.HostList, who: "olga", request: func(*world) proto.Message { return &computationsv1.ListHostsRequest{} }},
	"HostsService/GetHost": {scope: service, action: computations.HostShow, who: "olga", request: func(w *world) proto.Message {
		return &computationsv1.GetHostRequest{HostId: string(w.things["host"])}
	}},
	"HostsService/CreateEnrolToken": {scope: service, action: computations.HostEnrol, who: "olga", request: func(*world) proto.Message {
		return &computationsv1.CreateEnrolTokenRequest{Name: "host-2", Ttl: durationpb.New(time.Hour)}
	}},
	"HostsService/ListEnrolTokens": {scope: service, action: computations.HostEnrol, who: "olga", request: func(*world) proto.Message { return &computationsv1.ListEnrolTokensRequest{} }},
	"HostsService/WithdrawEnrolToken": {scope: service, action: computations.HostWithdraw, who: "olga", request: func(w *world) proto.Message {
		return &computationsv1.WithdrawEnrolTokenRequest{TokenId: string(w.things["enrol token"])}
	}},
	"HostsService/CordonHost": {scope: service, action: computations.HostCordon, who: "olga", request: func(w *world) proto.Message {
		return &computationsv1.CordonHostRequest{HostId: string(w.things["host"]), Cordoned: true}
	}},
	"HostsService/DrainHost": {scope: service, action: computations.HostDrain, who: "olga", request: func(w *world) proto.Message {
		return &computationsv1.DrainHostRequest{HostId: string(w.things["host"]), Draining: true}
	}},
	"HostsService/RevokeHost": {scope: service, action: computations.HostRevoke, who: "olga", request: func(w *world) proto.Message {
		return &computationsv1.RevokeHostRequest{HostId: string(w.things["host"])}
	}},

	// Audit.
	"AuditService/ListAudit": {scope: tenant, who: "mona", action: computations.AuditRead, see: computations.WorkspaceShow, request: func(w *world) proto.Message {
		return &computationsv1.ListAuditRequest{WorkspaceId: string(w.things["workspace"]), ActorId: string(w.users["ada"]), ObjectId: string(w.things["draft"])}
	}},
}

// rightAnswer is what the right person gets where that isn't success: what the
// request lacks is asked after who it is from.
var rightAnswer = map[string]codes.Code{
	"AccountsService/SignIn":         codes.Unauthenticated,
	"AccountsService/ChangePassword": codes.FailedPrecondition, // the fixture's people have no passwords
}

// serviceAudit is one method more: without a workspace it is for operators.
var serviceAudit = method{scope: service, action: computations.AuditServiceRead, who: "olga", request: func(*world) proto.Message { return &computationsv1.ListAuditRequest{} }}

func make32(b byte) []byte {
	d := make([]byte, 32)
	d[0] = b
	return d
}

// draft names a thing of every kind.
func (w *world) draft() *computationsv1.Draft {
	return &computationsv1.Draft{
		Name: "fresh", Tee: "sim", AttestedTls: true,
		Algorithm:   &computationsv1.AlgorithmSlot{ProviderId: string(w.users["alan"]), AssetId: string(w.things["algorithm"])},
		Datasets:    []*computationsv1.DatasetSlot{{Name: "tides", ProviderId: string(w.users["dora"]), AssetId: string(w.things["dataset"])}},
		ConsumerIds: []string{string(w.users["rita"])},
		ApproverIds: []string{string(w.users["rita"])},
	}
}

func (w *world) revision(name string) int64 {
	var n int64
	w.check(w.db.View(w.t.Context(), func(r computations.Reader) error {
		c, err := r.Computation(w.things[name])
		n = c.Revision
		return err
	}))
	return n
}

func (w *world) exported() []byte {
	b, err := w.svc.ExportComputation(w.t.Context(), w.who["carl"], w.things["frozen"])
	w.check(err)
	return b
}

// registration of a new key of somebody's.
func (w *world) registration(name string) *computationsv1.RegisterKeyRequest {
	k, err := keys.Generate(keys.Ed25519)
	w.check(err)
	at := time.Now()
	sig, err := k.Sign(keys.RegistrationText(serviceName, name+"@example.org", k.Public(), at))
	w.check(err)
	return &computationsv1.RegisterKeyRequest{Name: "fresh", PublicKey: k.Public().SPKI(), At: timestamppb.New(at), Signature: sig}
}
