package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
)

// askedManager has one run, and counts the stops.
type askedManager struct {
	controlv1.UnimplementedControlServiceServer
	stops []*controlv1.StopRequest
}

func (m *askedManager) run() *controlv1.Run {
	return &controlv1.Run{RunId: "0b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e", State: "running", ComputationName: "Iris\x1b[2J"}
}

func (m *askedManager) List(context.Context, *controlv1.ListRequest) (*controlv1.ListResponse, error) {
	return &controlv1.ListResponse{Runs: []*controlv1.Run{m.run()}}, nil
}

func (m *askedManager) Show(context.Context, *controlv1.ShowRequest) (*controlv1.ShowResponse, error) {
	return &controlv1.ShowResponse{Run: m.run()}, nil
}

func (m *askedManager) Stop(_ context.Context, q *controlv1.StopRequest) (*controlv1.StopResponse, error) {
	m.stops = append(m.stops, q)
	return &controlv1.StopResponse{Runs: []*controlv1.Stopped{{RunId: m.run().GetRunId()}}}, nil
}

func serveManager(t *testing.T, m controlv1.ControlServiceServer) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cm") // unix sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	controlv1.RegisterControlServiceServer(s, m)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return socket
}

// A person at a terminal is asked before a VM is stopped, and is told which.
func TestStopAsks(t *testing.T) {
	const id = "0b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e"
	for name, tt := range map[string]struct {
		args, answer string
		terminal     bool
		code         int
		stops        int
		says         []string
	}{
		"yes":                  {"0b9", "y\n", true, ExitOK, 1, []string{id + ` running Iris\u001b[2J`, "Stop 1 VMs? [y/N]", "is being stopped"}},
		"yes in full":          {"0b9", " YES \n", true, ExitOK, 1, nil},
		"no":                   {"0b9", "n\n", true, ExitFailure, 0, []string{"not stopped", "--yes"}},
		"only return":          {"0b9", "\n", true, ExitFailure, 0, []string{"not stopped"}},
		"something else":       {"0b9", "yes please\n", true, ExitFailure, 0, []string{"not stopped"}},
		"the end of input":     {"0b9", "", true, ExitFailure, 0, []string{"not stopped"}},
		"half a line":          {"0b9", "y", true, ExitFailure, 0, []string{"not stopped"}},
		"all":                  {"--all", "y\n", true, ExitOK, 1, []string{id, "Stop 1 VMs?"}},
		"drain":                {"--all --drain", "no\n", true, ExitFailure, 0, []string{"Stop 1 VMs and take no more runs?"}},
		"with JSON, too":       {"0b9 --json", "n\n", true, ExitFailure, 0, []string{`{"error":`}},
		"not to be asked":      {"0b9 --yes", "n\n", true, ExitOK, 1, nil},
		"nobody to be asked":   {"0b9", "", false, ExitOK, 1, nil},
		"all, nobody to asked": {"--all", "", false, ExitOK, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := &askedManager{}
			socket := serveManager(t, m)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), Env{
				Args:  append([]string{"manager", "stop", "--socket", socket}, strings.Fields(tt.args)...),
				Stdin: strings.NewReader(tt.answer), Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" },
				Columns: columns(0), Interactive: func() bool { return tt.terminal }, Version: "test",
			}, timing{time.Now, sleep})
			outcome{code, stdout.String(), stderr.String()}.wants(t, tt.code, tt.says...)
			if len(m.stops) != tt.stops {
				t.Fatalf("%d stops", len(m.stops))
			}
			if tt.stops == 1 && tt.terminal && !strings.Contains(tt.args, "--all") && !strings.Contains(tt.args, "--yes") && m.stops[0].GetRuns()[0] != id {
				t.Errorf("asked about %s, stopped %q", id, m.stops[0].GetRuns())
			}
			if strings.ContainsRune(stdout.String()+stderr.String(), 0x1b) {
				t.Error("an escape reached the terminal")
			}
		})
	}
}

// Whoever does not answer can still interrupt.
func TestStopQuestionIsInterrupted(t *testing.T) {
	m := &askedManager{}
	socket := serveManager(t, m)
	never, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var stderr cancelOn
	stderr.text, stderr.do = "[y/N]", cancel
	code := run(ctx, Env{Args: []string{"manager", "stop", "0b9", "--socket", socket}, Stdin: never, Stdout: io.Discard, Stderr: &stderr,
		Getenv: func(string) string { return "" }, Columns: columns(0), Interactive: func() bool { return true }}, timing{time.Now, sleep})
	if code != ExitInterrupted || len(m.stops) != 0 {
		t.Errorf("exit status %d, %d stops", code, len(m.stops))
	}
}

// cancelOn calls do when text is written.
type cancelOn struct {
	text string
	do   func()
}

func (c *cancelOn) Write(b []byte) (int, error) {
	if strings.Contains(string(b), c.text) {
		c.do()
	}
	return len(b), nil
}
