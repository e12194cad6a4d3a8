package keybroker_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/atls/atlstest"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/appraisal"
	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	ownResource   = "default/key/hospital-a"
	otherResource = "default/key/other-study"
	secret        = "AGE-SECRET-KEY-1EXAMPLE"
)

func newKey(t testing.TB) keys.Private {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// computation is a manifest whose one dataset has its key at the broker.
func computation(t testing.TB, id, broker, resource string, provider keys.Public, edit func(*manifest.Manifest)) manifest.Frozen {
	t.Helper()
	m := manifest.Manifest{
		Version: 1, ID: id, Name: id, Nonce: manifest.Nonce{1}, TEE: manifest.TEESim, AttestedTLS: true,
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Digest{1}, Size: 1, Provider: provider},
		Datasets: []manifest.Dataset{{Name: "a", Provider: provider, SHA256: manifest.Digest{2}, Size: 1, Source: manifest.Source{
			URL: "https://data.example/a.age", Encryption: manifest.Age, Broker: broker, Resource: resource,
		}}},
		Consumers: []keys.Public{provider},
	}
	if edit != nil {
		edit(&m)
	}
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// world is a broker with its owner, and a VM of one of two manifests.
type world struct {
	t        testing.TB
	owner    keys.Private
	url      string
	server   *httptest.Server
	manifest manifest.Frozen
	other    manifest.Frozen // with another resource
	vm       atlstest.VM
	prover   *atls.Prover
	cfg      keybroker.ServerConfig

	mu      sync.Mutex
	now     time.Time
	records []keybroker.Record
	known   map[manifest.Digest]keys.Public
	mute    bool // nothing can be recorded
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) record(r keybroker.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mute {
		return errors.New("the log is full")
	}
	w.records = append(w.records, r)
	return nil
}

func (w *world) last() (r keybroker.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.records); n > 0 {
		r = w.records[n-1]
	}
	return r
}

func (w *world) admit(v keybroker.Instance) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k, ok := w.known[v.Manifest]; ok && !k.Equal(v.Key) {
		return fmt.Errorf("%w: %s is known", keybroker.ErrSecondInstance, k.Fingerprint())
	}
	w.known[v.Manifest] = v.Key
	return nil
}

// simulation is a policy that takes VMs of the host that booted what this one did.
func simulation(vm atlstest.VM) attest.Policy {
	_, root := vm.Host.Root()
	return attest.Policy{Version: attest.PolicyVersion, Simulated: &attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{vm.Measurement[:]},
	}}
}

