package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
)

func withRunner(r runner) option { return func(c *agent.Config) { c.Runner = r } }

// filesOf reads the files of an archive.
func filesOf(t testing.TB, b []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(content)
	}
}

func TestAComputationFromEndToEnd(t *testing.T) {
	p := everybody()
	m := basic(t)
	seen := make(chan string, 1)
	e := start(t, m, withRunner(func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
		seen <- describe(job)
		return succeed(ctx, job)
	}))
	consumer := e.as(p.consumer, manifest.Consumer)
	st, err := consumer.State(e.ctx(), &agentv1.StateRequest{})
	if err != nil || st.GetState() != "AwaitingInputs" || !bytes.Equal(st.GetManifestDigest(), e.digest[:]) || len(st.GetInputs()) != 3 || st.GetResult() != nil {
		t.Fatalf("at first: %v %v", st, err)
	}
	_, _, err = e.takeResult(consumer, 0)
	refused(t, err, codes.FailedPrecondition, rpcerr.NoResult)
	_, err = consumer.ConfirmResult(e.ctx(), &agentv1.ConfirmResultRequest{Sha256: make([]byte, 32)})
	refused(t, err, codes.FailedPrecondition, rpcerr.NoResult)

	e.uploadAll()
	want := `python program="#!/bin/true" args=["--a"] env=map[K:v] datasets: file.bin=` + manifest.Sum(fileData).String()[:8] +
		` folder/sub/x.csv=` + manifest.Sum([]byte("1,2\n")).String()[:8] + ` folder/y.csv=` + manifest.Sum([]byte("3,4\n")).String()[:8]
	if got := <-seen; got != want {
		t.Errorf("the algorithm saw\n%s, want\n%s", got, want)
	}
	e.wait(agent.ResultReady)

	info, b, err := e.takeResult(consumer, 0)
	if err != nil {
		t.Fatal(err)
	}
	if manifest.Sum(b) != manifest.Digest(info.GetSha256()) || uint64(len(b)) != info.GetSize() {
		t.Error("the result is not what its info says")
	}
	wantFiles := map[string]string{
		"results/": "", "results/model": "secret model",
		"stdout.txt": "secret on stdout\n", "stderr.txt": "secret on stderr\n",
	}
	got := filesOf(t, b)
	if story := got["run.json"]; !strings.Contains(story, `"outcome": "succeeded"`) || !strings.Contains(story, `"exit_status": 0`) || !strings.Contains(story, `"usage"`) {
		t.Errorf("run.json says %s", story)
	}
	delete(got, "run.json")
	if !maps.Equal(got, wantFiles) {
		t.Errorf("the archive has %q", got)
	}
	for _, offset := range []uint64{1, 511, 512, 1024, uint64(len(b)) - 1, uint64(len(b))} {
		again, rest, err := e.takeResult(e.as(p.consumer2, manifest.Consumer), offset)
		if err != nil || !bytes.Equal(rest, b[offset:]) || !bytes.Equal(again.GetSha256(), info.GetSha256()) {
			t.Errorf("from %d: %d bytes, %v", offset, len(rest), err)
		}
	}
	_, _, err = e.takeResult(consumer, uint64(len(b))+1)
	refused(t, err, codes.OutOfRange, rpcerr.OffsetMismatch)

	// A provider sees the state, not the result.
	st, err = e.as(p.data, manifest.DatasetProvider).State(e.ctx(), &agentv1.StateRequest{})
	if err != nil || st.GetState() != "ResultReady" || st.GetResult() != nil {
		t.Errorf("a provider sees %v %v", st, err)
	}

	confirm := func(c agentv1.AgentServiceClient, sha []byte) error {
		_, err := c.ConfirmResult(e.ctx(), &agentv1.ConfirmResultRequest{Sha256: sha})
		return err
	}
	for _, wrong := range [][]byte{nil, info.GetSha256()[:31], append(bytes.Clone(info.GetSha256()), 0), make([]byte, 32)} {
		refused(t, confirm(consumer, wrong), codes.InvalidArgument, rpcerr.ResultMismatch)
	}
	for range 2 { // said twice, counted once
		if err := confirm(consumer, info.GetSha256()); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := consumer.State(e.ctx(), &agentv1.StateRequest{}); err != nil || st.GetState() != "ResultReady" {
		t.Errorf("after one of two consumers: %v %v", st, err)
	}
	if err := confirm(e.as(p.consumer2, manifest.Consumer), info.GetSha256()); err != nil {
		t.Fatal(err)
	}
	e.wait(agent.Released)
	if _, again, err := e.takeResult(consumer, 0); err != nil || !bytes.Equal(again, b) {
		t.Errorf("after the release: %v", err)
	}
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	wantKinds := []string{"agent.ready", "input.received", "input.received", "input.received", "agent.state:Running",
		"agent.state:ResultReady", "result.taken", "result.taken", "agent.state:Released", "agent.state:Stopped"}
	if got := e.kinds(); !slices.Equal(got, wantKinds) {
		t.Errorf("events %q,\nwant %q", got, wantKinds)
	}
	nothingLeaks(t, e)
	if left, err := os.ReadDir(e.dir); err != nil || len(left) != 0 {
		t.Errorf("left in the folder: %v %v", left, err)
	}
}

