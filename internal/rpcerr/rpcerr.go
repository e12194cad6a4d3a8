// Package rpcerr is how refusals travel, the agent's and the Manager's: a gRPC status whose
// ErrorInfo holds a reason from a fixed list, the field that is wrong and what
// to do next.
//
// Programs branch on the reason, people read the message and the hint. Nothing
// in either may tell a stranger about the computation: whoever is not
// authenticated gets Unsigned or Signature and the same words for each cause.
package rpcerr

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
	ArchiveRefused  Reason = "ARCHIVE_REFUSED"        // does not unpack safely within its bounds
	StorageFull     Reason = "STORAGE_FULL"           // no room in the agent
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
)

// Domain of every ErrorInfo.
const Domain = "cocos"

const (
	fieldKey = "field"
	hintKey  = "hint"
)

// Detail is what an ErrorInfo carries.
type Detail struct {
	Reason Reason
	// Field of the request that is wrong, such as "input.name"; or empty.
	Field string
	// Hint says what to do next; or empty.
	Hint string
}

// New makes a status error.
func New(code codes.Code, d Detail, format string, args ...any) error {
	st := status.New(code, fmt.Sprintf(format, args...))
	info := &errdetails.ErrorInfo{Reason: string(d.Reason), Domain: Domain, Metadata: map[string]string{}}
	if d.Field != "" {
		info.Metadata[fieldKey] = d.Field
	}
	if d.Hint != "" {
		info.Metadata[hintKey] = d.Hint
	}
	with, err := st.WithDetails(info)
	if err != nil {
		return st.Err() // code OK, a programming error: still not a success for the caller
	}
	return with.Err()
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
