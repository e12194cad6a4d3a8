// Package computations is the Computation Management service without its faces:
// what it keeps, who may do what, and the use cases.
//
// Workspaces separate tenants: whoever is no member of a workspace learns
// nothing of it, not even whether it exists; a stranger's request is answered as
// one for what isn't there. Inside, one pure function, Allow, decides.
//
// The service is not trusted with what is computed on. It keeps public keys,
// digests, sizes, manifests, signatures and what runs tell; never a private key,
// a dataset, an algorithm or a result. What it shows is a convenience that a
// participant's own client checks.
//
// A manifest is frozen once and never changes. Each change of state is made in
// one transaction together with its entry in the audit log, which is a hash
// chain, and with the signals that tell waiting connections, of this process and
// of others on the same database, to look again.
//
// Package store keeps all this in SQL; packages below this one are its faces:
// userapi for people's programs, fleet for Managers. The console is beside it.
package computations

import (
	"time"

	"github.com/google/uuid"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// ID names a thing: a UUID as text. New ones are of version 7, so that they sort
// by the time at which they were made.
type ID string

// NewID makes one.
func NewID() ID { return ID(uuid.Must(uuid.NewV7()).String()) }

// Short is enough of an ID to tell it from its neighbours, as in names of files.
func (id ID) Short() string { return string(id[max(0, len(id)-8):]) }

// User is a person with an account.
type User struct {
	ID ID
	// Email is what the person signs in with, in lower case.
	Email string
	// EmailVerified: an operator or an OpenID Connect provider says that the
	// address is this person's. Without it the address proves nothing: whoever has
	// an invitation's link can make an account for the address in it.
	EmailVerified bool
	Name          string
	// PasswordHash is Argon2id in PHC's form; empty: no password is accepted.
	PasswordHash string
	// Issuer and Subject name the person at an OpenID Connect provider; both
	// empty: none.
	Issuer, Subject string
	// Operator may administer the service: hosts, users, settings.
	Operator bool
	Disabled bool
	Created  time.Time
}

// Workspace is a tenant.
type Workspace struct {
	ID      ID
	Name    string
	Created time.Time
	// KeepEntries is how long events and logs of ended runs are kept; zero: for
	// ever.
	KeepEntries time.Duration
}

// Member is a user's place in a workspace.
type Member struct {
	Workspace ID
	User      ID
	Role      Role
	Joined    time.Time
	// Email, Name and Disabled are the user's, for lists.
	Email, Name string
	Disabled    bool
}

// CredentialKind says what a Credential is good for.
type CredentialKind string

// The kinds of credential.
const (
	// Session is a browser's, or a CLI's that signed in with a password.
	Session CredentialKind = "session"
	// AccessToken is made by a user for a program.
	AccessToken CredentialKind = "token"
	// SignInLink is good once, for setting a password.
	SignInLink CredentialKind = "link"
)

// Credential lets its bearer act as a user. The secret itself isn't kept.
type Credential struct {
	ID   ID
	User ID
	Kind CredentialKind
	// Name is the user's own word for a token.
	Name string
	// Hash is SHA-256 of the secret.
	Hash [32]byte
	// Client is what the browser or program called itself.
	Client  string
	Created time.Time
	Expires time.Time
	Used    time.Time
}

// InvitationState is where an invitation stands. One that nobody answered in
// time is still Pending; see Invitation.Expires.
type InvitationState string

// The states of an invitation.
const (
	InvitationPending   InvitationState = "pending"
	InvitationAccepted  InvitationState = "accepted"
	InvitationDeclined  InvitationState = "declined"
	InvitationWithdrawn InvitationState = "withdrawn"
)

// Invitation asks a person into a workspace, and perhaps into a computation.
type Invitation struct {
	ID        ID
	Workspace ID
	// Email is whom it is for: only an account of that address can accept.
	Email string
	Role  Role
	// Computation and Parts are what the person is asked to be there; may be empty.
	Computation ID
	Parts       []Part
	State       InvitationState
	// Hash is SHA-256 of the link's secret; a new one each time it is sent again.
	Hash    [32]byte
	By      ID
	Created time.Time
	Sent    time.Time
	Expires time.Time
	// AnsweredBy is who accepted or declined; empty until then.
	AnsweredBy ID
}

// Key is a user's registered public key.
type Key struct {
	ID   ID
	User ID
	Name string
	// Public is unique among keys that are not revoked.
	Public  keys.Public
	Created time.Time
	// Revoked is zero for a key in use.
	Revoked time.Time
	// ReplacedBy is the key that was registered in its place; may be empty.
	ReplacedBy ID
	// Email is the user's, for lists.
	Email string
}

// AssetKind says what an asset is.
type AssetKind string

// The kinds of asset.
const (
	AssetAlgorithm AssetKind = "algorithm"
	AssetDataset   AssetKind = "dataset"
)

// Asset describes an algorithm or a dataset, which stays with its owner.
type Asset struct {
	ID          ID
	Workspace   ID
	Owner       ID
	Name        string
	Kind        AssetKind
	Description string
	// SHA256 or Commitment names what will be uploaded; the other is zero.
	SHA256     manifest.Digest
	Commitment manifest.Commitment
	// Size in bytes of what will be uploaded.
	Size int64
	// UnpackedMax as in manifest.Dataset, or of a container as in manifest.Image;
	// zero for a file.
	UnpackedMax int64
	// Type of an algorithm; empty for a dataset.
	Type manifest.AlgorithmType
	// ImageName and ImageConfig of a container as in manifest.Image.
	ImageName   string
	ImageConfig manifest.Digest
	// Files and Python of an algorithm, as in manifest.Algorithm.
	Files  []manifest.File
	Python manifest.Packages
	// Source of a dataset, as in manifest.Dataset. What is secret of it never comes
	// here.
	Source  manifest.Source
	Created time.Time
	// Retired is zero for an asset that can be used in drafts.
	Retired time.Time
	// Email is the owner's, for lists.
	Email string
}