// describe says all that a job lets its algorithm see.
func describe(job runtime.Job) string {
	program, err := os.ReadFile(job.Program)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	b.WriteString(string(job.Type) + ` program="` + string(program) + `" args=["` + strings.Join(job.Args, `","`) + `"] env=map[K:` + job.Env["K"] + `] datasets:`)
	root := filepath.Join(job.Dir, "datasets")
	err = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(p)
		rel, _ := filepath.Rel(root, p)
		b.WriteString(" " + rel + "=" + manifest.Sum(content).String()[:8])
		return err
	})
	if err != nil {
		return err.Error()
	}
	return b.String()
}

// nothingLeaks looks for the algorithm's output in all that the host can read.
func nothingLeaks(t *testing.T, e *env) {
	t.Helper()
	for _, ev := range e.journal.EventsAfter(0) {
		text := ev.Message
		for k, v := range ev.Attributes {
			text += " " + k + "=" + v
		}
		if strings.Contains(text, "secret") {
			t.Errorf("event %d leaks: %s", ev.Sequence, text)
		}
	}
	lines, _ := e.journal.LinesAfter(0, 10_000)
	for _, l := range lines {
		if strings.Contains(l.Message, "secret") {
			t.Errorf("the log leaks: %s", l.Message)
		}
	}
}