// newWorld starts a broker below path; change is asked before it starts.
func newWorld(t testing.TB, path string, change func(*world)) *world {
	t.Helper()
	w := &world{t: t, owner: newKey(t), now: time.Now(), known: map[manifest.Digest]keys.Public{}}
	w.server = httptest.NewUnstartedServer(nil)
	w.url = "https://" + w.server.Listener.Addr().String() + path
	w.manifest = computation(t, "study", w.url, ownResource, w.owner.Public(), nil)
	w.other = computation(t, "other", w.url, otherResource, w.owner.Public(), nil)
	var err error
	if w.vm, err = atlstest.NewVM(filepath.Join(t.TempDir(), "host"), w.manifest.Raw); err != nil {
		t.Fatal(err)
	}
	w.cfg = keybroker.ServerConfig{
		URL: w.url, Owner: w.owner.Public(), Manifests: []manifest.Frozen{w.manifest, w.other},
		Verifier:  appraisal.New(simulation(w.vm), appraisal.Options{}),
		Resources: map[string][]byte{ownResource: []byte(secret), otherResource: []byte("another key")},
		Admit:     w.admit, Record: w.record, Now: w.clock,
	}
	if change != nil {
		change(w)
	}
	w.prover = w.newProver(w.vm)
	s, err := keybroker.NewServer(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.server.Config.Handler = s
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	return w
}

func (w *world) newProver(vm atlstest.VM) *atls.Prover {
	w.t.Helper()
	p, err := vm.Prover(vm.Attester(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	return p
}

// query asks with the package's client.
func (w *world) query() keybroker.Query {
	return keybroker.Query{
		Client: w.server.Client(), Broker: w.url, Resource: ownResource,
		Manifest: w.manifest.Digest, TEE: attest.Sim, Prove: w.prover.ForBroker,
	}
}

// hand speaks the documented protocol word by word, and may bend each.
type hand struct {
	w      *world
	cookie string
	nonce  string
	key    *ecdsa.PrivateKey
	token  string

	runtime  map[string]any
	primary  map[string]any
	evidence map[string]any
	message  map[string]any
	// bound is what the evidence is made for, if not the runtime data.
	bound map[string]any
	// broker is what the evidence is made for, and prover who makes it.
	broker string
	prover *atls.Prover
}

// answer is a response that was read.
type answer struct {
	status int
	body   []byte
	cookie string
}

// refusal reads an error of the protocol's form.
func (a answer) refusal(t testing.TB) (kind, detail string) {
	t.Helper()
	var m map[string]string
	const prefix = "https://github.com/confidential-containers/kbs/errors/"
	if err := json.Unmarshal(a.body, &m); err != nil || len(m) != 2 || !strings.HasPrefix(m["type"], prefix) || m["detail"] == "" {
		t.Fatalf("status %d with %q is no error of the protocol: %v", a.status, a.body, err)
	}
	return strings.TrimPrefix(m["type"], prefix), m["detail"]
}

func (w *world) call(method, path string, header map[string]string, body any) answer {
	w.t.Helper()
	var b []byte
	switch v := body.(type) {
	case nil:
	case []byte:
		b = v
	default:
		var err error
		if b, err = json.Marshal(v); err != nil {
			w.t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, bytes.NewReader(b))
	if err != nil {
		w.t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	response, err := w.server.Client().Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode}
	if a.body, err = io.ReadAll(response.Body); err != nil {
		w.t.Fatal(err)
	}
	if set := response.Header.Get("Set-Cookie"); set != "" {
		a.cookie, _, _ = strings.Cut(set, ";")
	}
	return a
}

func (w *world) auth() (cookie, nonce string) {
	w.t.Helper()
	a := w.call("POST", "/kbs/v0/auth", nil, map[string]any{"version": "0.4.0", "tee": "sample", "extra-params": ""})
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil || a.status != 200 || m["extra-params"] != "" || len(m) != 2 {
		w.t.Fatalf("auth: %d %s", a.status, a.body)
	}
	return a.cookie, m["nonce"].(string)
}

// begin has a challenge, and what would answer it.
func (w *world) begin() *hand {
	w.t.Helper()
	h := &hand{w: w, broker: w.url, prover: w.prover}
	h.cookie, h.nonce = w.auth()
	var err error
	if h.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		w.t.Fatal(err)
	}
	h.runtime = map[string]any{"nonce": h.nonce, "tee-pubkey": jwk(h.key)}
	h.primary = map[string]any{"format": "cocos/v1", "manifest_digest": w.manifest.Digest.String()}
	h.evidence = map[string]any{"primary_evidence": h.primary, "additional_evidence": ""}
	h.message = map[string]any{"runtime-data": h.runtime, "tee-evidence": h.evidence}
	return h
}

// prove makes the evidence for what is bound.
func (h *hand) prove() {
	h.w.t.Helper()
	bound := h.bound
	if bound == nil {
		bound = h.runtime
	}
	b, err := json.Marshal(bound) // sorts its keys: canonical for these texts
	if err != nil {
		h.w.t.Fatal(err)
	}
	e, err := h.prover.ForBroker(h.w.t.Context(), h.broker, sha512.Sum512(b))
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.primary["instance_key"] = base64.StdEncoding.EncodeToString(e.Instance)
	h.primary["path"] = e.Path
	var report map[string]any
	if err := json.Unmarshal(e.Report, &report); err != nil {
		h.w.t.Fatal(err)
	}
	h.primary["evidence"] = report
}

func (h *hand) attest() answer {
	h.w.t.Helper()
	a := h.w.call("POST", "/kbs/v0/attest", map[string]string{"Cookie": h.cookie}, h.message)
	var m map[string]string
	if a.status == 200 && json.Unmarshal(a.body, &m) == nil {
		h.token = m["token"]
	}
	return a
}

func (h *hand) get(name string) answer {
	h.w.t.Helper()
	return h.w.call("GET", "/kbs/v0/resource/"+name, map[string]string{"Cookie": h.cookie}, nil)
}
