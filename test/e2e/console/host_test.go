package console

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/manager"
)

// host is a simulated one: it speaks the Managers' protocol, and tells of VMs that
// aren't there.
type host struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[managerv1.ConnectRequest, managerv1.ConnectResponse]
	runs   chan *managerv1.RunRequest

	mu   sync.Mutex
	last map[eventv1.Source]uint64
}

// enrol joins by the command that the console gave, as cocos-manager does, and
// connects.
func enrol(t *testing.T, command string) *host {
	t.Helper()
	word := func(flag string) string {
		_, rest, ok := strings.Cut(command, flag+" ")
		if !ok {
			t.Fatalf("the command has no %s: %s", flag, command)
		}
		value, _, _ := strings.Cut(rest, " ")
		return value
	}
	token := word("printf %s")
	if word("--token") != "-" {
		t.Fatalf("the command has the token among its arguments: %s", command)
	}
	dir := t.TempDir()
	files := manager.Enrolled{Key: filepath.Join(dir, "key.pem"), Certificate: filepath.Join(dir, "cert.pem"), Authorities: filepath.Join(dir, "ca.pem")}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := manager.Enrol(ctx, manager.Enrolment{
		Address: word("--service"), Token: token, Fingerprint: word("--fingerprint"), InstanceID: "sim-1", Version: "1.2.3",
		Timeout: patience, Clock: manager.SystemClock{}, Into: files,
	}); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files.Authorities)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	conn, err := grpc.NewClient(word("--service"), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: roots,
	})))
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, runs: make(chan *managerv1.RunRequest, 10), last: map[eventv1.Source]uint64{}}
	h.stream, err = managerv1.NewComputationsServiceClient(conn).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h.send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Hello{Hello: &managerv1.Hello{
		ProtocolVersion: 1, InstanceId: "sim-1", Version: "1.2.3", Tees: []string{"sim"}, Capacity: 4, MemoryBytes: 64 << 30, Cpus: 16,
		Images: []*managerv1.GuestImage{{Digest: strings.Repeat("5ca1ab1e", 8), Measurements: map[string]string{"sim": strings.Repeat("c0c0a5", 16)}}},
		Findings: []*managerv1.Finding{
			{Name: "virtualisation", Verdict: "ok", Found: "KVM works"},
			{Name: "sev-snp", Verdict: "warn", Found: "the processor has no SEV-SNP", Needed: "an AMD EPYC of the third generation or later", Mend: "only simulated computations can run here"},
		},
	}}})
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			m, err := h.stream.Recv()
			if err != nil {
				return // the test or the service ends
			}
			if r := m.GetRunRequest(); r != nil {
				h.runs <- r
			}
		}
	})
	t.Cleanup(func() { cancel(); ended.Wait(); _ = conn.Close() })
	h.send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_HostStatus{HostStatus: &managerv1.HostStatus{Running: 0, Capacity: 4, MemoryFreeBytes: 60 << 30, Load: 0.4}}})
	return h
}

func (h *host) send(m *managerv1.ConnectRequest) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.stream.Send(m); err != nil {
		h.t.Fatal(err)
	}
}

// accept waits for a run and takes it, with an agent that participants reach.
func (h *host) accept() (*managerv1.RunRequest, *agentOf) {
	h.t.Helper()
	select {
	case r := <-h.runs:
		a := startAgent(h.t, r)
		h.send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_RunReply{RunReply: &managerv1.RunReply{RunId: r.GetRunId(), AgentHostPort: uint32(a.port)}}})
		return r, a
	case <-time.After(patience):
		h.t.Fatal("the host gets no run")
		return nil, nil
	}
}

// tells an event; attributes are names and values in turn.
func (h *host) tells(run string, source eventv1.Source, kind, message string, attributes ...string) {
	h.t.Helper()
	h.mu.Lock()
	h.last[source]++
	n := h.last[source]
	h.mu.Unlock()
	e := &eventv1.Event{RunId: run, Source: source, Sequence: n, Time: timestamppb.Now(), Kind: kind, Message: message, Attributes: map[string]string{}}
	for i := 0; i+1 < len(attributes); i += 2 {
		e.Attributes[attributes[i]] = attributes[i+1]
	}
	h.send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Event{Event: e}})
}

func (h *host) logs(run string, source eventv1.Source, level eventv1.Level, format string, args ...any) {
	h.t.Helper()
	h.send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Log{Log: &eventv1.Log{
		RunId: run, Source: source, Time: timestamppb.Now(), Level: level, Message: fmt.Sprintf(format, args...),
	}}})
}
