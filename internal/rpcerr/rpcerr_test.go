package rpcerr_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

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

func TestFaultsSurviveTheStatus(t *testing.T) {
	want := []rpcerr.Fault{{Field: "name", Message: "is empty", Hint: "give it one"}, {Message: "is too long"}}
	refuse := func() error {
		return rpcerr.NewFaults(codes.InvalidArgument, rpcerr.Detail{Reason: rpcerr.ArgumentInvalid, Field: "name", Hint: "give it one"}, want, "2 faults\xff")
	}
	first, err := proto.Marshal(status.Convert(refuse()).Proto())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, err := proto.Marshal(status.Convert(refuse()).Proto()); err != nil || !bytes.Equal(first, again) {
			t.Fatalf("the same refusal has other bytes: %q %q %v", first, again, err)
		}
	}
	got := status.FromProto(status.Convert(refuse()).Proto()).Err()
	if !slices.Equal(rpcerr.FaultsOf(got), want) {
		t.Errorf("got %+v, want %+v", rpcerr.FaultsOf(got), want)
	}
	if d, ok := rpcerr.DetailOf(got); !ok || d.Field != "name" || status.Convert(got).Message() != "2 faults\uFFFD" {
		t.Errorf("%v %+v", got, d)
	}
	if faults := rpcerr.FaultsOf(rpcerr.New(codes.NotFound, rpcerr.Detail{Reason: rpcerr.NotFound}, "x")); faults != nil {
		t.Errorf("faults of one without a list: %+v", faults)
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
