package agent_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/manifest"
)

// keeper is a web server that keeps one file.
func keeper(t *testing.T, h http.HandlerFunc) manifest.Source {
	t.Helper()
	w := httptest.NewTLSServer(h)
	t.Cleanup(w.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Certificate().Raw})
	return manifest.Source{URL: w.URL + "/data", Authorities: string(ca)}
}

func keeps(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		http.ServeContent(w, r, "data", time.Time{}, bytes.NewReader(b))
	}
}

// pulled is the test computation with a source for file.bin.
func pulled(t *testing.T, s manifest.Source) manifest.Manifest {
	m := basic(t)
	m.Datasets[0].Source = s
	if s.Broker != "" {
		m.TEE = manifest.TEESim
	}
	return m
}

func sealed(t *testing.T) (id string, file []byte) {
	t.Helper()
	k, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, k.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(fileData); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return k.String(), out.Bytes()
}

func noWait(ctx context.Context, _ time.Duration) error { return ctx.Err() }

// until asks for file.bin's state until it is as wanted.
func (e *env) until(want func(*agentv1.InputState) bool) *agentv1.InputState {
	e.t.Helper()
	c := e.as(everybody().data, manifest.DatasetProvider)
	ctx := e.ctx()
	for {
		r, err := c.UploadStatus(ctx, &agentv1.UploadStatusRequest{Input: dataRef("file.bin")})
		if err != nil {
			e.t.Fatal(err)
		}
		if want(r.GetState()) {
			return r.GetState()
		}
	}
}

func complete(s *agentv1.InputState) bool { return s.GetComplete() }
func stuck(s *agentv1.InputState) bool    { return !s.GetPulling() && s.GetProblem() != "" }

func (e *env) provide(secret string) (*agentv1.InputState, error) {
	e.t.Helper()
	c := e.as(everybody().data, manifest.DatasetProvider)
	r, err := c.Provide(e.ctx(), &agentv1.ProvideRequest{Input: dataRef("file.bin"), Secret: []byte(secret)})
	return r.GetState(), err
}

// told is what a participant's State says of file.bin.
func (e *env) told(as agentv1.AgentServiceClient) *agentv1.InputState {
	e.t.Helper()
	r, err := as.State(e.ctx(), &agentv1.StateRequest{})
	if err != nil {
		e.t.Fatal(err)
	}
	for _, in := range r.GetInputs() {
		if in.GetInput().GetName() == "file.bin" {
			return in
		}
	}
	e.t.Fatal("no file.bin")
	return nil
}

// hostReads fails if the host reads any of the words.
func (e *env) hostReads(not ...string) {
	e.t.Helper()
	lines, _ := e.journal.LinesAfter(0, 1000)
	for _, w := range not {
		for _, l := range lines {
			if strings.Contains(l.Proto(runID, 0).String(), w) {
				e.t.Errorf("the host reads %q in %v", w, l)
			}
		}
		for _, ev := range e.journal.EventsAfter(0) {
			if strings.Contains(ev.Told(runID).String(), w) {
				e.t.Errorf("the host reads %q in %v", w, ev)
			}
		}
	}
}