func TestFailures(t *testing.T) {
	leave := func(do func(results string) error) runner {
		return func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			out, err := succeed(ctx, job)
			return out, errors.Join(err, do(filepath.Join(job.Dir, "results")))
		}
	}
	for _, tt := range []struct {
		name   string
		run    runner
		max    int64 // of the result
		reason string
		why    string // in failure.txt
		files  []string
	}{
		{"exit status", func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			_, err := succeed(ctx, job)
			return runtime.Outcome{ExitCode: 3}, err
		}, 0, "algorithm-failed", "status 3", []string{"failure.txt", "run.json", "stderr.txt", "stdout.txt"}},
		{"signal", func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{ExitCode: -1, Signal: "SIGSEGV"}, nil
		}, 0, "algorithm-failed", "SIGSEGV", []string{"failure.txt", "run.json", "stderr.txt", "stdout.txt"}},
		{"limit", func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{ExitCode: -1, Signal: "SIGKILL", LimitExceeded: runtime.LimitSeconds}, nil
		}, 0, "algorithm-failed", "/algorithm/limits/seconds", []string{"failure.txt", "run.json", "stderr.txt", "stdout.txt"}},
		{"could not be run", func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{}, errors.New("secret interpreter is not there")
		}, 0, "agent-failed", "secret interpreter", []string{"failure.txt", "run.json", "stderr.txt", "stdout.txt"}},
		{"results of the wrong kind", func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{}, runtime.ErrResults
		}, 0, "algorithm-failed", runtime.ErrResults.Error(), []string{"failure.txt", "run.json", "stderr.txt", "stdout.txt"}},
		{"link in results", leave(func(r string) error { return os.Symlink("/etc/passwd", filepath.Join(r, "secret")) }),
			0, "algorithm-failed", "symbolic link", []string{"failure.txt", "run.json", "stderr.txt", "stdout.txt"}},
		{"name in results", leave(func(r string) error { return os.WriteFile(filepath.Join(r, "secret\xff"), nil, 0o600) }),
			0, "algorithm-failed", "UTF-8", []string{"failure.txt", "run.json", "stderr.txt", "stdout.txt"}},
		{"results larger than the manifest allows", leave(func(r string) error { return os.WriteFile(filepath.Join(r, "big"), make([]byte, 20_000), 0o600) }),
			8192, "algorithm-failed", "8192", []string{"failure.txt", "run.json", "stderr.txt", "stdout.txt"}},
		{"output larger than the manifest allows", func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			job.Stdout.Write(make([]byte, 20_000))
			return runtime.Outcome{ExitCode: 1}, nil
		}, 8192, "algorithm-failed", "status 1", []string{"failure.txt", "run.json"}},
		{"nothing fits", func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{}, nil
		}, 1, "agent-failed", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := basic(t)
			m.Outputs.ResultMax = tt.max
			e := start(t, m, withRunner(tt.run))
			e.uploadAll()
			e.wait(agent.Failed)
			c := e.as(everybody().consumer, manifest.Consumer)
			st, err := c.State(e.ctx(), &agentv1.StateRequest{})
			if err != nil || st.GetState() != "Failed" || st.GetReason() != tt.reason {
				t.Errorf("state %v %v, want reason %s", st, err, tt.reason)
			}
			nothingLeaks(t, e)
			_, b, err := e.takeResult(c, 0)
			if tt.files == nil {
				refused(t, err, codes.FailedPrecondition, rpcerr.NoResult)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			files := filesOf(t, b)
			if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, tt.files) || !strings.Contains(files["failure.txt"], tt.why) {
				t.Errorf("the archive has %q, want %q and the reason %q", files, tt.files, tt.why)
			}
			for _, key := range []manifest.Role{manifest.Consumer} {
				if _, err := e.as(everybody().consumer, key).ConfirmResult(e.ctx(), &agentv1.ConfirmResultRequest{Sha256: st.GetResult().GetSha256()}); err != nil {
					t.Errorf("confirming: %v", err)
				}
			}
			if st, _ := c.State(e.ctx(), &agentv1.StateRequest{}); st.GetState() != "Failed" {
				t.Errorf("a confirmation changed the state to %s", st.GetState())
			}
		})
	}
}

func TestStoppingEndsTheAlgorithm(t *testing.T) {
	started := make(chan struct{})
	ended := make(chan error, 1)
	e := start(t, basic(t), withRunner(func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
		close(started)
		<-ctx.Done() // never ends by itself
		ended <- ctx.Err()
		return runtime.Outcome{ExitCode: -1, Signal: "SIGKILL"}, ctx.Err()
	}))
	e.uploadAll()
	<-started
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	default:
		t.Error("Serve returned before the algorithm had ended")
	}
	if k := e.kinds(); k[len(k)-1] != "agent.state:Stopped" || count(k, "agent.state:Failed") != 0 {
		t.Errorf("events %q", k)
	}
}

func TestStoppingCutsCalls(t *testing.T) {
	e := start(t, basic(t))
	c := e.as(everybody().data, manifest.DatasetProvider)
	up := e.begin(e.ctx(), c, dataRef("file.bin"), 0)
	if err := up.Send(chunk(fileData[:10])); err != nil {
		t.Fatal(err)
	}
	events, err := c.Events(e.ctx(), &agentv1.EventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Recv(); err != nil {
		t.Fatal(err)
	}
	for e.held(c, dataRef("file.bin")) != 10 {
	}
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	// The follower gets the last event, and then an end that is no error.
	m, err := events.Recv()
	if err != nil || m.GetEvent().GetAttributes()["to"] != "Stopped" {
		t.Errorf("the last event is %v %v", m, err)
	}
	if _, err := events.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after it: %v", err)
	}
	if err := up.RecvMsg(&agentv1.UploadResponse{}); err == nil {
		t.Error("the upload went on")
	}
}
