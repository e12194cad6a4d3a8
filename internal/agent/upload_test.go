package agent_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/manifest"
)

func packed(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Pack(&b, dir); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func chunk(b []byte) *agentv1.UploadRequest {
	return &agentv1.UploadRequest{Message: &agentv1.UploadRequest_Chunk{Chunk: b}}
}

func (e *env) held(c agentv1.AgentServiceClient, ref *agentv1.InputRef) uint64 {
	e.t.Helper()
	r, err := c.UploadStatus(e.ctx(), &agentv1.UploadStatusRequest{Input: ref})
	if err != nil {
		e.t.Fatal(err)
	}
	return r.GetState().GetReceived()
}

// Each upload is right in all but one thing; afterwards nothing is left of it,
// and the right one passes.
func TestWrongUploadsLeaveNoTrace(t *testing.T) {
	flipped := bytes.Clone(fileData)
	flipped[len(flipped)/2] ^= 1
	for _, tt := range []struct {
		name   string
		data   []byte
		reason rpcerr.Reason
	}{
		{"one byte too long", append(bytes.Clone(fileData), 'x'), rpcerr.SizeExceeded},
		{"far too long", append(bytes.Clone(fileData), fileData...), rpcerr.SizeExceeded},
		{"one byte too short", fileData[:len(fileData)-1], rpcerr.SizeShort},
		{"nothing", nil, rpcerr.SizeShort},
		{"one bit flipped", flipped, rpcerr.DigestMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := start(t, basic(t))
			c := e.as(everybody().data, manifest.DatasetProvider)
			_, err := e.upload(c, dataRef("file.bin"), tt.data, 0)
			refused(t, err, codes.InvalidArgument, tt.reason)
			if n := e.held(c, dataRef("file.bin")); n != 0 {
				t.Errorf("%d bytes are still held", n)
			}
			if left := e.left(); len(left) != 0 {
				t.Errorf("left behind: %q", left)
			}
			if slices.Contains(e.kinds(), "input.received") {
				t.Error("an event says that the input was received")
			}
			if st, err := e.upload(c, dataRef("file.bin"), fileData, 0); err != nil || !st.GetComplete() {
				t.Errorf("the right bytes afterwards: %v %v", st, err)
			}
			// The host must not learn what was sent instead.
			lines, _ := e.journal.LinesAfter(0, 1000)
			for _, l := range lines {
				if strings.Contains(l.Message, manifest.Sum(tt.data).String()) {
					t.Errorf("the log has the digest of private bytes: %s", l.Message)
				}
			}
		})
	}
}