func TestPulledToResult(t *testing.T) {
	e := start(t, pulled(t, keeper(t, keeps(fileData))))
	if st := e.until(complete); st.GetPulling() || st.GetProblem() != "" || st.GetReceived() != uint64(len(fileData)) {
		t.Errorf("a pulled input is %v", st)
	}
	p := everybody()
	if _, err := e.upload(e.as(p.algo, manifest.AlgorithmProvider), algoRef(), algorithm, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := e.upload(e.as(p.data2, manifest.DatasetProvider), dataRef("folder"), folderData(t), 0); err != nil {
		t.Fatal(err)
	}
	e.wait(agent.ResultReady)
	if n := count(e.kinds(), "input.received"); n != 3 {
		t.Errorf("%d events of inputs", n)
	}
}

func TestPullAwaitsItsSecret(t *testing.T) {
	id, file := sealed(t)
	other, _ := sealed(t)
	s := keeper(t, keeps(file))
	s.Encryption = manifest.Age
	e := start(t, pulled(t, s))
	mine := e.as(everybody().data, manifest.DatasetProvider)
	others := e.as(everybody().consumer, manifest.Consumer)
	if st := e.told(mine); st.GetPulling() || !strings.Contains(st.GetProblem(), "data provide") {
		t.Errorf("its provider is told %v", st)
	}
	if st := e.told(others); !strings.Contains(st.GetProblem(), "its provider is told why") {
		t.Errorf("others are told %v", st)
	}
	if _, err := e.provide(other); err != nil {
		t.Fatal(err)
	}
	if st := e.until(stuck); !strings.Contains(st.GetProblem(), "not encrypted to the given identity") {
		t.Errorf("after another identity: %v", st)
	}
	if left := e.left(); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	if st := e.told(others); strings.Contains(st.GetProblem(), "identity") || st.GetProblem() == "" {
		t.Errorf("others are told %v", st)
	}
	if _, err := e.provide(id); err != nil {
		t.Fatal(err)
	}
	if st := e.until(complete); st.GetProblem() != "" {
		t.Errorf("after the right one: %v", st)
	}
	if st, err := e.provide(id); err != nil || !st.GetComplete() {
		t.Errorf("once more: %v %v", st, err)
	}
	e.hostReads("identity", id, other, "encrypted")
}

// What is at a source and not what the manifest names leaves no trace, and its
// provider can upload the right bytes.
func TestPulledBytesAreCompared(t *testing.T) {
	flipped := bytes.Clone(fileData)
	flipped[len(flipped)/2] ^= 1
	for _, tt := range []struct {
		name  string
		h     http.HandlerFunc
		words string
	}{
		{"one bit flipped", keeps(flipped), "has the SHA-256"},
		{"too short", keeps(fileData[:len(fileData)-1]), "ended after"},
		{"too long", keeps(append(bytes.Clone(fileData), 'x')), "longer than the dataset"},
		{"not there", http.NotFound, "is not at the source"},
		{"locked", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "needs credentials"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := start(t, pulled(t, keeper(t, tt.h)))
			st := e.until(stuck)
			if !strings.Contains(st.GetProblem(), tt.words) || st.GetReceived() != 0 {
				t.Errorf("its provider is told %v, want %q", st, tt.words)
			}
			if left := e.left(); len(left) != 0 {
				t.Errorf("left behind: %q", left)
			}
			if slices.Contains(e.kinds(), "input.received") {
				t.Error("an event says that the input was received")
			}
			e.hostReads(tt.words, "SHA-256")
			st, err := e.upload(e.as(everybody().data, manifest.DatasetProvider), dataRef("file.bin"), fileData, 0)
			if err != nil || !st.GetComplete() || st.GetProblem() != "" {
				t.Errorf("an upload afterwards: %v %v", st, err)
			}
		})
	}
}

func TestCredentialsAfterARefusal(t *testing.T) {
	e := start(t, pulled(t, keeper(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tok3n" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		keeps(fileData)(w, r)
	})))
	if st := e.until(stuck); !strings.Contains(st.GetProblem(), "hand them over") {
		t.Errorf("its provider is told %v", st)
	}
	if _, err := e.provide(`{"bearer":"tok3n"}`); err != nil {
		t.Fatal(err)
	}
	e.until(complete)
}

