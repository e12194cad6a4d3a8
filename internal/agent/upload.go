package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/manifest"
)

// upload takes what comes on the stream as the input's bytes from offset on. It
// ends with the input complete and in its place, or with an error after which
// the input has either all that arrived (the stream broke) or nothing (it can't
// become what the manifest names).
func (a *Agent) upload(ref inputRef, begin *agentv1.UploadBegin, s bulk.Stream) (progress, error) {
	in, p, err := a.beginUpload(ref, begin)
	if err != nil || p.complete {
		return p, err
	}
	return a.take(in, func(limit int64, taken func(int), sinks ...io.Writer) (int64, error) {
		n, err := bulk.Receive(s, limit, taken, sinks...)
		return n, streamError(in.ref, err)
	})
}

// beginUpload makes the input busy, unless it is complete already; an error leaves
// it as it was.
func (a *Agent) beginUpload(ref inputRef, begin *agentv1.UploadBegin) (*input, progress, error) {
	offset := begin.GetOffset()
	in := a.input(ref)
	if in == nil {
		return nil, progress{}, fmt.Errorf("the manifest has no %s", ref)
	}
	if err := a.makeWay(in); err != nil {
		return nil, progress{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	salt, err := saltOf(in, begin.GetSalt())
	if err != nil {
		return nil, progress{}, err
	}
	switch {
	case in.pull.active && !in.complete:
		return nil, progress{}, pulling(in)
	case in.busy:
		return nil, progress{}, busy(ref)
	}
	if held := in.received.Load(); offset != uint64(held) {
		return nil, progress{}, rpcerr.New(codes.FailedPrecondition, rpcerr.Detail{
			Reason: rpcerr.OffsetMismatch, Field: "begin.offset", Hint: "ask UploadStatus and go on from there",
		}, "the upload of the %s goes on at byte %d, not %d", ref, held, offset)
	}
	if in.complete {
		return in, in.progress(), nil
	}
	return in, in.progress(), a.occupy(in, salt)
}

func busy(ref inputRef) error {
	return rpcerr.New(codes.Aborted, rpcerr.Detail{
		Reason: rpcerr.UploadBusy, Field: "input", Hint: "wait for the other upload to end, then ask UploadStatus and go on from there",
	}, "another upload of the %s is under way", ref)
}

// saltOf takes a salt where the manifest has a commitment, and nowhere else.
func saltOf(in *input, b []byte) (salt manifest.Salt, err error) {
	detail := rpcerr.Detail{Reason: rpcerr.SaltInvalid, Field: "begin.salt", Hint: "give the salt that the commitment was made with, of cocos-cli checksum --commit"}
	switch want := len(salt); {
	case !in.content.Committed() && len(b) > 0:
		detail.Hint = "leave the salt out"
		return salt, rpcerr.New(codes.InvalidArgument, detail, "the manifest names the %s by its digest: there is no salt", in.ref)
	case !in.content.Committed():
		return salt, nil
	case len(b) != want:
		return salt, rpcerr.New(codes.InvalidArgument, detail, "the manifest names the %s by a commitment; its salt has %d bytes, and %d came", in.ref, want, len(b))
	}
	return manifest.Salt(b), nil
}

// streamError says how the stream of an upload ended, as its provider may hear it.
// What the sinks said, and that too much came, is left to whoever asked for it.
func streamError(ref inputRef, err error) error {
	var sink *bulk.SinkError
	switch {
	case err == nil, errors.As(err, &sink), errors.Is(err, bulk.ErrTooLong):
		return err
	case errors.Is(err, bulk.ErrNotChunk), status.Code(err) == codes.ResourceExhausted: // the latter is longer than gRPC takes
		return rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.MessageInvalid, Field: "chunk", Hint: "after begin, send chunks of at most 1 MiB and nothing else",
		}, "a message of the upload of the %s is not a chunk of at most %d bytes", ref, bulk.ChunkSize)
	case errors.Is(err, context.Canceled), status.Code(err) != codes.Unknown:
		return err // the stream broke; what came is kept
	}
	return status.Error(codes.Unavailable, "the upload's stream broke")
}
