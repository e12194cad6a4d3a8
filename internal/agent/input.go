package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// Bounds of a folder's archive beside the manifest's unpacked_max.
const (
	maxEntries = 1 << 18
	maxDepth   = 64
)

// input is one input of the manifest and what has arrived of it.
type input struct {
	ref         inputRef
	content     manifest.Content
	size        int64
	unpackedMax int64

	// received is what a new upload would go on from, once busy is false.
	received atomic.Int64

	// Guarded by the agent's mutex.
	busy     bool
	complete bool

	// Of whoever made it busy: what has arrived, and its running digest.
	file *os.File
	hash hash.Hash
	salt manifest.Salt // of a content that is committed to
}

func newInputs(m *manifest.Manifest) []*input {
	inputs := []*input{{
		ref: inputRef{kind: algorithmInput}, content: m.Algorithm.Content(), size: m.Algorithm.Size,
	}}
	for _, f := range m.Algorithm.Files {
		inputs = append(inputs, &input{
			ref: inputRef{fileInput, f.Name}, content: f.Content(), size: f.Size, unpackedMax: f.UnpackedMax,
		})
	}
	for _, d := range m.Datasets {
		inputs = append(inputs, &input{
			ref: inputRef{datasetInput, d.Name}, content: d.Content(), size: d.Size, unpackedMax: d.UnpackedMax,
		})
	}
	return inputs
}

func (a *Agent) input(ref inputRef) *input {
	for _, in := range a.inputs {
		if in.ref == ref {
			return in
		}
	}
	return nil
}

// progress of an input.
type progress struct {
	ref      inputRef
	received int64
	size     int64
	complete bool
}

// progress needs the agent's mutex.
func (in *input) progress() progress {
	return progress{in.ref, in.received.Load(), in.size, in.complete}
}

// upload takes what comes on the stream as the input's bytes from offset on. It
// ends with the input complete and in its place, or with an error after which
// the input has either all that arrived (the stream broke) or nothing (it can't
// become what the manifest names).
func (a *Agent) upload(ref inputRef, begin *agentv1.UploadBegin, s bulk.Stream) (progress, error) {
	in, p, err := a.beginUpload(ref, begin)
	if err != nil || p.complete {
		return p, err
	}
	err = a.receive(in, s)
	if err == nil {
		err = a.place(in)
	}
	return a.endUpload(in, err)
}

// beginUpload makes the input busy, unless it is complete already.
func (a *Agent) beginUpload(ref inputRef, begin *agentv1.UploadBegin) (*input, progress, error) {
	offset := begin.GetOffset()
	a.mu.Lock()
	defer a.mu.Unlock()
	in := a.input(ref)
	if in == nil {
		return nil, progress{}, fmt.Errorf("the manifest has no %s", ref)
	}
	salt, err := saltOf(in, begin.GetSalt())
	if err != nil {
		return nil, progress{}, err
	}
	if in.busy {
		return nil, progress{}, rpcerr.New(codes.Aborted, rpcerr.Detail{
			Reason: rpcerr.UploadBusy, Field: "input", Hint: "wait for the other upload to end, then ask UploadStatus and go on from there",
		}, "another upload of the %s is under way", ref)
	}
	if held := in.received.Load(); offset != uint64(held) {
		return nil, progress{}, rpcerr.New(codes.FailedPrecondition, rpcerr.Detail{
			Reason: rpcerr.OffsetMismatch, Field: "begin.offset", Hint: "ask UploadStatus and go on from there",
		}, "the upload of the %s goes on at byte %d, not %d", ref, held, offset)
	}
	if in.complete {
		return in, in.progress(), nil
	}
	if a.state != AwaitingInputs {
		return nil, progress{}, rpcerr.New(codes.FailedPrecondition, rpcerr.Detail{
			Reason: rpcerr.WrongState, Hint: "create a new run",
		}, "inputs are not taken in state %s", a.state)
	}
	if in.file == nil {
		file, err := os.OpenFile(a.incoming(in), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, progress{}, a.internal("making a file for the "+ref.String(), err)
		}
		in.file, in.hash = file, sha256.New()
	}
	in.busy, in.salt = true, salt
	return in, in.progress(), nil
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

func (a *Agent) incoming(in *input) string {
	return filepath.Join(a.dirs.incoming(), string(in.ref.kind)+"."+in.ref.name)
}

// receive returns nil when all bytes are there and have the right digest.
func (a *Agent) receive(in *input, s bulk.Stream) error {
	start := in.received.Load()
	n, err := bulk.Receive(s, in.size-start, func(n int) { in.received.Add(int64(n)) }, in.file, in.hash)
	held := start + n
	in.received.Store(held)
	var sink *bulk.SinkError
	switch {
	case err == nil && held < in.size:
		return discarded{rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.SizeShort, Field: "chunk", Hint: "send what the manifest names, from the beginning",
		}, "the %s ended after %d bytes; the manifest says %d", in.ref, held, in.size)}
	case err == nil:
		if got := manifest.Digest(in.hash.Sum(nil)); !in.content.Is(got, in.salt) {
			detail := rpcerr.Detail{Reason: rpcerr.DigestMismatch, Field: "chunk", Hint: "send what the manifest names; sha256sum or cocos-cli checksum prints its digest"}
			if in.content.Committed() {
				detail.Hint = "send what the commitment was made of, with the very salt that it was made with"
			}
			return discarded{rpcerr.New(codes.InvalidArgument, detail, "the %s has the SHA-256 %s; the manifest says %s", in.ref, got, in.content)}
		}
		return nil
	case errors.As(err, &sink):
		if errors.Is(err, syscall.ENOSPC) {
			return discarded{rpcerr.New(codes.ResourceExhausted, rpcerr.Detail{
				Reason: rpcerr.StorageFull, Hint: "give the VM more memory",
			}, "the agent has no room for the %s", in.ref)}
		}
		return discarded{a.internal("storing the "+in.ref.String(), err)}
	case errors.Is(err, bulk.ErrTooLong):
		return discarded{rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.SizeExceeded, Field: "chunk", Hint: "send what the manifest names, from the beginning",
		}, "the %s has more than the %d bytes that the manifest says", in.ref, in.size)}
	case errors.Is(err, bulk.ErrNotChunk), status.Code(err) == codes.ResourceExhausted: // the latter is longer than gRPC takes
		return rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.MessageInvalid, Field: "chunk", Hint: "after begin, send chunks of at most 1 MiB and nothing else",
		}, "a message of the upload of the %s is not a chunk of at most %d bytes", in.ref, bulk.ChunkSize)
	case errors.Is(err, context.Canceled), status.Code(err) != codes.Unknown:
		return err // the stream broke; what came is kept
	}
	return status.Error(codes.Unavailable, "the upload's stream broke")
}

