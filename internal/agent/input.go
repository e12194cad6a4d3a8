package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc/codes"

	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
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
	sink sink
	hash hash.Hash
	salt manifest.Salt // of a content that is committed to

	pull pull
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
			pull: pull{source: d.Source},
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
	pulling  bool
	problem  string
}

// progress needs the agent's mutex.
func (in *input) progress() progress {
	p := progress{in.ref, in.received.Load(), in.size, in.complete, in.pull.active, in.pull.problem}
	if in.complete { // though what pulled it may not have ended yet
		p.pulling, p.problem = false, ""
	}
	return p
}

// carrier brings an input's bytes: it hands them to each sink in order, at most
// limit of them, and tells taken how many the first has. It returns how many all
// of them have, and nil only if the one who sends them says that this was all. A
// sink's error is a *bulk.SinkError, more bytes than limit are bulk.ErrTooLong;
// after any other error what came is kept, and it is the caller's to read.
type carrier func(limit int64, taken func(n int), sinks ...io.Writer) (int64, error)

// occupy makes an input busy, with a sink for what comes. a.mu is held.
func (a *Agent) occupy(in *input, salt manifest.Salt) error {
	if a.state != AwaitingInputs {
		return wrongState(a.state)
	}
	if in.busy || in.complete {
		return busy(in.ref)
	}
	if in.sink == nil {
		sink, err := a.newSink(in)
		if err != nil {
			return discardedCause(a.notStored(in, "making room for", err))
		}
		in.sink, in.hash = sink, sha256.New()
	}
	in.busy, in.salt = true, salt
	return nil
}

func wrongState(s State) error {
	return rpcerr.New(codes.FailedPrecondition, rpcerr.Detail{
		Reason: rpcerr.WrongState, Hint: "create a new run",
	}, "inputs are not taken in state %s", s)
}

// take takes what is brought as the bytes of a busy input from those on that are
// there, and makes it free again. It ends with the input complete and in its
// place, or with an error after which the input has either all that arrived or
// nothing (it can't become what the manifest names).
func (a *Agent) take(in *input, bring carrier) (progress, error) {
	err := a.fill(in, bring)
	if err == nil {
		err = a.place(in)
	}
	return a.release(in, err)
}

// fill returns nil when all bytes are there and have the right digest.
func (a *Agent) fill(in *input, bring carrier) error {
	start := in.received.Load()
	n, err := bring(in.size-start, func(n int) { in.received.Add(int64(n)) }, in.sink, in.hash)
	held := start + n
	in.received.Store(held)
	var sink *bulk.SinkError
	switch {
	case err == nil && held < in.size:
		return discarded{rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.SizeShort, Field: "chunk", Hint: "send what the manifest names, from the beginning",
		}, "the %s ended after %d bytes; the manifest says %d", in.ref, held, in.size)}
	case err == nil:
		return in.checkDigest()
	case errors.As(err, &sink):
		return a.notStored(in, "storing", sink.Err)
	case errors.Is(err, bulk.ErrTooLong):
		return discarded{rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.SizeExceeded, Field: "chunk", Hint: "send what the manifest names, from the beginning",
		}, "the %s has more than the %d bytes that the manifest says", in.ref, in.size)}
	}
	return err
}

func (in *input) checkDigest() error {
	got := manifest.Digest(in.hash.Sum(nil))
	if in.content.Is(got, in.salt) {
		return nil
	}
	detail := rpcerr.Detail{Reason: rpcerr.DigestMismatch, Field: "chunk", Hint: "send what the manifest names; sha256sum or cocos-cli checksum prints its digest"}
	if in.content.Committed() {
		detail.Hint = "send what the commitment was made of, with the very salt that it was made with"
	}
	return discarded{rpcerr.New(codes.InvalidArgument, detail, "the %s has the SHA-256 %s; the manifest says %s", in.ref, got, in.content)}
}

// discardedCause is the error of an input of which nothing had come.
func discardedCause(err error) error {
	var gone discarded
	if errors.As(err, &gone) {
		return gone.error
	}
	return err
}

// place moves a verified input to where the algorithm finds it.
func (a *Agent) place(in *input) error {
	err := in.sink.place()
	if err == nil {
		return nil
	}
	var bad *contentError
	if errors.As(err, &bad) {
		return discarded{rpcerr.New(codes.InvalidArgument, rpcerr.Detail{
			Reason: rpcerr.ArchiveRefused, Field: "chunk", Hint: bad.hint,
		}, "the archive of the %s was refused: %v", in.ref, bad.err)}
	}
	return a.notStored(in, "placing", err)
}

// notStored says of an error of a sink what its provider may hear.
func (a *Agent) notStored(in *input, doing string, err error) error {
	switch {
	case errors.Is(err, errChanged):
		a.cfg.Log.Error("the scratch disk gave back other bytes than were written to it", "input", in.ref.String())
		return discarded{rpcerr.New(codes.DataLoss, rpcerr.Detail{
			Reason: rpcerr.StorageChanged, Hint: "create a new run, on a host that leaves the VM's disk alone",
		}, "storing the %s: %v", in.ref, errChanged)}
	case errors.Is(err, syscall.EIO) && a.onDisk(in): // a disk that is full for the host, too
		a.cfg.Log.Error("the scratch disk can't take what is written to it", "input", in.ref.String())
		return discarded{rpcerr.New(codes.Internal, rpcerr.Detail{
			Reason: rpcerr.StorageFailed, Hint: "try again; if it stays so, ask the host's operator whether a disk there is full or broken",
		}, "the VM's scratch disk can't take the %s", in.ref)}
	case errors.Is(err, syscall.ENOSPC):
		hint := "give the VM more memory, or the manifest a scratch disk (/scratch_bytes)"
		if a.onDisk(in) {
			hint = "raise /scratch_bytes in the manifest; a file takes whole blocks of 4096 bytes there"
		}
		return discarded{rpcerr.New(codes.ResourceExhausted, rpcerr.Detail{
			Reason: rpcerr.StorageFull, Hint: hint,
		}, "the agent has no room for the %s", in.ref)}
	}
	return discarded{a.internal(doing+" the "+in.ref.String(), err)}
}

// discarded is an error after which nothing of the input is kept.
type discarded struct{ error }

func (d discarded) Unwrap() error { return d.error }

// release makes a busy input free again, and complete if err is nil.
func (a *Agent) release(in *input, err error) (progress, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	in.busy = false
	var gone discarded
	switch {
	case err == nil:
		in.complete, in.pull.problem = true, ""
		a.cfg.Journal.Emit(vm.EventInput, fmt.Sprintf("received the %s", in.ref),
			map[string]string{"kind": string(in.ref.kind), "name": in.ref.name})
		a.drop(in)
		a.startIfComplete()
	case errors.As(err, &gone):
		err = gone.error
		// The message may tell of what was sent, which is not the host's to know.
		detail, _ := rpcerr.DetailOf(err)
		if !in.pull.active { // of what it pulls the host reads no more than that it is there
			a.cfg.Log.Warn("refused an input; nothing of it is kept", "input", in.ref.String(), "reason", string(detail.Reason))
		}
		a.drop(in)
		in.received.Store(0)
	default:
		a.cfg.Log.Info("an upload broke off; what came is kept", "input", in.ref.String(), "bytes", in.received.Load())
	}
	return in.progress(), err
}

// drop lets go of what has arrived of an input, unless it is in its place.
func (a *Agent) drop(in *input) {
	if err := in.sink.release(); err != nil {
		a.cfg.Log.Error("letting go of what came of an input", "input", in.ref.String(), "error", err)
	}
	in.sink, in.hash = nil, nil
}