// An owner's word counts while a pull does not get on, and not while it does.
func TestPullInTroubleMakesWay(t *testing.T) {
	var up atomic.Bool
	s := keeper(t, func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		keeps(fileData)(w, r)
	})
	wait := func(c *agent.Config) {
		c.Sleep = func(ctx context.Context, _ time.Duration) error {
			<-ctx.Done()
			return ctx.Err()
		}
	}
	troubled := func(s *agentv1.InputState) bool { return s.GetPulling() && s.GetProblem() != "" }
	t.Run("provide", func(t *testing.T) {
		e := start(t, pulled(t, s), wait)
		if st := e.until(troubled); !strings.Contains(st.GetProblem(), "trying again") {
			t.Errorf("its provider is told %v", st)
		}
		up.Store(true)
		defer up.Store(false)
		if _, err := e.provide(""); err != nil {
			t.Fatal(err)
		}
		e.until(complete)
	})
	t.Run("upload", func(t *testing.T) {
		e := start(t, pulled(t, s), wait)
		e.until(troubled)
		st, err := e.upload(e.as(everybody().data, manifest.DatasetProvider), dataRef("file.bin"), fileData, 0)
		if err != nil || !st.GetComplete() || st.GetPulling() {
			t.Errorf("got %v %v", st, err)
		}
	})
	t.Run("the agent stops", func(t *testing.T) {
		e := start(t, pulled(t, s), wait)
		e.until(troubled)
		if err := e.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestPullUnderWayIsLeftAlone(t *testing.T) {
	half, goOn := make(chan struct{}), make(chan struct{})
	e := start(t, pulled(t, keeper(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(fileData[:len(fileData)/2])
		_ = http.NewResponseController(w).Flush()
		close(half)
		<-goOn
		_, _ = w.Write(fileData[len(fileData)/2:])
	})))
	<-half
	if st := e.told(e.as(everybody().consumer, manifest.Consumer)); !st.GetPulling() || st.GetComplete() {
		t.Errorf("others are told %v", st)
	}
	_, err := e.provide("")
	refused(t, err, codes.Aborted, rpcerr.UploadBusy)
	_, err = e.upload(e.as(everybody().data, manifest.DatasetProvider), dataRef("file.bin"), fileData, 0)
	refused(t, err, codes.Aborted, rpcerr.UploadBusy)
	close(goOn)
	e.until(complete)
}

func TestKeyBroker(t *testing.T) {
	id, file := sealed(t)
	s := keeper(t, keeps(file))
	s.Encryption, s.Broker, s.Resource = manifest.Age, "https://broker.example", "a/b/c"
	attester := inTEE(host(t))
	release := func(text string, err error) option {
		return func(c *agent.Config) {
			c.Release = func(_ context.Context, asked manifest.Source) ([]byte, error) {
				if asked.Resource != s.Resource {
					return nil, errors.New("another source")
				}
				return []byte(text), err
			}
		}
	}
	t.Run("releases", func(t *testing.T) {
		e := start(t, pulled(t, s), attester, release(id, nil))
		e.until(complete)
	})
	t.Run("releases a salt, too", func(t *testing.T) {
		m := pulled(t, s)
		salt := manifest.Salt{7}
		m.Datasets[0].SHA256, m.Datasets[0].Commitment = manifest.Digest{}, manifest.Commit(salt, manifest.Sum(fileData))
		e := start(t, m, attester, release(`{"age":["`+id+`"],"salt":"`+salt.String()+`"}`, nil))
		e.until(complete)
	})
	for _, tt := range []struct {
		name   string
		option option
		words  string
	}{
		{"refuses", release("", errors.New("the policy\ndoes not fit")), "the policy does not fit"},
		{"releases something else", release(`{"bearer":"`+id+`"}`, nil), "can't be used"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := start(t, pulled(t, s), attester, tt.option)
			if st := e.until(stuck); !strings.Contains(st.GetProblem(), tt.words) || strings.Contains(st.GetProblem(), id) {
				t.Errorf("its provider is told %v", st)
			}
			e.hostReads(tt.words)
			if _, err := e.provide(id); err != nil {
				t.Fatal(err)
			}
			e.until(complete)
		})
	}
	t.Run("does not answer", func(t *testing.T) {
		asked := make(chan struct{})
		e := start(t, pulled(t, s), attester, func(c *agent.Config) {
			c.Release = func(ctx context.Context, _ manifest.Source) ([]byte, error) {
				close(asked)
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		<-asked
		if _, err := e.provide(id); err != nil {
			t.Fatal(err)
		}
		e.until(complete)
	})
}

func TestCommittedDatasetIsPulled(t *testing.T) {
	m := pulled(t, keeper(t, keeps(fileData)))
	salt := manifest.Salt{7}
	m.Datasets[0].SHA256, m.Datasets[0].Commitment = manifest.Digest{}, manifest.Commit(salt, manifest.Sum(fileData))
	e := start(t, m)
	if st := e.until(stuck); !strings.Contains(st.GetProblem(), "salt") {
		t.Errorf("its provider is told %v", st)
	}
	c := e.as(everybody().data, manifest.DatasetProvider)
	send := func(salt []byte, secret string) error {
		_, err := c.Provide(e.ctx(), &agentv1.ProvideRequest{Input: dataRef("file.bin"), Salt: salt, Secret: []byte(secret)})
		return err
	}
	refused(t, send(nil, ""), codes.InvalidArgument, rpcerr.SaltInvalid)
	refused(t, send(salt[:5], ""), codes.InvalidArgument, rpcerr.SaltInvalid)
	refused(t, send(salt[:], `{"salt":"`+salt.String()+`"}`), codes.InvalidArgument, rpcerr.SaltInvalid)
	if err := send(bytes.Repeat([]byte{1}, len(salt)), ""); err != nil {
		t.Fatal(err)
	}
	e.until(func(s *agentv1.InputState) bool {
		return stuck(s) && strings.Contains(s.GetProblem(), "has the SHA-256")
	})
	if err := send(salt[:], ""); err != nil {
		t.Fatal(err)
	}
	e.until(complete)
}

func TestProvideIsRefused(t *testing.T) {
	id, file := sealed(t)
	s := keeper(t, keeps(file))
	s.Encryption = manifest.Age
	e := start(t, pulled(t, s), func(c *agent.Config) { c.Sleep = noWait })
	p := everybody()
	mine := e.as(p.data, manifest.DatasetProvider)
	for _, tt := range []struct {
		name   string
		as     agentv1.AgentServiceClient
		input  *agentv1.InputRef
		secret string
		salt   []byte
		code   codes.Code
		reason rpcerr.Reason
	}{
		{"by another provider", e.as(p.data2, manifest.DatasetProvider), dataRef("file.bin"), id, nil, codes.PermissionDenied, rpcerr.NotProvider},
		{"in another role", e.as(p.algo, manifest.AlgorithmProvider), dataRef("file.bin"), id, nil, codes.PermissionDenied, rpcerr.RoleNotAllowed},
		{"for no input", mine, nil, id, nil, codes.InvalidArgument, rpcerr.InputUnknown},
		{"for an unknown dataset", mine, dataRef("file"), id, nil, codes.NotFound, rpcerr.InputUnknown},
		{"for the algorithm", mine, algoRef(), id, nil, codes.PermissionDenied, rpcerr.RoleNotAllowed},
		{"for a dataset without a source", e.as(p.data2, manifest.DatasetProvider), dataRef("folder"), id, nil, codes.InvalidArgument, rpcerr.InputUnknown},
		{"without a secret", mine, dataRef("file.bin"), "", nil, codes.InvalidArgument, rpcerr.SecretInvalid},
		{"with a secret for something else", mine, dataRef("file.bin"), `{"bearer":"x"}`, nil, codes.InvalidArgument, rpcerr.SecretInvalid},
		{"with more than it takes", mine, dataRef("file.bin"), `{"age":["` + id + `"],"s3":{"access_key":"a","secret_key":"b"}}`, nil, codes.InvalidArgument, rpcerr.SecretInvalid},
		{"with too much", mine, dataRef("file.bin"), id + strings.Repeat("\n", 64<<10), nil, codes.InvalidArgument, rpcerr.SecretInvalid},
		{"with a salt", mine, dataRef("file.bin"), id, make([]byte, 32), codes.InvalidArgument, rpcerr.SaltInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.as.Provide(e.ctx(), &agentv1.ProvideRequest{Input: tt.input, Secret: []byte(tt.secret), Salt: tt.salt})
			refused(t, err, tt.code, tt.reason)
			if strings.Contains(err.Error(), id) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	if st := e.told(mine); st.GetPulling() || st.GetComplete() {
		t.Errorf("afterwards: %v", st)
	}
}

// What would be too many pulls at once waits for the others.
func TestPullsAtOnce(t *testing.T) {
	var under, most atomic.Int64
	full := make(chan struct{})
	source := keeper(t, func(w http.ResponseWriter, r *http.Request) {
		n := under.Add(1)
		defer under.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if n == agent.MaxPulls {
			close(full)
		}
		<-full
		keeps(fileData)(w, r)
	})
	m := pulled(t, source)
	for i := range 2 * agent.MaxPulls {
		d := m.Datasets[0]
		d.Name = fmt.Sprintf("more-%02d", i)
		m.Datasets = append(m.Datasets, d)
	}
	e := start(t, m)
	c := e.as(everybody().data, manifest.DatasetProvider)
	for complete := 0; complete < len(m.Datasets)-1; {
		r, err := c.State(e.ctx(), &agentv1.StateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		complete = 0
		for _, in := range r.GetInputs() {
			if in.GetComplete() {
				complete++
			}
		}
	}
	if most.Load() != agent.MaxPulls {
		t.Errorf("%d were taken at once, want %d", most.Load(), agent.MaxPulls)
	}
}