func TestUploadGoesOnWhereItBroke(t *testing.T) {
	e := start(t, basic(t))
	c := e.as(everybody().data, manifest.DatasetProvider)
	ref := dataRef("file.bin")
	at := 0
	for _, cut := range []int{0, 1, 4096, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20, len(fileData) - 1, len(fileData)} {
		ctx, cancel := context.WithCancel(e.ctx())
		s := e.begin(ctx, c, ref, uint64(at))
		for b := fileData[at:cut]; len(b) > 0; {
			n := min(len(b), bulk.ChunkSize)
			if err := s.Send(chunk(b[:n])); err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		// Seen from another call, while this one goes on.
		for e.held(c, ref) != uint64(cut) {
			if ctx.Err() != nil {
				t.Fatalf("only %d of %d bytes arrived", e.held(c, ref), cut)
			}
		}
		cancel()
		if err := s.RecvMsg(&agentv1.UploadResponse{}); err == nil {
			t.Fatal("a cut upload succeeded")
		}
		at = cut
		e.waitFree(c, ref, uint64(at))
	}
	// All bytes are there: nothing more to send but the end.
	st, err := e.upload(c, ref, nil, uint64(at))
	if err != nil || !st.GetComplete() {
		t.Fatalf("the last upload: %v %v", st, err)
	}
	got, err := os.ReadFile(filepath.Join(e.dir, "work/datasets/file.bin"))
	if err != nil || !bytes.Equal(got, fileData) {
		t.Errorf("the dataset is not what was sent: %v", err)
	}
	if left := e.left(); !slices.Equal(left, []string{"work/datasets/file.bin"}) {
		t.Errorf("left: %q", left)
	}
}

// waitFree waits until the agent has noticed that an upload broke.
func (e *env) waitFree(c agentv1.AgentServiceClient, ref *agentv1.InputRef, offset uint64) {
	e.t.Helper()
	for {
		ctx, cancel := context.WithCancel(e.ctx())
		// At a wrong offset a free input says so, and nothing changes.
		s := e.begin(ctx, c, ref, offset+1)
		_, err := s.CloseAndRecv()
		cancel()
		if d, _ := rpcerr.DetailOf(err); d.Reason != rpcerr.UploadBusy {
			refused(e.t, err, codes.FailedPrecondition, rpcerr.OffsetMismatch)
			return
		}
	}
}

func TestTwoUploadsAtOnce(t *testing.T) {
	e := start(t, basic(t))
	c := e.as(everybody().data, manifest.DatasetProvider)
	ref := dataRef("file.bin")
	first := e.begin(e.ctx(), c, ref, 0)
	if err := first.Send(chunk(fileData[:1000])); err != nil {
		t.Fatal(err)
	}
	for e.held(c, ref) != 1000 {
	}
	for _, offset := range []uint64{0, 1000} {
		_, err := e.upload(e.as(everybody().data, manifest.DatasetProvider), ref, fileData[offset:], offset)
		refused(t, err, codes.Aborted, rpcerr.UploadBusy)
	}
	for b := fileData[1000:]; len(b) > 0; {
		n := min(len(b), bulk.ChunkSize)
		if err := first.Send(chunk(b[:n])); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	r, err := first.CloseAndRecv()
	if err != nil || !r.GetState().GetComplete() {
		t.Errorf("the first upload was disturbed: %v %v", r, err)
	}
}

func TestUploadOffsetsAndRepetition(t *testing.T) {
	e := start(t, basic(t))
	c := e.as(everybody().data, manifest.DatasetProvider)
	ref := dataRef("file.bin")
	_, err := e.upload(c, ref, fileData[1:], 1)
	refused(t, err, codes.FailedPrecondition, rpcerr.OffsetMismatch)
	_, err = e.upload(c, ref, fileData, 1<<63)
	refused(t, err, codes.FailedPrecondition, rpcerr.OffsetMismatch)
	if _, err := e.upload(c, ref, fileData, 0); err != nil {
		t.Fatal(err)
	}
	// An answer that got lost is asked for again.
	st, err := e.upload(c, ref, nil, uint64(len(fileData)))
	if err != nil || !st.GetComplete() {
		t.Errorf("repeated at its end: %v %v", st, err)
	}
	_, err = e.upload(c, ref, fileData, 0)
	refused(t, err, codes.FailedPrecondition, rpcerr.OffsetMismatch)
	if n := count(e.kinds(), "input.received"); n != 1 {
		t.Errorf("%d events say that the input was received, want 1", n)
	}
}

func TestMessagesWithoutAPlace(t *testing.T) {
	begin := func(ref *agentv1.InputRef) *agentv1.UploadRequest {
		return &agentv1.UploadRequest{Message: &agentv1.UploadRequest_Begin{Begin: &agentv1.UploadBegin{Input: ref}}}
	}
	good := begin(dataRef("file.bin"))
	for _, tt := range []struct {
		name   string
		send   []*agentv1.UploadRequest
		code   codes.Code
		reason rpcerr.Reason
	}{
		{"chunk first", []*agentv1.UploadRequest{chunk(fileData[:10])}, codes.InvalidArgument, rpcerr.MessageInvalid},
		{"empty first", []*agentv1.UploadRequest{{}}, codes.InvalidArgument, rpcerr.MessageInvalid},
		{"begin twice", []*agentv1.UploadRequest{good, good}, codes.InvalidArgument, rpcerr.MessageInvalid},
		{"chunk one byte over 1 MiB", []*agentv1.UploadRequest{good, chunk(fileData[:1<<20+1])}, codes.InvalidArgument, rpcerr.MessageInvalid},
		{"chunk of 2 MiB", []*agentv1.UploadRequest{good, chunk(fileData[:2<<20])}, codes.InvalidArgument, rpcerr.MessageInvalid},
		{"no input", []*agentv1.UploadRequest{begin(nil)}, codes.InvalidArgument, rpcerr.InputUnknown},
		{"no kind", []*agentv1.UploadRequest{begin(&agentv1.InputRef{Name: "file.bin"})}, codes.InvalidArgument, rpcerr.InputUnknown},
		{"unknown kind", []*agentv1.UploadRequest{begin(&agentv1.InputRef{Kind: 7, Name: "file.bin"})}, codes.InvalidArgument, rpcerr.InputUnknown},
		{"algorithm with a name", []*agentv1.UploadRequest{begin(&agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_ALGORITHM, Name: "x"})}, codes.InvalidArgument, rpcerr.InputUnknown},
		{"dataset without a name", []*agentv1.UploadRequest{begin(dataRef(""))}, codes.NotFound, rpcerr.InputUnknown},
		{"name with ..", []*agentv1.UploadRequest{begin(dataRef("../file.bin"))}, codes.NotFound, rpcerr.InputUnknown},
		{"name with /", []*agentv1.UploadRequest{begin(dataRef("/file.bin"))}, codes.NotFound, rpcerr.InputUnknown},
		{"name with NUL", []*agentv1.UploadRequest{begin(dataRef("file.bin\x00"))}, codes.NotFound, rpcerr.InputUnknown},
		{"name in other case", []*agentv1.UploadRequest{begin(dataRef("File.bin"))}, codes.NotFound, rpcerr.InputUnknown},
		{"another's dataset", []*agentv1.UploadRequest{begin(dataRef("folder"))}, codes.PermissionDenied, rpcerr.NotProvider},
		{"the algorithm", []*agentv1.UploadRequest{begin(algoRef())}, codes.PermissionDenied, rpcerr.RoleNotAllowed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := start(t, basic(t))
			c := e.as(everybody().data, manifest.DatasetProvider)
			s, err := c.Upload(e.ctx())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range tt.send {
				if s.Send(m) != nil {
					break // CloseAndRecv has the reason
				}
			}
			_, err = s.CloseAndRecv()
			refused(t, err, tt.code, tt.reason)
			if st, err := e.upload(c, dataRef("file.bin"), fileData, e.held(c, dataRef("file.bin"))); err != nil || !st.GetComplete() {
				t.Errorf("the right upload afterwards: %v %v", st, err)
			}
		})
	}
}

