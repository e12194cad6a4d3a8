package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
)

// piped is a listener on connections in memory, whose time a test can pass.
type piped struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p piped) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p piped) Close() error   { close(p.closed); return nil }
func (p piped) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p piped) dial(context.Context, string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// day is longer than one: nobody comes back at the same minute.
const day = 25 * time.Hour

// overDays starts an agent on a clock and connections of the test's bubble.
func overDays(t *testing.T, run func(context.Context, runtime.Job) (runtime.Outcome, error)) *env {
	t.Helper()
	f, err := manifest.Freeze(basic(t))
	if err != nil {
		t.Fatal(err)
	}
	j := journal.New(time.Now)
	cfg := agent.Config{
		RunID: runID, Manifest: f, Storage: agent.FolderStorage(t.TempDir()), Runner: runner(run),
		Journal: j, Log: slog.New(j.Handler(slog.LevelDebug)),
	}
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := piped{make(chan net.Conn), make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &env{t: t, agent: a, journal: j, digest: f.Digest, addr: "pipe", dir: cfg.Storage.Dir(), connect: l.dial}
}

// TestUploadOfDays: neither a day without a connection, nor one in the middle of a
// call, takes anything from a half-done upload.
func TestUploadOfDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := overDays(t, succeed)
		c := e.as(everybody().data, manifest.DatasetProvider)
		ref := dataRef("file.bin")
		const first, second = 1<<20 + 7, 2 << 20

		begun, breakOff := context.WithCancel(context.Background())
		s := e.begin(begun, c, ref, 0)
		if err := s.Send(chunk(fileData[:bulk.ChunkSize])); err != nil {
			t.Fatal(err)
		}
		if err := s.Send(chunk(fileData[bulk.ChunkSize:first])); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		breakOff()
		time.Sleep(day)
		if got := e.held(c, ref); got != first {
			t.Fatalf("after a day without anybody the agent holds %d bytes, want %d", got, first)
		}

		s = e.begin(context.Background(), c, ref, first)
		for b := fileData[first:second]; len(b) > 0; b = b[min(len(b), bulk.ChunkSize):] {
			if err := s.Send(chunk(b[:min(len(b), bulk.ChunkSize)])); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(day)
		chunks := bulk.NewSender(s.SendMsg, nil)
		if _, err := chunks.Write(fileData[second:]); err != nil {
			t.Fatalf("after a day in the middle of a call: %v", err)
		}
		if err := chunks.Close(); err != nil {
			t.Fatal(err)
		}
		if r, err := s.CloseAndRecv(); err != nil || !r.GetState().GetComplete() {
			t.Fatalf("%v, %v", r, err)
		}
		if got, err := os.ReadFile(filepath.Join(e.dir, "work/datasets/file.bin")); err != nil || !bytes.Equal(got, fileData) {
			t.Errorf("the dataset is not what was sent: %v", err)
		}
	})
}

// TestDownloadOfDays: nor do they take anything from a half-done download.
func TestDownloadOfDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := overDays(t, func(_ context.Context, job runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{}, os.WriteFile(filepath.Join(job.Dir, "results", "model"), fileData, 0o644)
		})
		e.uploadAll()
		e.wait(agent.ResultReady)
		time.Sleep(day) // before anybody asks
		c := e.as(everybody().consumer, manifest.Consumer)

		begun, breakOff := context.WithCancel(context.Background())
		s, err := c.Result(begun, &agentv1.ResultRequest{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		info, got := m.GetInfo(), bytes.Clone(m.GetChunk())
		for len(got) < 1<<20 {
			if m, err = s.Recv(); err != nil {
				t.Fatal(err)
			}
			got = append(got, m.GetChunk()...)
		}
		breakOff()
		time.Sleep(day)

		if s, err = c.Result(context.Background(), &agentv1.ResultRequest{Offset: uint64(len(got))}); err != nil {
			t.Fatal(err)
		}
		for slept := false; ; {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("with %d bytes: %v", len(got), err)
			}
			if got = append(got, m.GetChunk()...); !slept && len(got) > 2<<20 {
				slept = true
				time.Sleep(day)
			}
		}
		if sum := sha256.Sum256(got); uint64(len(got)) != info.GetSize() || !bytes.Equal(sum[:], info.GetSha256()) {
			t.Fatalf("%d bytes with the sha256 %x; the agent said %v", len(got), sum, info)
		}
		if _, err := c.ConfirmResult(e.ctx(), &agentv1.ConfirmResultRequest{Sha256: info.GetSha256()}); err != nil {
			t.Error(err)
		}
	})
}
