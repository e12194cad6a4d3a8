package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/manifest"
)

// upload is one input on its way to the agent.
type upload struct {
	in   input
	ref  *agentv1.InputRef
	name string // for people
	peer *peer
	show *progress
	try  retry
}

// uploaded is what a script learns.
type uploaded struct {
	Input   string          `json:"input"`
	Path    string          `json:"path"`
	Size    int64           `json:"size"`
	SHA256  manifest.Digest `json:"sha256,omitzero"`
	Resumed int64           `json:"resumed_from"`
	// Already: the agent had it all before.
	Already bool `json:"already_there"`
}

// upload sends in as what ref names, from where the agent has it, until the
// agent has verified all of it.
func (a *app) upload(ctx context.Context, p *peer, in input, ref *agentv1.InputRef) (uploaded, error) {
	return a.uploadIn(ctx, p, in, ref, nil)
}

// uploadIn is upload as one of several, or with nil alone.
func (a *app) uploadIn(ctx context.Context, p *peer, in input, ref *agentv1.InputRef, all *together) (uploaded, error) {
	u := &upload{in: in, ref: ref, name: "algorithm", peer: p, try: retry{sleep: a.sleep, resume: goesOn}}
	if ref.GetKind() != agentv1.InputKind_INPUT_KIND_ALGORITHM {
		u.name = kindOfInput(ref) + " " + ref.GetName()
	}
	done := uploaded{Input: u.name, Path: in.path, SHA256: in.digest}
	u.show = a.out.progress(u.name, in.size)
	all.join(u.show)
	defer u.show.stop()
	for first := true; ; first = false {
		err := u.attempt(ctx, &done, first)
		if err == nil {
			return done, nil
		}
		var p *problem
		if errors.As(err, &p) {
			return done, err // found on this side
		}
		if err := u.try.next(ctx, u.peer, u.show, "uploading the "+u.name, err); err != nil {
			return done, err
		}
	}
}

// attempt asks how far the agent is and sends the rest. Its errors are those of
// the calls, or problems.
func (u *upload) attempt(ctx context.Context, done *uploaded, first bool) error {
	st, err := u.status(ctx)
	if err != nil {
		return err
	}
	held, want := int64(st.GetReceived()), int64(st.GetSize())
	u.try.progress(held)
	if err := u.compare(held, want); err != nil {
		return err
	}
	u.show.expect(want)
	done.Size = want
	if first {
		done.Resumed, done.Already = held, st.GetComplete()
		u.show.begin(held)
		if held > 0 && !st.GetComplete() {
			u.show.note("the agent holds %s; going on from there", bytesize.Round(held))
		}
	}
	if st.GetComplete() {
		u.finish(want, first)
		return nil
	}
	if err := u.send(ctx, held); err != nil {
		return err
	}
	u.finish(want, false)
	return nil
}

func (u *upload) finish(want int64, already bool) {
	u.show.reach(want)
	if already {
		u.show.note("the agent has it already, %s", bytesize.Round(want))
		return
	}
	u.show.finish("sent")
}

// compare refuses what could only fail after all bytes were sent.
func (u *upload) compare(held, want int64) error {
	if u.in.size >= 0 && u.in.size != want {
		return &problem{err: fmt.Errorf("%s has %d bytes, and the computation expects %d as its %s", u.in.path, u.in.size, want, u.name),
			hint: "nothing was sent; give the very file that the manifest names by its sha256: cocos-cli checksum PATH", reason: reasonSize}
	}
	if held > want {
		return &problem{err: fmt.Errorf("the agent says that it holds %d of %d bytes of the %s", held, want, u.name),
			hint: "this agent can't be right: look at the run's events"}
	}
	return nil
}

func (u *upload) status(ctx context.Context) (*agentv1.InputState, error) {
	ctx, cancel := u.peer.call(ctx)
	defer cancel()
	r, err := u.peer.UploadStatus(ctx, &agentv1.UploadStatusRequest{Input: u.ref})
	if err != nil {
		return nil, err
	}
	if r.GetState() == nil {
		return nil, status.Error(codes.Internal, "UploadStatus: an answer without a state")
	}
	return r.GetState(), nil
}

// send makes one call of Upload from offset on.
func (u *upload) send(ctx context.Context, offset int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream, whatever happened
	stream, err := u.peer.Upload(ctx)
	if err != nil {
		return err
	}
	begin := &agentv1.UploadRequest{Message: &agentv1.UploadRequest_Begin{
		Begin: &agentv1.UploadBegin{Input: u.ref, Offset: uint64(offset), Salt: u.in.saltBytes()},
	}}
	if err := stream.Send(begin); err != nil {
		return answer(stream, err)
	}
	at := offset
	s := bulk.NewSender(stream.SendMsg, func(n int) {
		at += int64(n)
		u.show.set(at)
	})
	err = u.in.copyFrom(s, offset)
	var local *readError
	if errors.As(err, &local) {
		// Broken off, not closed: the agent keeps what it has.
		cancel()
		s.Abandon()
		return &problem{err: fmt.Errorf("uploading the %s: reading %s: %w", u.name, u.in.path, local.err),
			hint: "run the same command again when it can be read: it goes on where this one stopped"}
	}
	if err != nil {
		s.Abandon()
		return answer(stream, err)
	}
	if err := s.Close(); err != nil {
		return answer(stream, err)
	}
	r, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if !r.GetState().GetComplete() {
		return status.Error(codes.Aborted, "the agent has not yet verified the whole input")
	}
	return nil
}

// answer is why the agent ended a stream: to the sender that is only io.EOF.
func answer(stream agentv1.AgentService_UploadClient, err error) error {
	if errors.Is(err, io.EOF) {
		if err := stream.RecvMsg(new(agentv1.UploadResponse)); err != nil {
			return err
		}
		return status.Error(codes.Aborted, "the agent ended the upload early")
	}
	return err
}

// readError is one of reading the input, as opposed to sending it.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// copyFrom writes what travels, from offset on; an error of reading is a readError.
func (in *input) copyFrom(w io.Writer, offset int64) error {
	if in.folder {
		tail := &tailWriter{w: w, skip: offset}
		err := in.copyTo(tail)
		if tail.err != nil {
			return tail.err
		}
		if err != nil {
			return &readError{err}
		}
		return nil
	}
	f, err := os.Open(in.path)
	if err != nil {
		return &readError{err}
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return &readError{err}
	}
	// No more than was looked at: a file that grows is another file.
	r := &faultyReader{r: io.LimitReader(f, in.size-offset)}
	n, err := io.Copy(w, r)
	switch {
	case r.err != nil:
		return &readError{r.err}
	case err == nil && n != in.size-offset:
		return &readError{errors.New("it became shorter while it was sent")}
	}
	return err
}

// tailWriter drops the first skip bytes: an archive has no seeking, but is the
// same bytes each time.
type tailWriter struct {
	w    io.Writer
	skip int64
	err  error
}

func (t *tailWriter) Write(b []byte) (int, error) {
	drop := min(t.skip, int64(len(b)))
	t.skip -= drop
	n, err := t.w.Write(b[drop:])
	t.err = err
	return int(drop) + n, err
}

// faultyReader remembers its error, to tell it from the writer's.
type faultyReader struct {
	r   io.Reader
	err error
}

func (f *faultyReader) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}
