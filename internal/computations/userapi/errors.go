package userapi

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// kinds are the codes and reasons of refusals.
var kinds = map[computations.Kind]struct {
	code   codes.Code
	reason rpcerr.Reason
}{
	computations.Unauthenticated: {codes.Unauthenticated, rpcerr.SignInRequired},
	computations.Denied:          {codes.PermissionDenied, rpcerr.Denied},
	computations.NotFound:        {codes.NotFound, rpcerr.NotFound},
	computations.Invalid:         {codes.InvalidArgument, rpcerr.ArgumentInvalid},
	computations.Conflict:        {codes.FailedPrecondition, rpcerr.Conflict},
	computations.Limited:         {codes.ResourceExhausted, rpcerr.Limited},
}

// errSignIn is the one answer to no credential and to one that doesn't hold,
// whatever the cause.
var errSignIn = &computations.Error{Kind: computations.Unauthenticated, Message: "you are not signed in, or not any more",
	Hint: "sign in: cocos-cli login URL"}

// errDraining and errSlow send a watcher away.
var (
	errDraining = status.Error(codes.Unavailable, "the service is going down")
	errSlow     = status.Error(codes.Aborted, "what was sent was not read in time; watch again from the last position")
)

func errBusy(most int) error {
	return rpcerr.New(codes.ResourceExhausted, rpcerr.Detail{Reason: rpcerr.TooManyCalls, Hint: "let some of them end first"},
		"%d calls of yours are under way", most)
}

func tooLarge(n, most int) error {
	return rpcerr.New(codes.InvalidArgument, rpcerr.Detail{Reason: rpcerr.SizeExceeded}, "the request has %d bytes; at most %d are taken", n, most)
}

func invalid(field, format string, args ...any) error {
	return &computations.Error{Kind: computations.Invalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// unauthenticated makes all refusals of a credential one.
func unauthenticated(err error) error {
	var refused *computations.Error
	if errors.As(err, &refused) {
		return errSignIn
	}
	return err
}

// status is err as it travels. What is no refusal goes into the log, and travels
// without its text.
func (a *API) status(method string, err error) error {
	var (
		several computations.Errors
		one     *computations.Error
		said    interface{ GRPCStatus() *status.Status }
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &several) && len(several) > 0:
		return refusal(several[0], several)
	case errors.As(err, &one):
		return refusal(one, nil)
	case errors.As(err, &said):
		return said.GRPCStatus().Err()
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the call took too long")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller has left")
	}
	a.c.Log.Error("a call failed", "method", method, "error", err)
	return rpcerr.New(codes.Internal, rpcerr.Detail{Reason: rpcerr.InternalFailure, Hint: "try again; if it stays so, the service's log says why"},
		"the service failed")
}

func refusal(first *computations.Error, all computations.Errors) error {
	k, known := kinds[first.Kind]
	if !known {
		k.code, k.reason = codes.Unknown, rpcerr.InternalFailure
	}
	d := rpcerr.Detail{Reason: k.reason, Field: first.Field, Hint: first.Hint}
	if len(all) < 2 {
		return rpcerr.New(k.code, d, "%s", first.Message)
	}
	faults := make([]rpcerr.Fault, len(all))
	for i, e := range all {
		faults[i] = rpcerr.Fault{Field: e.Field, Message: e.Message, Hint: e.Hint}
	}
	return rpcerr.NewFaults(k.code, d, faults, "%s, and %d more", first.Message, len(all)-1)
}

// checkText refuses the one character that a text can have and a database can't
// keep.
func checkText(m protoreflect.Message) (err error) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		check := func(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
			switch fd.Kind() {
			case protoreflect.StringKind:
				if err == nil && strings.ContainsRune(v.String(), 0) {
					err = invalid(string(fd.Name()), "has a NUL character")
				}
			case protoreflect.MessageKind:
				if err == nil {
					err = checkText(v.Message())
				}
			}
		}
		switch {
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
				check(fd.MapKey(), k.Value())
				check(fd.MapValue(), e)
				return err == nil
			})
		case fd.IsList():
			for i := range v.List().Len() {
				check(fd, v.List().Get(i))
			}
		default:
			check(fd, v)
		}
		return err == nil
	})
	return err
}
