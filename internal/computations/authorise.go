package computations

import "slices"

// Action is something that a user asks for, in the words of the audit log.
type Action string

// The actions, by what they are done to.
const (
	// The service.
	ServiceSettings  Action = "service.settings"
	UserList         Action = "user.list"
	UserCreate       Action = "user.create"
	UserDisable      Action = "user.disable"
	UserReset        Action = "user.reset-password"
	AuditServiceRead Action = "audit.service.read"
	HostList         Action = "host.list"
	HostShow         Action = "host.show"
	HostEnrol        Action = "host.enrol"
	HostWithdraw     Action = "host.withdraw-token"
	HostCordon       Action = "host.cordon"
	HostDrain        Action = "host.drain"
	HostRevoke       Action = "host.revoke"
	WorkspaceCreate  Action = "workspace.create"
	// A workspace.
	WorkspaceShow      Action = "workspace.show"
	WorkspaceRename    Action = "workspace.rename"
	WorkspaceRetain    Action = "workspace.retention"
	MemberList         Action = "member.list"
	MemberRole         Action = "member.role"
	MemberRemove       Action = "member.remove"
	InvitationList     Action = "invitation.list"
	InvitationCreate   Action = "invitation.create"
	InvitationResend   Action = "invitation.resend"
	InvitationWithdraw Action = "invitation.withdraw"
	AuditRead          Action = "audit.read"
	AssetList          Action = "asset.list"
	AssetCreate        Action = "asset.create"
	ComputationList    Action = "computation.list"
	ComputationCreate  Action = "computation.create"
	ComputationImport  Action = "computation.import"
	// An asset.
	AssetShow   Action = "asset.show"
	AssetEdit   Action = "asset.edit"
	AssetRetire Action = "asset.retire"
	// A computation.
	ComputationShow    Action = "computation.show"
	ComputationEdit    Action = "computation.edit"
	ComputationInvite  Action = "computation.invite"
	ComputationParts   Action = "computation.parts"
	ComputationSupply  Action = "computation.supply" // name one's own key or asset
	ComputationFreeze  Action = "computation.freeze"
	ComputationApprove Action = "computation.approve"
	ComputationDryRun  Action = "computation.dry-run"
	ComputationRun     Action = "computation.run"
	ComputationCopy    Action = "computation.copy"
	ComputationExport  Action = "computation.export"
	ComputationArchive Action = "computation.archive"
	RunShow            Action = "run.show"
	RunStop            Action = "run.stop"
	RunEntries         Action = "run.entries"
	ReceiptSubmit      Action = "receipt.submit"
	ReceiptShow        Action = "receipt.show"
)

// Standing is all that counts of a user for an action on one thing.
type Standing struct {
	// Operator of the service; it gives no rights in workspaces.
	Operator bool
	// Role in the thing's workspace; empty: no member.
	Role Role
	// Parts in the computation; empty where there is none.
	Parts []Part
	// Owner: the asset is the user's own, or the invitation was sent by the user.
	Owner bool
}

// need is what an action asks for: any of it is enough.
type need struct {
	operator bool
	anyUser  bool
	roles    []Role
	parts    []Part
	owner    bool
}

var (
	allRoles  = Roles()
	overseers = []Role{RoleAdministrator, RoleManager}
	admins    = []Role{RoleAdministrator}
	allParts  = Parts()
	editors   = []Part{PartCreator, PartEditor}
	runners   = []Part{PartCreator, PartRunner}
	providers = []Part{PartDataset, PartAlgorithm, PartConsumer}
)

// needs is the whole of authorisation. An action that isn't here is refused.
var needs = map[Action]need{
	ServiceSettings:  {operator: true},
	UserList:         {operator: true},
	UserCreate:       {operator: true},
	UserDisable:      {operator: true},
	UserReset:        {operator: true},
	AuditServiceRead: {operator: true},
	HostList:         {operator: true},
	HostShow:         {operator: true},
	HostEnrol:        {operator: true},
	HostWithdraw:     {operator: true},
	HostCordon:       {operator: true},
	HostDrain:        {operator: true},
	HostRevoke:       {operator: true},
	WorkspaceCreate:  {anyUser: true},

	WorkspaceShow:      {roles: allRoles},
	WorkspaceRename:    {roles: admins},
	WorkspaceRetain:    {roles: admins},
	MemberList:         {roles: allRoles},
	MemberRole:         {roles: admins},
	MemberRemove:       {roles: admins},
	InvitationList:     {roles: overseers, owner: true},
	InvitationCreate:   {roles: overseers},
	InvitationResend:   {roles: overseers, owner: true},
	InvitationWithdraw: {roles: overseers, owner: true},
	AuditRead:          {roles: overseers},
	AssetList:          {roles: allRoles},
	AssetCreate:        {roles: allRoles},
	ComputationList:    {roles: allRoles},
	ComputationCreate:  {roles: allRoles},
	ComputationImport:  {roles: allRoles},

	AssetShow:   {roles: allRoles},
	AssetEdit:   {owner: true},
	AssetRetire: {owner: true, roles: admins},

	ComputationShow:    {roles: overseers, parts: allParts},
	ComputationEdit:    {parts: editors},
	ComputationInvite:  {parts: editors},
	ComputationParts:   {parts: editors},
	ComputationSupply:  {parts: providers},
	ComputationFreeze:  {parts: editors},
	ComputationApprove: {parts: providers},
	ComputationDryRun:  {parts: append(slices.Clone(editors), PartRunner)},
	ComputationRun:     {parts: runners},
	ComputationCopy:    {roles: overseers, parts: allParts},
	ComputationExport:  {roles: overseers, parts: allParts},
	ComputationArchive: {roles: admins, parts: []Part{PartCreator}},
	RunShow:            {roles: overseers, parts: allParts},
	RunStop:            {roles: overseers, parts: runners},
	RunEntries:         {roles: overseers, parts: allParts},
	ReceiptSubmit:      {parts: []Part{PartConsumer}},
	ReceiptShow:        {parts: []Part{PartConsumer}},
}

// Allow tells whether a user with this standing may do it.
func Allow(s Standing, a Action) bool {
	n, known := needs[a]
	if !known {
		return false
	}
	if n.anyUser || n.operator && s.Operator {
		return true
	}
	if !slices.Contains(allRoles, s.Role) {
		return false // parts and ownership end with the membership
	}
	return slices.Contains(n.roles, s.Role) || n.owner && s.Owner ||
		slices.ContainsFunc(n.parts, func(p Part) bool { return slices.Contains(s.Parts, p) })
}

// Actions lists every action, for tests and for the page on roles.
func Actions() []Action {
	all := make([]Action, 0, len(needs))
	for a := range needs {
		all = append(all, a)
	}
	slices.Sort(all)
	return all
}