// discarded is an error after which nothing of the input is kept.
type discarded struct{ error }

func (d discarded) Unwrap() error { return d.error }

// place moves a verified input to where the algorithm finds it.
func (a *Agent) place(in *input) error {
	var err error
	target := filepath.Join(a.dirs.datasets(), in.ref.name)
	if in.ref.kind == fileInput {
		target = filepath.Join(a.dirs.files(), in.ref.name)
	}
	switch {
	case in.ref.kind == algorithmInput:
		if err := a.checkImage(in); err != nil {
			return err
		}
		err = moveReadOnly(in.file, a.dirs.program())
	case in.unpackedMax == 0:
		err = moveReadOnly(in.file, target)
	default:
		return a.unpack(in, target)
	}
	if err != nil {
		return discarded{a.internal("placing the "+in.ref.String(), err)}
	}
	return nil
}

// checkImage refuses a container whose archive has not the image that the manifest
// pins, while its provider is there to hear why. Layers are verified when it runs.
func (a *Agent) checkImage(in *input) error {
	algorithm := &a.cfg.Manifest.Algorithm
	if algorithm.Type != manifest.Container {
		return nil
	}
	if err := runtime.CheckImage(in.file.Name(), algorithm.Image); err != nil {
		return discarded{rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.ArchiveRefused, Field: "chunk",
			Hint: "cocos-cli container shows what the archive has; compare it with /algorithm/image in the manifest",
		}, "the archive of the %s was refused: %v", in.ref, err)}
	}
	return nil
}

func (a *Agent) unpack(in *input, target string) error {
	if _, err := in.file.Seek(0, 0); err != nil {
		return discarded{a.internal("reading the "+in.ref.String(), err)}
	}
	err := archive.Unpack(in.file, target, archive.Limits{
		Entries: maxEntries, Depth: maxDepth, FileBytes: in.unpackedMax, TotalBytes: in.unpackedMax,
	})
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return discarded{rpcerr.New(codes.ResourceExhausted, rpcerr.Detail{
			Reason: rpcerr.StorageFull, Hint: "give the VM more memory",
		}, "the agent has no room to unpack the %s", in.ref)}
	case err != nil:
		return discarded{rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.ArchiveRefused, Field: "chunk",
			Hint: "make the archive with cocos-cli, and check its unpacked_max in the manifest",
		}, "the archive of the %s was refused: %v", in.ref, err)}
	}
	return nil
}

func moveReadOnly(f *os.File, target string) error {
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	return os.Rename(f.Name(), target)
}

// endUpload makes the input free again, and complete if err is nil.
func (a *Agent) endUpload(in *input, err error) (progress, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	in.busy = false
	var gone discarded
	switch {
	case err == nil:
		in.complete = true
		a.cfg.Journal.Emit(vm.EventInput, fmt.Sprintf("received the %s", in.ref),
			map[string]string{"kind": string(in.ref.kind), "name": in.ref.name})
		a.drop(in)
		a.startIfComplete()
	case errors.As(err, &gone):
		err = gone.error
		// The message may tell of what was sent, which is not the host's to know.
		detail, _ := rpcerr.DetailOf(err)
		a.cfg.Log.Warn("refused an input; nothing of it is kept", "input", in.ref.String(), "reason", string(detail.Reason))
		a.drop(in)
		in.received.Store(0)
	default:
		a.cfg.Log.Info("an upload broke off; what came is kept", "input", in.ref.String(), "bytes", in.received.Load())
	}
	return in.progress(), err
}

// drop closes the input's file and removes it from incoming.
func (a *Agent) drop(in *input) {
	name := in.file.Name()
	if err := errors.Join(in.file.Close(), ignoreMissing(os.Remove(name))); err != nil {
		a.cfg.Log.Error("removing an input's file", "input", in.ref.String(), "error", err)
	}
	in.file, in.hash = nil, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
