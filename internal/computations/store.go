package computations

import (
	"context"
	"errors"
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

// ErrNoRow is a Store's answer for what isn't there.
var ErrNoRow = errors.New("no such row")

// ErrTaken is a Store's answer for what must be unique and is there already.
var ErrTaken = errors.New("taken already")

// Store keeps everything, in transactions. It is safe for concurrent use, also
// by several processes on one database where the database is a server.
type Store interface {
	// View runs f in a transaction that sees one state and changes nothing.
	View(ctx context.Context, f func(Reader) error) error
	// Update runs f in a transaction that is committed if f returns nil. Committed
	// transactions are as if one had run after the other (serializable): a rule that
	// f read before it wrote, such as that somebody else is administrator, holds.
	// Update may run f again when the database asks for it: f does nothing else.
	// Signals that f gave reach listeners after the commit.
	Update(ctx context.Context, f func(Writer) error) error
	// Listen returns a channel that gets a value after each signal on the topic, of
	// any process; several may become one. A listener looks first, listens before
	// that, and is told, too, whenever signals may have been lost.
	Listen(topic string) (signals <-chan struct{}, cancel func())
}

// Page asks for part of a list that is sorted newest first unless said otherwise.
type Page struct {
	// Before is the ID of the last one seen; empty: from the start.
	Before ID
	// Limit is at most MaxPage; zero means MaxPage.
	Limit int
}

// MaxPage bounds a page.
const MaxPage = 200

// ComputationFilter selects computations of a workspace.
type ComputationFilter struct {
	Workspace ID
	// User set: only those in which the user has a part.
	User ID
	// Text set: only those whose name has it, in any case of its letters.
	Text string
	// States set: only those whose newest run is in one of these; a Stage before
	// the first run is selected by its name.
	States   []string
	Archived bool
}

// AssetFilter selects assets of a workspace.
type AssetFilter struct {
	Workspace ID
	// Kind and Owner set: only those of this kind, or of this user.
	Kind  AssetKind
	Owner ID
	// Content set: only those of this content.
	Content manifest.Content
	// Retired: those that are, and not those in use.
	Retired bool
}

// EntryFilter selects entries of a run.
type EntryFilter struct {
	// After a position, oldest first; with Backward before it (zero: from the end),
	// newest first.
	After    int64
	Backward bool
	Limit    int
	// Bytes ends with the entry that reaches as many, by Entry.Size; zero: no bound.
	Bytes   int
	Types   []EntryType
	Sources []string
	// Levels of log lines; events count as "info".
	Levels   []string
	Kind     string
	Text     string
	From, To time.Time
}

// AuditFilter selects entries of the audit log, newest first.
type AuditFilter struct {
	// Workspace empty: the service as a whole.
	Workspace ID
	Actor     ID
	Action    string
	Object    ID
	From, To  time.Time
	// Before a sequence; zero: from the end.
	Before int64
	Limit  int
}

// RunFilter selects runs, newest first.
type RunFilter struct {
	Workspace   ID
	Computation ID
	Host        ID
	States      []RunState
	// User set: only of computations in which the user has a part.
	User ID
}

// Reader reads in a transaction. What is asked for by ID and isn't there is
// ErrNoRow.
type Reader interface {
	User(ID) (User, error)
	UserByEmail(email string) (User, error)
	UserBySubject(issuer, subject string) (User, error)
	Users(Page) ([]User, error)
	CountUsers() (int, error)
	Credential(hash [32]byte) (Credential, error)
	Credentials(user ID) ([]Credential, error)

	Workspace(ID) (Workspace, error)
	WorkspacesOf(user ID) ([]Workspace, error)
	// Forgetful are the workspaces whose KeepEntries isn't zero, for upkeep.
	Forgetful() ([]Workspace, error)
	Member(workspace, user ID) (Member, error)
	Members(workspace ID) ([]Member, error)
	Invitation(ID) (Invitation, error)
	InvitationByHash(hash [32]byte) (Invitation, error)
	// Invitations are a workspace's newest 1000.
	Invitations(workspace ID) ([]Invitation, error)
	// WaitingInvitations are those into a computation that nobody has answered,
	// expired ones too.
	WaitingInvitations(computation ID) ([]Invitation, error)
	// CountWaiting counts a workspace's that can still be answered.
	CountWaiting(workspace ID, now time.Time) (int, error)
	InvitationsFor(email string) ([]Invitation, error)

	Key(ID) (Key, error)
	// KeyByFingerprint finds a key in use.
	KeyByFingerprint(fingerprint string) (Key, error)
	KeysOf(user ID) ([]Key, error)
	Asset(ID) (Asset, error)
	Assets(AssetFilter, Page) ([]Asset, error)

	Computation(ID) (Computation, error)
	Computations(ComputationFilter, Page) ([]Computation, error)
	// CountComputations by stage or newest run's state.
	CountComputations(ComputationFilter) (map[string]int, error)
	Parts(computation, user ID) ([]Part, error)
	// AllParts is by user.
	AllParts(computation ID) (map[ID][]Part, error)
	Approvals(computation ID) ([]Approval, error)

	Run(ID) (Run, error)
	Runs(RunFilter, Page) ([]Run, error)
	// CountRuns counts the runs that are in one of these states.
	CountRuns(states ...RunState) (map[RunState]int, error)
	// CountActive counts a workspace's runs that haven't ended.
	CountActive(workspace ID) (int, error)
	Entries(run ID, f EntryFilter) ([]Entry, error)
	Receipt(run ID) (Receipt, error)

	Host(ID) (Host, error)
	HostBySerial(serial string) (Host, error)
	Hosts() ([]Host, error)
	EnrolToken(hash [32]byte) (EnrolToken, error)
	EnrolTokens() ([]EnrolToken, error)

	Audit(AuditFilter) ([]AuditEntry, error)
	// AuditChain is oldest first, after a sequence.
	AuditChain(after int64, limit int) ([]AuditEntry, error)
	// Setting is empty where nothing was set.
	Setting(name string) (string, error)
}

// Writer also writes. Put makes a row or replaces it whole by its key; a unique
// value that another row has is ErrTaken.
type Writer interface {
	Reader

	PutUser(User) error
	PutCredential(Credential) error
	TouchCredential(id ID, used time.Time) error
	// DeleteCredential of a user; of another it is ErrNoRow.
	DeleteCredential(user, id ID) error
	DeleteCredentials(user ID, kind CredentialKind) error
	// ExpireCredentials deletes those that expired before now, and sessions last
	// used before idle; it returns how many, at most limit.
	ExpireCredentials(now, idle time.Time, limit int) (int, error)

	PutWorkspace(Workspace) error
	PutMember(Member) error
	DeleteMember(workspace, user ID) error
	PutInvitation(Invitation) error

	PutKey(Key) error
	PutAsset(Asset) error

	// PutComputation refuses with ErrTaken to change a manifest that is frozen.
	PutComputation(Computation) error
	SetParts(computation, user ID, parts []Part) error
	// DropParts takes a user's parts in all computations of a workspace.
	DropParts(workspace, user ID) error
	PutApproval(Approval) error

	PutRun(Run) error
	// LockRun is Run, and keeps others from changing the row until the end.
	LockRun(ID) (Run, error)
	// LockQueue keeps other schedulers out until the end of the transaction, and
	// returns what waits for a host, oldest first.
	LockQueue(limit int) ([]Run, error)
	// Append gives entries their positions, drops those whose event is there
	// already, and returns what it kept. Entries of several runs may be mixed.
	Append([]Entry) ([]Entry, error)
	// Expire deletes entries of runs that ended before a time, of one workspace;
	// it returns how many, at most limit.
	Expire(workspace ID, before time.Time, limit int) (int, error)
	PutReceipt(Receipt) error

	PutHost(Host) error
	PutEnrolToken(EnrolToken) error

	// AppendAudit completes the entry: sequence, previous hash, and its Sum as hash.
	AppendAudit(AuditEntry) error
	PutSetting(name, value string) error
	// Signal wakes listeners of a topic after the commit.
	Signal(topic string)
}

// Topics of signals.
const (
	// TopicQueue: something may be scheduled.
	TopicQueue = "queue"
)

// RunTopic is signalled when a run or its entries change.
func RunTopic(run ID) string { return "run:" + string(run) }

// HostTopic is signalled when there is something to tell a host.
func HostTopic(host ID) string { return "host:" + string(host) }

// WorkspaceTopic is signalled when a list of the workspace changes.
func WorkspaceTopic(workspace ID) string { return "workspace:" + string(workspace) }
