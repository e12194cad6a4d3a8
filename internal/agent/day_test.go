package agent_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/callauth"
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

// TestUploadOfDays: neither a day without a connection, nor one in the middle of a
// call, takes anything from a half-done upload.
func TestUploadOfDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 25 * time.Hour
		f, err := manifest.Freeze(basic(t))
		if err != nil {
			t.Fatal(err)
		}
		j := journal.New(time.Now)
		cfg := agent.Config{
			RunID: runID, Manifest: f, Storage: agent.FolderStorage(t.TempDir()), Runner: runner(succeed),
			Journal: j, Log: slog.New(j.Handler(slog.LevelDebug)),
		}
		a, err := agent.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		l := piped{make(chan net.Conn), make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- a.Serve(ctx, l) }()
		e := &env{t: t, agent: a, journal: j, digest: f.Digest, addr: "pipe", dir: cfg.Storage.Dir()}
		conn, c := e.dial(grpc.WithContextDialer(l.dial),
			grpc.WithPerRPCCredentials(callauth.Signer{Key: everybody().data, Role: manifest.DatasetProvider, Digest: f.Digest}))
		ref := dataRef("file.bin")
		const first, second = 1<<20 + 7, 2 << 20

		begun, breakOff := context.WithCancel(ctx)
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

		s = e.begin(ctx, c, ref, first)
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
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
