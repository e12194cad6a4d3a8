package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/manifest"
)

// withResult is an agent that holds the archive of a result of about n bytes.
func withResult(t *testing.T, u *user, n int) *fakeAgent {
	t.Helper()
	u.file("made/results/model.bin", noise(n))
	u.file("made/stdout.txt", []byte("accuracy 0.97\n"))
	u.file("made/stderr.txt", nil)
	var b bytes.Buffer
	if err := archive.Pack(&b, u.path("made")); err != nil {
		t.Fatal(err)
	}
	f := &fakeAgent{result: b.Bytes()}
	f.serve(t)
	f.state = u.state(stateReady, f.result)
	return f
}

func (u *user) state(name string, result []byte) *agentv1.StateResponse {
	s := &agentv1.StateResponse{State: name, ManifestDigest: u.digest[:]}
	if result != nil {
		sum := manifest.Sum(result)
		s.Result = &agentv1.ResultInfo{Size: uint64(len(result)), Sha256: sum[:]}
	}
	return s
}

func (f *fakeAgent) confirmedWell() bool {
	sum := manifest.Sum(f.result)
	return bytes.Equal(f.confirmed, sum[:])
}

// leftovers are the files of the user's folder that no test put there.
func (u *user) leftovers() []string {
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		u.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "me.pem" && e.Name() != "manifest.json" && e.Name() != "made" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestResultIsUnpackedAndConfirmed(t *testing.T) {
	for name, cuts := range map[string][]int{
		"at once":         nil,
		"before a byte":   {0},
		"in the middle":   {1 << 20},
		"again and again": {1, 2, 70000, 2 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			f := withResult(t, u, 3<<20)
			f.resultCuts = cuts
			o := u.with(f, "result", "--out", u.path("out"), "--json")
			o.wants(t, ExitOK)
			if o.stderr != "" {
				t.Errorf("standard error with --json: %q", o.stderr)
			}
			var done fetched
			if err := json.Unmarshal([]byte(o.stdout), &done); err != nil || done.SHA256 != manifest.Sum(f.result) || done.State != stateReady {
				t.Fatalf("printed %q (%v)", o.stdout, err)
			}
			if !f.confirmedWell() {
				t.Error("the agent was not told")
			}
			if d, _, err := archive.Sum(u.path("out")); err != nil || d != manifest.Sum(f.result) {
				t.Errorf("what was unpacked is not the result: %v", err)
			}
			if got := u.leftovers(); len(got) != 1 {
				t.Errorf("left behind: %q", got)
			}
			if info, err := os.Stat(u.path("out")); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("mode %v, %v; a result is private", info.Mode(), err)
			}
		})
	}
}

func TestResultAsArchive(t *testing.T) {
	u := newUser(t)
	f := withResult(t, u, 1000)
	u.with(f, "result", "--archive", u.path("r.tar")).wants(t, ExitOK, u.path("r.tar"))
	got, err := os.ReadFile(u.path("r.tar"))
	if err != nil || !bytes.Equal(got, f.result) {
		t.Fatalf("another archive: %v", err)
	}
	// Once more: it is there, and only confirmed.
	f.confirmed = nil
	u.with(f, "result", "--archive", u.path("r.tar"), "--json").wants(t, ExitOK, `"already_there":true`)
	if f.count("Result") != 1 || !f.confirmedWell() {
		t.Errorf("%d calls of Result, confirmed %t", f.count("Result"), f.confirmedWell())
	}
}

