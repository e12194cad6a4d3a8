package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// leaveFiles is a runner that succeeds and leaves files in results/.
func leaveFiles(names ...string) runner {
	return func(_ context.Context, job runtime.Job) (runtime.Outcome, error) {
		io.WriteString(job.Stdout, "secret on stdout\n")
		for _, n := range names {
			file := filepath.Join(job.Dir, "results", n)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("secret "+n), 0o644)); err != nil {
				return runtime.Outcome{}, err
			}
		}
		return runtime.Outcome{OutputBytes: 12345}, nil
	}
}

// divided releases models and reports to the first consumer, output to the other.
func divided(t testing.TB) manifest.Manifest {
	m := basic(t)
	p := everybody()
	m.Outputs.Release = []manifest.Release{
		{Consumer: p.consumer.Public(), Files: []string{"model-*", "reports/**"}},
		{Consumer: p.consumer2.Public(), Files: []string{"**/*.csv"}, Output: true},
	}
	return m
}

func TestEachConsumerGetsWhatIsReleasedToIt(t *testing.T) {
	p := everybody()
	e := start(t, divided(t), withRunner(leaveFiles("model-1", "model-1.log/x", "private", "reports/a.csv", "reports/deep/er/b.txt", "empty/of/released", "top.csv")))
	e.uploadAll()
	e.wait(agent.ResultReady)
	digests := map[string]bool{}
	for _, tt := range []struct {
		key   keys.Private
		want  []string
		usage bool
	}{
		{p.consumer, []string{"results/", "results/model-1", "results/reports/", "results/reports/a.csv", "results/reports/deep/", "results/reports/deep/er/", "results/reports/deep/er/b.txt", "run.json"}, false},
		{p.consumer2, []string{"results/", "results/reports/", "results/reports/a.csv", "results/top.csv", "run.json", "stderr.txt", "stdout.txt"}, true},
	} {
		c := e.as(tt.key, manifest.Consumer)
		info, b, err := e.takeResult(c, 0)
		if err != nil {
			t.Fatal(err)
		}
		files := filesOf(t, b)
		if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, tt.want) {
			t.Errorf("the archive has %q,\nwant %q", got, tt.want)
		}
		if got := strings.Contains(files["run.json"], "12345"); got != tt.usage {
			t.Errorf("run.json: %s; want the use of resources: %t", files["run.json"], tt.usage)
		}
		if manifest.Sum(b) != manifest.Digest(info.GetSha256()) || uint64(len(b)) != info.GetSize() {
			t.Error("the archive is not what its info says")
		}
		digests[string(info.GetSha256())] = true
		if st, err := c.State(e.ctx(), &agentv1.StateRequest{}); err != nil || string(st.GetResult().GetSha256()) != string(info.GetSha256()) {
			t.Errorf("the state says another result: %v %v", st, err)
		}
		_, rest, err := e.takeResult(c, 700)
		if err != nil || string(rest) != string(b[700:]) {
			t.Errorf("from 700: %d bytes, %v", len(rest), err)
		}
	}
	if len(digests) != 2 {
		t.Errorf("%d archives for two consumers", len(digests))
	}
	// Nobody confirms, or resumes, what is another's.
	info, _, err := e.takeResult(e.as(p.consumer, manifest.Consumer), 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.as(p.consumer2, manifest.Consumer).ConfirmResult(e.ctx(), &agentv1.ConfirmResultRequest{Sha256: info.GetSha256()})
	refused(t, err, codes.InvalidArgument, rpcerr.ResultMismatch)
	nothingLeaks(t, e)
}

func TestEqualRulesShareAnArchive(t *testing.T) {
	p, m := everybody(), divided(t)
	m.Outputs.Release[0].Files = []string{"a", "b"}
	m.Outputs.Release[1] = manifest.Release{Consumer: p.consumer2.Public(), Files: []string{"b", "a"}}
	e := start(t, m, withRunner(leaveFiles("a", "b", "c")))
	e.uploadAll()
	e.wait(agent.ResultReady)
	one, _, err1 := e.takeResult(e.as(p.consumer, manifest.Consumer), 0)
	two, _, err2 := e.takeResult(e.as(p.consumer2, manifest.Consumer), 0)
	if err1 != nil || err2 != nil || string(one.GetSha256()) != string(two.GetSha256()) {
		t.Errorf("%v %v, %v %v", one, err1, two, err2)
	}
}

