// Package rpcerr is how refusals travel, the agent's, the Manager's and the
// Computation Management service's: a gRPC status whose ErrorInfo holds a reason
// from a fixed list, the field that is wrong and what to do next. One request may
// have several faults; then a BadRequest has each of them.
//
// Programs branch on the reason, people read the message and the hint. Nothing
// in either may tell a stranger about the computation: whoever is not
// authenticated gets Unsigned or Signature and the same words for each cause.
package rpcerr

import (
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Reason says what is wrong.
type Reason string

// The reasons.
const (
	Unsigned        Reason = "CALL_UNSIGNED"          // no caller, role or signature
	Signature       Reason = "CALL_SIGNATURE"         // not by a participant over this connection
	RoleNotGranted  Reason = "ROLE_NOT_GRANTED"       // the manifest gives the key another role
	RoleNotAllowed  Reason = "ROLE_NOT_ALLOWED"       // the call is for another role
	NotProvider     Reason = "NOT_PROVIDER"           // the input is somebody else's
	InputUnknown    Reason = "INPUT_UNKNOWN"          // the manifest has no such input
	OffsetMismatch  Reason = "OFFSET_MISMATCH"        // bytes are held up to another offset
	UploadBusy      Reason = "UPLOAD_IN_PROGRESS"     // another upload of the input is under way
	MessageInvalid  Reason = "MESSAGE_INVALID"        // a message has no place here
	SizeExceeded    Reason = "SIZE_EXCEEDED"          // more bytes than the manifest says
	SizeShort       Reason = "SIZE_SHORT"             // fewer bytes than the manifest says
	DigestMismatch  Reason = "DIGEST_MISMATCH"        // not the bytes that the manifest names
	SaltInvalid     Reason = "SALT_INVALID"           // no salt where a commitment takes one, or one elsewhere
	SecretInvalid   Reason = "SECRET_INVALID"         // not what the dataset's source takes
	SourceFailed    Reason = "SOURCE_FAILED"          // a dataset can't be had from its source
	ArchiveRefused  Reason = "ARCHIVE_REFUSED"        // does not unpack safely within its bounds
	StorageFull     Reason = "STORAGE_FULL"           // no room in the agent
	StorageChanged  Reason = "STORAGE_CHANGED"        // the host's disk gave back other bytes
	StorageFailed   Reason = "STORAGE_FAILED"         // the host's disk can't take what is written
	WrongState      Reason = "WRONG_STATE"            // not now
	NoResult        Reason = "NO_RESULT"              // there is none yet, or there will be none
	ResultMismatch  Reason = "RESULT_DIGEST_MISMATCH" // the confirmed result is another one
	EvidenceCached  Reason = "EVIDENCE_CACHED"        // the connection's evidence is older than itself
	NoReceipt       Reason = "NO_RECEIPT"             // nothing vouches for this machine
	InternalFailure Reason = "INTERNAL"               // the agent failed; its log says why

	// Of the Manager's control API.
	ArgumentInvalid Reason = "ARGUMENT_INVALID" // the request is wrong; the same one never passes
	RunUnknown      Reason = "RUN_UNKNOWN"      // the Manager has no such run
	RunAmbiguous    Reason = "RUN_AMBIGUOUS"    // several runs begin so
	TooManyCalls    Reason = "TOO_MANY_CALLS"   // others have to end first

	// Of the Computation Management service, which also has ArgumentInvalid,
	// TooManyCalls and SizeExceeded.
	SignInRequired Reason = "UNAUTHENTICATED" // it isn't known who calls
	Denied         Reason = "DENIED"          // who calls may see the thing, and not do this
	NotFound       Reason = "NOT_FOUND"       // there is no such thing, or none that who calls may know of
	Conflict       Reason = "CONFLICT"        // not in a state for it, or changed meanwhile
	Limited        Reason = "LIMITED"         // too often, or too much
)

// Domain of every ErrorInfo.
const Domain = "cocos"

const (
	fieldKey = "field"
	hintKey  = "hint"
	// hintLocale is that of a fault's hint, which takes the place that a BadRequest
	// has for a text to people.
	hintLocale = "en"
)

// Detail is what an ErrorInfo carries.
type Detail struct {
	Reason Reason
	// Field of the request that is wrong, such as "input.name"; or empty.
	Field string
	// Hint says what to do next; or empty.
	Hint string
}

// Fault is one of several things that are wrong with a request.
type Fault struct {
	// Field as in Detail; or empty.
	Field   string
	Message string
	// Hint as in Detail; or empty.
	Hint string
}

// New makes a status error.
func New(code codes.Code, d Detail, format string, args ...any) error {
	return NewFaults(code, d, nil, format, args...)
}

// NewFaults is New for a request with several faults; d is of the first. The same
// arguments make the same bytes.
func NewFaults(code codes.Code, d Detail, faults []Fault, format string, args ...any) error {
	info := &errdetails.ErrorInfo{Reason: string(d.Reason), Domain: Domain, Metadata: map[string]string{}}
	if d.Field != "" {
		info.Metadata[fieldKey] = d.Field
	}
	if d.Hint != "" {
		info.Metadata[hintKey] = d.Hint
	}
	details := []proto.Message{info}
	if len(faults) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range faults {
			v := &errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Message}
			if f.Hint != "" {
				v.LocalizedMessage = &errdetails.LocalizedMessage{Locale: hintLocale, Message: f.Hint}
			}
			bad.FieldViolations = append(bad.FieldViolations, v)
		}
		details = append(details, bad)
	}
	st := &statuspb.Status{Code: int32(code), Message: strings.ToValidUTF8(fmt.Sprintf(format, args...), "\uFFFD")}
	for _, m := range details {
		packed := new(anypb.Any)
		if err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true}); err != nil {
			continue // a detail that is no text: the code and the message say enough
		}
		st.Details = append(st.Details, packed)
	}
	return status.FromProto(st).Err()
}

// DetailOf finds the detail in an error of a call; false if it has none.
func DetailOf(err error) (Detail, bool) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return Detail{
				Reason: Reason(info.GetReason()),
				Field:  info.GetMetadata()[fieldKey],
				Hint:   info.GetMetadata()[hintKey],
			}, true
		}
	}
	return Detail{}, false
}

// FaultsOf finds the faults in an error of a call; none if it has no list of them.
func FaultsOf(err error) []Fault {
	var faults []Fault
	for _, d := range status.Convert(err).Details() {
		bad, ok := d.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, v := range bad.GetFieldViolations() {
			faults = append(faults, Fault{Field: v.GetField(), Message: v.GetDescription(), Hint: v.GetLocalizedMessage().GetMessage()})
		}
	}
	return faults
}