func TestDownloadResumesWhatAnEarlierRunLeft(t *testing.T) {
	for name, tt := range map[string]struct {
		left func([]byte) []byte
		code int
		from string
	}{
		"a beginning":         {func(b []byte) []byte { return b[:1000] }, ExitOK, `"resumed_from":1000`},
		"all":                 {func(b []byte) []byte { return b }, ExitOK, `"resumed_from":`},
		"too much":            {func(b []byte) []byte { return append(bytes.Clone(b), 1) }, ExitOK, `"resumed_from":0`},
		"all, but damaged":    {func(b []byte) []byte { b = bytes.Clone(b); b[7] ^= 1; return b }, ExitOK, `"resumed_from":0`},
		"a damaged beginning": {func(b []byte) []byte { b = bytes.Clone(b[:1000]); b[7] ^= 1; return b }, ExitFailure, "run the same command again"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			f := withResult(t, u, 100000)
			want := resultInfo{Size: int64(len(f.result)), SHA256: manifest.Sum(f.result)}
			part := partName(u.path("out"), &want)
			u.file(filepath.Base(part), tt.left(f.result))
			u.with(f, "result", "--out", u.path("out"), "--json").wants(t, tt.code, tt.from)
			if _, err := os.Stat(part); err == nil {
				t.Error("the partial file is still there")
			}
			if tt.code == ExitOK {
				return
			}
			if _, err := os.Stat(u.path("out")); err == nil {
				t.Error("a result that does not verify stands under its final name")
			}
			u.with(f, "result", "--out", u.path("out")).wants(t, ExitOK)
		})
	}
}

func TestDownloadThatGivesUpLeavesWhatItHas(t *testing.T) {
	u := newUser(t)
	f := withResult(t, u, 200000)
	f.resultCuts = make([]int, maxTries+2)
	for i := range f.resultCuts {
		f.resultCuts[i] = 1234
	}
	u.with(f, "result", "--out", u.path("out")).wants(t, ExitFailure, "run the same command again")
	if f.confirmed != nil {
		t.Fatal("confirmed a result that is not there")
	}
	f.resultCuts = nil
	u.with(f, "result", "--out", u.path("out"), "--json").wants(t, ExitOK, `"resumed_from":1234`)
}

func TestTwoDownloadsDoNotShareAFile(t *testing.T) {
	u := newUser(t)
	f := withResult(t, u, 1000)
	want := resultInfo{Size: int64(len(f.result)), SHA256: manifest.Sum(f.result)}
	other, err := openPart(partName(u.path("out"), &want))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	u.with(f, "result", "--out", u.path("out")).wants(t, ExitFailure, "another cocos-cli fetches this result")
}

func TestNothingIsOverwritten(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(u *user)
		args []string
	}{
		"a folder with another content": {func(u *user) { u.file("out/results/model.bin", []byte("mine")) }, []string{"--out", "out"}},
		"a file for a folder":           {func(u *user) { u.file("out", []byte("mine")) }, []string{"--out", "out"}},
		"another file":                  {func(u *user) { u.file("out", []byte("mine")) }, []string{"--archive", "out"}},
		"a folder for a file":           {func(u *user) { u.file("out/x", []byte("mine")) }, []string{"--archive", "out"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			f := withResult(t, u, 1000)
			tt.make(u)
			u.with(f, "result", tt.args[0], u.path(tt.args[1])).wants(t, ExitFailure, "exists and is not this result", "choose another place")
			if f.count("Result") != 0 || f.confirmed != nil {
				t.Error("fetched or confirmed all the same")
			}
		})
	}
	t.Run("an empty folder is taken", func(t *testing.T) {
		u := newUser(t)
		f := withResult(t, u, 1000)
		if err := os.Mkdir(u.path("out"), 0o755); err != nil {
			t.Fatal(err)
		}
		u.with(f, "result", "--out", u.path("out")+"/").wants(t, ExitOK)
	})
}

func TestLyingAgents(t *testing.T) {
	for name, tt := range map[string]struct {
		lie  func(u *user, f *fakeAgent)
		want string
	}{
		"another manifest": {func(_ *user, f *fakeAgent) { f.state.ManifestDigest = make([]byte, 32) }, "this is another computation"},
		"no manifest":      {func(_ *user, f *fakeAgent) { f.state.ManifestDigest = nil }, "manifest digest"},
		"a short digest":   {func(_ *user, f *fakeAgent) { f.state.Result.Sha256 = []byte{1} }, "result digest"},
		"a huge result":    {func(_ *user, f *fakeAgent) { f.state.Result.Size = 1 << 60 }, "more than any result may have"},
		"other bytes": {func(_ *user, f *fakeAgent) {
			f.result[600] ^= 1
			f.lie = func(i *agentv1.ResultInfo) { i.Sha256 = f.state.Result.Sha256 }
		}, "the agent announced"},
		"another result": {func(_ *user, f *fakeAgent) { f.result = append(f.result, 0) }, "and now sends one"},
		"too many bytes": {func(_ *user, f *fakeAgent) { f.excess = []byte{1} }, "more bytes came than expected"},
		"an archive that escapes": {func(u *user, f *fakeAgent) {
			f.result = bytes.Replace(f.result, []byte("stdout.txt"), []byte("../out.txt"), 1)
			f.state = u.state(stateReady, f.result)
		}, "unpacking"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			f := withResult(t, u, 1000)
			tt.lie(u, f)
			u.with(f, "result", "--out", u.path("out")).wants(t, ExitFailure, tt.want)
			if f.confirmed != nil {
				t.Error("confirmed")
			}
			for _, name := range u.leftovers() {
				if !strings.HasSuffix(name, ".part") {
					t.Errorf("left behind: %q", name)
				}
			}
		})
	}
}