// Whoever may not see files or output gets no names of them in a failure, either.
func TestFailureNamesNothingThatIsNotReleased(t *testing.T) {
	p := everybody()
	e := start(t, divided(t), withRunner(func(context.Context, runtime.Job) (runtime.Outcome, error) {
		return runtime.Outcome{}, fmt.Errorf("%w: %q is neither a file nor a folder", runtime.ErrResults, "secret-name")
	}))
	e.uploadAll()
	e.wait(agent.Failed)
	for key, want := range map[*keys.Private]bool{&p.consumer: false, &p.consumer2: true} {
		_, b, err := e.takeResult(e.as(*key, manifest.Consumer), 0)
		if err != nil {
			t.Fatal(err)
		}
		files := filesOf(t, b)
		why := files["failure.txt"]
		if strings.Contains(why, "secret-name") != want || !strings.Contains(why, "can't be released") || files["run.json"] == "" {
			t.Errorf("failure.txt says %q; names what was left: want %t", why, want)
		}
		if _, ok := files["stdout.txt"]; ok != want {
			t.Errorf("standard output is there: %t, want %t", ok, want)
		}
	}
	nothingLeaks(t, e)
}

func TestPaddedArchivesHaveOneSize(t *testing.T) {
	const size = 128 << 10
	p := everybody()
	for name, run := range map[string]runner{
		"nothing": leaveFiles(),
		"much":    leaveFiles("f", "g/h", strings.Repeat("long", 40)),
		"failure": func(context.Context, runtime.Job) (runtime.Outcome, error) { return runtime.Outcome{ExitCode: 3}, nil },
		"too large": func(_ context.Context, job runtime.Job) (runtime.Outcome, error) {
			return runtime.Outcome{}, os.WriteFile(filepath.Join(job.Dir, "results", "x"), make([]byte, size), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := divided(t)
			m.Outputs.Pad, m.Outputs.ResultMax = true, size
			m.Outputs.Release[0].Files = []string{"**"}
			e := start(t, m, withRunner(run))
			e.uploadAll()
			want := agent.ResultReady
			if name == "failure" || name == "too large" {
				want = agent.Failed
			}
			e.wait(want)
			for _, key := range []keys.Private{p.consumer, p.consumer2} {
				info, b, err := e.takeResult(e.as(key, manifest.Consumer), 0)
				if err != nil || len(b) != size || info.GetSize() != size || manifest.Sum(b) != manifest.Digest(info.GetSha256()) {
					t.Errorf("%d bytes, %v %v; want %d", len(b), info, err, size)
				}
				if files := filesOf(t, b); files["run.json"] == "" {
					t.Errorf("the archive has %q", files)
				}
			}
		})
	}
}

func TestReceiptNamesEachConsumersArchive(t *testing.T) {
	p, a := everybody(), host(t)
	m := divided(t)
	m.TEE, m.Approvals = manifest.TEESim, []keys.Public{p.approver.Public()}
	e := start(t, m, inTEE(a), approved, withRunner(leaveFiles("model-1", "x.csv")))
	e.uploadAll()
	e.wait(agent.ResultReady)
	raw, err := askReceipt(e, e.as(p.consumer, manifest.Consumer))
	if err != nil {
		t.Fatal(err)
	}
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := receipt.Verify(t.Context(), raw, receipt.Options{Verifier: accepts(a), Launch: attest.LaunchDigestsOf(f.Raw), Manifest: &f})
	if err != nil {
		t.Fatal(err)
	}
	got := r.Statement.Predicate
	if got.Result != nil || len(got.Results) != 2 {
		t.Fatalf("the receipt says %+v", got)
	}
	for i, key := range []keys.Private{p.consumer, p.consumer2} {
		_, b, err := e.takeResult(e.as(key, manifest.Consumer), 0)
		if err != nil || got.Results[i].Consumer != key.Public().Fingerprint() || got.Results[i].SHA256 != manifest.Sum(b) {
			t.Errorf("archive %d: %v; the receipt says %+v", i, err, got.Results[i])
		}
	}
}

