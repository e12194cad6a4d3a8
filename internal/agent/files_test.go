package agent_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
)

var requirements = []byte("base==1.5\n")

// withFiles is basic with requirements and a folder beside the algorithm, as packages.
func withFiles(t testing.TB) manifest.Manifest {
	m, folder := basic(t), folderData(t)
	m.Datasets = nil
	m.Algorithm.Files = []manifest.File{
		{Name: "requirements.txt", SHA256: manifest.Sum(requirements), Size: int64(len(requirements))},
		{Name: "wheels", SHA256: manifest.Sum(folder), Size: int64(len(folder)), UnpackedMax: 8},
	}
	m.Algorithm.Python = manifest.Packages{Requirements: "requirements.txt", Wheels: "wheels"}
	return m
}

func fileRef(name string) *agentv1.InputRef {
	return &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_FILE, Name: name}
}

func (e *env) uploadFiles() {
	e.t.Helper()
	c := e.as(everybody().algo, manifest.AlgorithmProvider)
	for _, up := range []struct {
		ref  *agentv1.InputRef
		data []byte
	}{{algoRef(), algorithm}, {fileRef("requirements.txt"), requirements}, {fileRef("wheels"), folderData(e.t)}} {
		if st, err := e.upload(c, up.ref, up.data, 0); err != nil || !st.GetComplete() {
			e.t.Fatalf("%v: %v, %v", up.ref, st, err)
		}
	}
}

// TestFilesAreInPlace: the runtime finds them in files/, and what packages are of.
func TestFilesAreInPlace(t *testing.T) {
	m := withFiles(t)
	seen := make(chan string, 1)
	e := start(t, m, withRunner(func(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
		text, _ := os.ReadFile(filepath.Join(job.Dir, "files", job.Python.Requirements))
		inside, _ := os.ReadFile(filepath.Join(job.Dir, "files", job.Python.Wheels, "sub", "x.csv"))
		seen <- string(text) + string(inside)
		return succeed(ctx, job)
	}))
	e.uploadFiles()
	if got := <-seen; got != "base==1.5\n1,2\n" {
		t.Errorf("the algorithm saw %q", got)
	}
	e.wait(agent.ResultReady)
}

// Each upload is right in all but one thing.
func TestFilesThatAreRefused(t *testing.T) {
	p := everybody()
	m := withFiles(t)
	m.Datasets = []manifest.Dataset{{Name: "requirements.txt", Provider: p.data.Public(), SHA256: manifest.Sum(requirements), Size: int64(len(requirements))}}
	e := start(t, m)
	provider := e.as(p.algo, manifest.AlgorithmProvider)
	other := append([]byte("c"), requirements[1:]...)
	_, err := e.upload(provider, fileRef("requirements.txt"), other, 0)
	refused(t, err, codes.InvalidArgument, rpcerr.DigestMismatch)
	_, err = e.upload(provider, fileRef("wheels"), folderData(t)[:512], 0)
	refused(t, err, codes.InvalidArgument, rpcerr.SizeShort)
	_, err = e.upload(e.as(p.data, manifest.DatasetProvider), fileRef("requirements.txt"), requirements, 0)
	refused(t, err, codes.PermissionDenied, rpcerr.RoleNotAllowed)
	_, err = e.upload(provider, dataRef("requirements.txt"), requirements, 0)
	refused(t, err, codes.PermissionDenied, rpcerr.RoleNotAllowed)
	for _, name := range []string{"requirements.txt", "wheels"} {
		if e.held(provider, fileRef(name)) != 0 {
			t.Errorf("something is kept of %s", name)
		}
	}
}

// TestPackagesFailed: consumers learn it, with pip's words; the host does not.
func TestPackagesFailed(t *testing.T) {
	for name, tt := range map[string]struct {
		outcome runtime.Outcome
		says    string
	}{
		"by status": {runtime.Outcome{PackagesFailed: true, ExitCode: 1}, "pip ended with status 1"},
		"by signal": {runtime.Outcome{PackagesFailed: true, ExitCode: -1, Signal: "SIGSEGV"}, "pip ended with the signal SIGSEGV"},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, withFiles(t), withRunner(func(_ context.Context, job runtime.Job) (runtime.Outcome, error) {
				_, err := io.WriteString(job.Stderr, "no secret wheel\n")
				return tt.outcome, err
			}))
			e.uploadFiles()
			e.wait(agent.Failed)
			_, b, err := e.takeResult(e.as(everybody().consumer, manifest.Consumer), 0)
			if err != nil {
				t.Fatal(err)
			}
			got := filesOf(t, b)
			if why := got["failure.txt"]; !strings.Contains(why, "could not be installed") || !strings.Contains(why, tt.says) || got["stderr.txt"] != "no secret wheel\n" {
				t.Errorf("the archive has %q", got)
			}
			// The status is not the algorithm's: it was not started.
			if story := got["run.json"]; strings.Contains(story, "exit_status") || strings.Contains(story, "signal") || !strings.Contains(story, `"reason": "algorithm-failed"`) {
				t.Errorf("run.json says %s", story)
			}
			nothingLeaks(t, e)
		})
	}
}