func TestConfirmationIsTriedAgain(t *testing.T) {
	u := newUser(t)
	f := withResult(t, u, 1000)
	f.confirm = []error{status.Error(codes.Unavailable, "x"), status.Error(codes.Unavailable, "x")}
	u.with(f, "result", "--out", u.path("out")).wants(t, ExitOK)
	if !f.confirmedWell() {
		t.Error("not confirmed")
	}
}

func TestRefusedConfirmationLeavesTheResult(t *testing.T) {
	u := newUser(t)
	f := withResult(t, u, 1000)
	f.confirm = []error{status.Error(codes.Internal, "x")}
	u.with(f, "result", "--out", u.path("out")).wants(t, ExitFailure, "the result is complete and verified in "+u.path("out"))
	u.with(f, "result", "--out", u.path("out"), "--json").wants(t, ExitOK, `"already_there":true`)
	if !f.confirmedWell() || f.count("Result") != 1 {
		t.Errorf("confirmed %t, %d calls of Result", f.confirmedWell(), f.count("Result"))
	}
}

func TestResultOfAFailedComputation(t *testing.T) {
	u := newUser(t)
	f := withResult(t, u, 10)
	f.state = u.state(stateFailed, f.result)
	f.state.Reason = "exit_status"
	u.with(f, "result", "--out", u.path("out")).wants(t, ExitFailure, "the computation failed: exit_status", "stderr.txt")
	if _, err := os.Stat(u.path("out/stderr.txt")); err != nil || !f.confirmedWell() {
		t.Errorf("%v, confirmed %t", err, f.confirmedWell())
	}
}

func TestNoResultYet(t *testing.T) {
	for state, want := range map[string]string{
		stateAwaiting: "awaits algorithm, dataset iris",
		stateRunning:  "the algorithm is running",
		stateStopped:  "state Stopped: host",
		stateFailed:   "state Failed: host",
		"Invented":    "state Invented",
	} {
		u := newUser(t)
		f := &fakeAgent{state: u.state(state, nil)}
		f.serve(t)
		f.state.Reason = "host"
		f.state.Inputs = []*agentv1.InputState{
			{Input: &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_ALGORITHM}, Size: 5},
			{Input: &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_DATASET, Name: "iris"}, Size: 5},
			{Input: &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_DATASET, Name: "done"}, Size: 5, Complete: true},
		}
		u.with(f, "result", "--out", u.path("out")).wants(t, ExitFailure, want)
	}
}

func TestWaitFollowsTheEvents(t *testing.T) {
	u := newUser(t)
	f := withResult(t, u, 10)
	ready := f.state
	f.state = u.state(stateRunning, nil)
	f.events = []*eventv1.Event{
		{Sequence: 1, Kind: "agent.ready"},
		{Sequence: 2, Kind: "agent.state", Attributes: map[string]string{"to": "Running"}},
		{Sequence: 3, Kind: "input.received", Attributes: map[string]string{"to": "ResultReady"}},
		{Sequence: 4, Kind: "agent.state", Attributes: map[string]string{"to": "ResultReady"}},
	}
	f.eventCuts = []int{1, 2, 3}
	f.beforeEvent = func(e *eventv1.Event) {
		if e.GetSequence() == 4 {
			f.state = ready
		}
	}
	u.with(f, "result", "--wait", "--out", u.path("out")).wants(t, ExitOK, "waiting for its result")
}