// What any other client of the protocol sends is understood too: chunks of odd
// sizes, empty ones among them.
func TestOddChunks(t *testing.T) {
	e := start(t, basic(t))
	c := e.as(everybody().data, manifest.DatasetProvider)
	s := e.begin(e.ctx(), c, dataRef("file.bin"), 0)
	for i, b := 0, fileData; len(b) > 0; i++ {
		n := min(len(b), i*i*i%200_003)
		if err := s.Send(chunk(b[:n])); err != nil {
			t.Fatal(err)
		}
		if err := s.SendMsg(&bulk.Chunk{Data: mem.BufferSlice{}}); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	if r, err := s.CloseAndRecv(); err != nil || !r.GetState().GetComplete() {
		t.Errorf("%v %v", r, err)
	}
}

func TestRefusedArchives(t *testing.T) {
	notArchive := bytes.Repeat([]byte("not an archive "), 100)
	folder := folderData(t)
	for _, tt := range []struct {
		name        string
		data        []byte
		unpackedMax int64
	}{
		{"more than unpacked_max", folder, 7},
		{"not an archive", notArchive, 1 << 20},
		{"bytes after it", append(bytes.Clone(folder), 0), 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := basic(t)
			m.Datasets[1].SHA256, m.Datasets[1].Size, m.Datasets[1].UnpackedMax = manifest.Sum(tt.data), int64(len(tt.data)), tt.unpackedMax
			e := start(t, m)
			c := e.as(everybody().data2, manifest.DatasetProvider)
			_, err := e.upload(c, dataRef("folder"), tt.data, 0)
			refused(t, err, codes.InvalidArgument, rpcerr.ArchiveRefused)
			if left := e.left(); len(left) != 0 || e.held(c, dataRef("folder")) != 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestEmptyDataset(t *testing.T) {
	m := basic(t)
	m.Datasets[0].SHA256, m.Datasets[0].Size = manifest.Sum(nil), 0
	e := start(t, m)
	st, err := e.upload(e.as(everybody().data, manifest.DatasetProvider), dataRef("file.bin"), nil, 0)
	if err != nil || !st.GetComplete() {
		t.Errorf("%v %v", st, err)
	}
	if left := e.left(); !slices.Equal(left, []string{"work/datasets/file.bin"}) {
		t.Errorf("left: %q", left)
	}
}

func TestInputsAreNotTakenLater(t *testing.T) {
	e := start(t, basic(t))
	e.uploadAll()
	e.wait(agent.ResultReady)
	c := e.as(everybody().data, manifest.DatasetProvider)
	// Complete ones are acknowledged, in any state.
	if st, err := e.upload(c, dataRef("file.bin"), nil, uint64(len(fileData))); err != nil || !st.GetComplete() {
		t.Errorf("%v %v", st, err)
	}
	_, err := e.upload(c, dataRef("file.bin"), fileData, 0)
	refused(t, err, codes.FailedPrecondition, rpcerr.OffsetMismatch)
}