// The host learns that it failed; participants, which limit it broke.
func TestLimitIsForParticipants(t *testing.T) {
	p := everybody()
	e := start(t, basic(t), withRunner(func(context.Context, runtime.Job) (runtime.Outcome, error) {
		return runtime.Outcome{ExitCode: -1, Signal: "SIGKILL", LimitExceeded: runtime.LimitMemory}, nil
	}))
	e.uploadAll()
	e.wait(agent.Failed)
	for _, ev := range e.journal.EventsAfter(0) {
		if text := fmt.Sprint(ev.Proto(runID)); strings.Contains(text, "memory") || strings.Contains(text, "SIGKILL") {
			t.Errorf("the host reads %s", text)
		}
	}
	lines, _ := e.journal.LinesAfter(0, 10_000)
	for _, l := range lines {
		if strings.Contains(l.Message, "memory_bytes") || strings.Contains(l.Message, "SIGKILL") {
			t.Errorf("the host reads %s", l.Message)
		}
	}
	for key, role := range map[*keys.Private]manifest.Role{&p.consumer: manifest.Consumer, &p.data: manifest.DatasetProvider} {
		c := e.as(*key, role)
		st, err := c.State(e.ctx(), &agentv1.StateRequest{})
		if err != nil || st.GetLimit() != runtime.LimitMemory || st.GetReason() != "algorithm-failed" {
			t.Errorf("the state says %v %v", st, err)
		}
		events, err := c.Events(e.ctx(), &agentv1.EventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		limit := ""
		for {
			ev, err := events.Recv()
			if err != nil {
				break
			}
			if ev.GetEvent().GetAttributes()["to"] == "Failed" {
				limit = ev.GetEvent().GetAttributes()["limit"]
			}
		}
		if limit != runtime.LimitMemory {
			t.Errorf("the event to a %s says limit %q", role, limit)
		}
	}
}

// What leaves to the host has a fixed form: no value of it depends on the result.
func TestHostLearnsSuccessOrFailureOnly(t *testing.T) {
	told := func(run runner) (all []string) {
		e := start(t, divided(t), withRunner(run))
		e.uploadAll()
		e.wait(agent.ResultReady)
		for _, key := range []keys.Private{everybody().consumer, everybody().consumer2} {
			c := e.as(key, manifest.Consumer)
			info, _, err := e.takeResult(c, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.ConfirmResult(e.ctx(), &agentv1.ConfirmResultRequest{Sha256: info.GetSha256()}); err != nil {
				t.Fatal(err)
			}
		}
		e.wait(agent.Released)
		for _, ev := range e.journal.EventsAfter(0) {
			m := ev.Proto(runID)
			m.Time = nil
			delete(m.Attributes, "agent_key")       // made anew each time
			delete(m.Attributes, "manifest_digest") // the archives' folders differ by nothing
			all = append(all, m.String())
		}
		lines, _ := e.journal.LinesAfter(0, 10_000)
		for _, l := range lines {
			text, _, _ := strings.Cut(l.Message, " address=") // where it serves
			all = append(all, text)
		}
		slices.Sort(all) // uploads end in their own time
		return all
	}
	none := told(leaveFiles())
	many := told(leaveFiles("model-1", "reports/a", "reports/b", "x.csv", strings.Repeat("n", 200)))
	normal := func(s []string) string { return strings.ReplaceAll(strings.Join(s, "\n"), "  ", " ") }
	if normal(none) != normal(many) {
		t.Errorf("the host can tell\n%s\nfrom\n%s", normal(none), normal(many))
	}
}

func TestOperatorOutput(t *testing.T) {
	p := everybody()
	for _, approvedByAll := range []bool{false, true} {
		m := basic(t)
		var options []option
		if approvedByAll {
			m.Outputs.OperatorOutput = true
			m.Approvals = []keys.Public{p.algo.Public(), p.data.Public(), p.data2.Public(), p.consumer.Public(), p.consumer2.Public()}
			options = append(options, func(c *agent.Config) {
				for _, k := range []keys.Private{p.algo, p.data, p.data2, p.consumer, p.consumer2} {
					a, err := c.Manifest.Approve(k)
					if err != nil {
						t.Fatal(err)
					}
					c.Approvals = append(c.Approvals, a)
				}
			})
		}
		e := start(t, m, append(options, withRunner(func(_ context.Context, job runtime.Job) (runtime.Outcome, error) {
			io.WriteString(job.Stdout, "one\ntwo \x1b[2J")
			io.WriteString(job.Stderr, "three\n"+strings.Repeat("x", 5000))
			return runtime.Outcome{}, nil
		}))...)
		e.uploadAll()
		e.wait(agent.ResultReady)
		var got []string
		lines, _ := e.journal.LinesAfter(0, 10_000)
		for _, l := range lines {
			if l.Output {
				got = append(got, l.Message)
			}
		}
		if !approvedByAll {
			if len(got) > 0 {
				t.Errorf("without approvals the operator reads %q", got)
			}
			continue
		}
		if len(got) != 5 || got[0] != "stdout: one" || got[1] != "stderr: three" || len(got[2]) != 4096 || !strings.HasPrefix(got[3], "stderr: xxx") || got[4] != "stdout: two  [2J" {
			t.Errorf("the operator reads %.80q", got)
		}
		_, b, err := e.takeResult(e.as(p.consumer, manifest.Consumer), 0)
		if files := filesOf(t, b); err != nil || files["stdout.txt"] != "one\ntwo \x1b[2J" {
			t.Errorf("the consumer's stdout.txt is %q, %v", files["stdout.txt"], err)
		}
	}
}

func TestCommitments(t *testing.T) {
	p := everybody()
	salt := manifest.Salt{7, 1: 8}
	m := basic(t)
	m.Algorithm.Commitment, m.Algorithm.SHA256 = manifest.Commit(salt, m.Algorithm.SHA256), manifest.Digest{}
	m.Datasets[0].Commitment, m.Datasets[0].SHA256 = manifest.Commit(salt, m.Datasets[0].SHA256), manifest.Digest{}
	e := start(t, m)
	send := func(key keys.Private, role manifest.Role, ref *agentv1.InputRef, b, salt []byte) error {
		t.Helper()
		s, err := e.as(key, role).Upload(e.ctx())
		if err != nil {
			t.Fatal(err)
		}
		for _, req := range []*agentv1.UploadRequest{
			{Message: &agentv1.UploadRequest_Begin{Begin: &agentv1.UploadBegin{Input: ref, Salt: salt}}},
		} {
			_ = s.Send(req)
		}
		for part := range slices.Chunk(b, 1<<20) {
			_ = s.Send(chunk(part))
		}
		_, err = s.CloseAndRecv()
		return err
	}
	wrong := salt
	wrong[31] ^= 1
	data := func(b, salt []byte) error {
		return send(p.data, manifest.DatasetProvider, dataRef("file.bin"), b, salt)
	}
	refused(t, data(fileData, nil), codes.InvalidArgument, rpcerr.SaltInvalid)
	refused(t, data(fileData, salt[:31]), codes.InvalidArgument, rpcerr.SaltInvalid)
	refused(t, data(fileData, append(salt[:], 0)), codes.InvalidArgument, rpcerr.SaltInvalid)
	refused(t, data(fileData, wrong[:]), codes.InvalidArgument, rpcerr.DigestMismatch)
	other := slices.Clone(fileData)
	other[0] ^= 1
	refused(t, data(other, salt[:]), codes.InvalidArgument, rpcerr.DigestMismatch)
	// A salt has no place where the manifest names the digest.
	refused(t, send(p.data2, manifest.DatasetProvider, dataRef("folder"), folderData(t), salt[:]), codes.InvalidArgument, rpcerr.SaltInvalid)
	if left := e.left(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if err := data(fileData, salt[:]); err != nil {
		t.Fatal(err)
	}
	if err := send(p.algo, manifest.AlgorithmProvider, algoRef(), algorithm, salt[:]); err != nil {
		t.Fatal(err)
	}
	if err := send(p.data2, manifest.DatasetProvider, dataRef("folder"), folderData(t), nil); err != nil {
		t.Fatal(err)
	}
	e.wait(agent.ResultReady)
	nothingLeaks(t, e)
}
