package rpcerr_test

import (
	"errors"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

func TestDetailSurvivesTheStatus(t *testing.T) {
	for _, want := range []rpcerr.Detail{
		{Reason: rpcerr.SizeShort, Field: "chunk", Hint: "send more"},
		{Reason: rpcerr.NoResult},
	} {
		err := rpcerr.New(codes.NotFound, want, "no %s", "thing")
		// As a client gets it: the status and nothing of the Go error.
		err = status.FromProto(status.Convert(err).Proto()).Err()
		got, ok := rpcerr.DetailOf(err)
		if !ok || got != want || status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no thing" {
			t.Errorf("got %v %+v, want %+v", err, got, want)
		}
	}
}

func TestNoDetail(t *testing.T) {
	other, err := status.New(codes.Internal, "x").WithDetails(&errdetails.ErrorInfo{Reason: "CALL_SIGNATURE", Domain: "example.org"})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"nil": nil, "plain": errors.New("x"), "bare status": status.Error(codes.NotFound, "x"), "another domain": other.Err(),
	} {
		if d, ok := rpcerr.DetailOf(err); ok {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
