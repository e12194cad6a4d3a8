package keybroker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/appraisal"
	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// What the package's client and a client after the documentation alone get.
func TestReleases(t *testing.T) {
	for _, path := range []string{"", "/brokers/a", "/"} {
		w := newWorld(t, path, nil)
		got, err := keybroker.Ask(t.Context(), w.query())
		if err != nil || string(got) != secret {
			t.Fatalf("at %q: %q, %v", path, got, err)
		}
		if r := w.last(); r.Event != keybroker.EventReleased || r.Resource != ownResource || r.Manifest != w.manifest.Digest.String() ||
			r.Computation != "study" || r.Instance != w.vm.Instance.Public().Fingerprint() || r.TEE != attest.Sim || !r.Simulated || r.Remote == "" || r.Reason != "" {
			t.Errorf("recorded as %+v", r)
		}
		w.url = strings.TrimRight(w.url, "/")
		h := w.begin()
		h.broker = w.cfg.URL
		h.prove()
		if a := h.attest(); a.status != 200 || h.token == "" {
			t.Fatalf("attest: %d %s", a.status, a.body)
		}
		if r := w.last(); r.Event != keybroker.EventAccepted {
			t.Errorf("recorded as %+v", r)
		}
		for range 2 { // as often as one likes
			a := h.get(ownResource)
			got, err := unseal(h.key, a.body)
			if a.status != 200 || err != nil || string(got) != secret {
				t.Fatalf("resource: %d %s: %q, %v", a.status, a.body, got, err)
			}
		}
		// The token does what the cookie does.
		a := w.call("GET", "/kbs/v0/resource/"+ownResource, map[string]string{"Authorization": "Bearer " + h.token}, nil)
		if got, err := unseal(h.key, a.body); a.status != 200 || err != nil || string(got) != secret {
			t.Errorf("with the token: %d %s: %v", a.status, a.body, err)
		}
		parts := strings.Split(h.token, ".")
		claims, err := b64.DecodeString(parts[1])
		var c map[string]any
		if err != nil || len(parts) != 3 || json.Unmarshal(claims, &c) != nil || c["iss"] != w.cfg.URL || c["exp"] == nil || c["iat"] == nil ||
			c["jwk"] == nil || c["tee-pubkey"].(map[string]any)["x"] != jwk(h.key)["x"] || c["cocos"].(map[string]any)["simulated"] != true {
			t.Errorf("the token says %s", claims)
		}
	}
}

// An RSA key is served, too.
func TestReleasesToRSA(t *testing.T) {
	w := newWorld(t, "", nil)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	h := w.begin()
	h.runtime["tee-pubkey"] = map[string]any{
		"kty": "RSA", "alg": "RSA-OAEP-256", "n": b64.EncodeToString(k.N.Bytes()), "e": b64.EncodeToString(big.NewInt(int64(k.E)).Bytes()),
	}
	h.prove()
	if a := h.attest(); a.status != 200 {
		t.Fatalf("attest: %d %s", a.status, a.body)
	}
	sealed, err := jose.ParseEncryptedJSON(string(h.get(ownResource).body), []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := sealed.Decrypt(k); err != nil || string(got) != secret {
		t.Errorf("%q, %v", got, err)
	}
}

// flip changes one bit of a member in base64.
func flip(m map[string]any, name string, at int) {
	b, err := base64.StdEncoding.DecodeString(m[name].(string))
	if err != nil {
		panic(err)
	}
	b[at] ^= 1
	m[name] = base64.StdEncoding.EncodeToString(b)
}

// Each attestation is right in all but one thing, releases nothing, and is
// recorded.
func TestRefusesAttestations(t *testing.T) {
	const (
		fits   = "does not accept the evidence"
		atData = "report_data"
	)
	second := newKey(t)
	for name, tt := range map[string]struct {
		world  func(*world)
		before func(*hand) // its evidence is made
		after  func(*hand)
		status int
		kind   string
		detail string
		record string
	}{
		"other runtime data": {after: func(h *hand) { h.runtime["tee-pubkey"] = jwk(newECDSA(t)) }, status: 401, kind: "AttestationError", detail: fits, record: atData},
		"evidence for another nonce": {before: func(h *hand) {
			h.bound = map[string]any{"nonce": "AAAA", "tee-pubkey": h.runtime["tee-pubkey"]}
		}, status: 401, kind: "AttestationError", detail: fits, record: atData},
		"evidence for another broker":   {before: func(h *hand) { h.broker = "https://keys.example" }, status: 401, kind: "AttestationError", detail: fits, record: atData},
		"evidence that binds no broker": {before: func(h *hand) { h.broker = "" }, status: 401, kind: "AttestationError", detail: fits, record: atData},
		"nonce of another session": {before: func(h *hand) {
			_, h.runtime["nonce"] = h.w.auth()
		}, status: 401, kind: "AttestationError", detail: "not that of this session"},
		"nonce of its own": {before: func(h *hand) { h.runtime["nonce"] = "AAAA" }, status: 401, kind: "AttestationError", detail: "not that of this session"},
		"other manifest of the owner's": {after: func(h *hand) {
			h.primary["manifest_digest"] = h.w.other.Digest.String()
		}, status: 401, kind: "AttestationError", detail: fits, record: atData},
		"manifest that was not approved": {world: func(w *world) {
			w.cfg.Manifests, w.cfg.Resources = w.cfg.Manifests[1:], map[string][]byte{otherResource: {1}}
		},
			status: 403, kind: "PolicyDeny", detail: "none that the owner approved"},
		"launched for another manifest": {world: func(w *world) { w.vm.Launch = attest.LaunchDigestsOf([]byte("x")) }, before: func(h *hand) {
			vm := h.w.vm
			vm.Launch = attest.LaunchDigestsOf(h.w.manifest.Raw)
			p, err := vm.Prover(h.w.vm.Attester(), 0) // which was launched for x
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			h.prover = p
		}, status: 401, kind: "AttestationError", detail: fits, record: "host_data"},
		"other instance's key": {after: func(h *hand) {
			h.primary["instance_key"] = base64.StdEncoding.EncodeToString(second.Public().SPKI())
		}, status: 401, kind: "AttestationError", detail: fits, record: atData},
		"second instance": {before: func(h *hand) {
			h.w.known[h.w.manifest.Digest] = second.Public()
		}, status: 401, kind: "AttestationError", detail: "second VM of the same manifest", record: second.Public().Fingerprint()},
		"instance that can't be remembered": {world: func(w *world) {
			w.cfg.Admit = func(keybroker.Instance) error { return errors.New("the disk is full") }
		}, status: 503, kind: "InternalError", detail: "can't remember", record: "the disk is full"},
		"flipped report": {after: func(h *hand) { flip(h.primary["evidence"].(map[string]any), "report", 0x90) }, status: 401, kind: "AttestationError", detail: fits},
		"path turned":    {after: func(h *hand) { h.primary["path"] = 1 }, status: 400, kind: "InvalidRequest", detail: "form cocos/v1", record: "path is 0x1"},
		"policy with another measurement": {world: func(w *world) {
			p := simulation(w.vm)
			p.Simulated.Measurements[0] = append(attest.Hex{1}, p.Simulated.Measurements[0][1:]...)
			w.cfg.Verifier = appraisal.New(p, appraisal.Options{})
		}, status: 401, kind: "AttestationError", detail: "sim.measurement", record: "found 07"},
		"policy with another root": {world: func(w *world) {
			p := simulation(w.vm)
			p.Simulated.Roots[0] = append(attest.Hex{p.Simulated.Roots[0][0] ^ 1}, p.Simulated.Roots[0][1:]...)
			w.cfg.Verifier = appraisal.New(p, appraisal.Options{})
		}, status: 401, kind: "AttestationError", detail: fits},
		"simulation that is not allowed": {world: func(w *world) {
			p := simulation(w.vm)
			p.SNP, p.Simulated = production(p.Simulated.Measurements), nil
			w.cfg.Verifier = appraisal.New(p, appraisal.Options{})
		}, status: 401, kind: "AttestationError", detail: fits},
		"simulation under a production manifest": {world: func(w *world) {
			w.manifest = computation(t, "study", w.url, ownResource, w.owner.Public(), func(m *manifest.Manifest) { m.TEE = manifest.TEESNP })
			w.cfg.Manifests[0] = w.manifest
			w.vm.Launch = attest.LaunchDigestsOf(w.manifest.Raw)
		}, status: 401, kind: "AttestationError", detail: "another TEE", record: `expected "sev-snp"`},
		"empty policy":                        {world: func(w *world) { w.cfg.Verifier = appraisal.New(attest.Policy{}, appraisal.Options{}) }, status: 401, kind: "AttestationError", detail: "can't be appraised", record: "policy"},
		"simulation that passes for hardware": {after: func(h *hand) { h.primary["evidence"].(map[string]any)["type"] = "sev-snp" }, status: 401, kind: "AttestationError", detail: fits},
		"unknown type of evidence":            {after: func(h *hand) { h.primary["evidence"].(map[string]any)["type"] = "cca" }, status: 401, kind: "AttestationError", detail: "evidence.type"},
		"other format":                        {after: func(h *hand) { h.primary["format"] = "cocos/v2" }, status: 400, kind: "InvalidRequest", detail: "cocos/v2"},
		"Trustee's evidence": {after: func(h *hand) {
			h.evidence["primary_evidence"] = map[string]any{"attestation_report": map[string]any{"version": 2}}
		}, status: 400, kind: "InvalidRequest", detail: "protocol's form"},
		"member that is not known":     {after: func(h *hand) { h.primary["more"] = 1 }, status: 400, kind: "InvalidRequest", detail: "protocol's form"},
		"init data":                    {after: func(h *hand) { h.message["init-data"] = map[string]any{"format": "json", "body": "{}"} }, status: 400, kind: "InvalidRequest", detail: "init-data"},
		"additional evidence":          {after: func(h *hand) { h.evidence["additional_evidence"] = `{"nvidia":{}}` }, status: 400, kind: "InvalidRequest", detail: "additional_evidence"},
		"runtime data with more":       {before: func(h *hand) { h.runtime["more"] = "x" }, status: 400, kind: "InvalidRequest", detail: "runtime-data"},
		"no runtime data":              {after: func(h *hand) { delete(h.message, "runtime-data") }, status: 400, kind: "InvalidRequest", detail: "runtime-data"},
		"no key":                       {before: func(h *hand) { delete(h.runtime, "tee-pubkey") }, status: 400, kind: "InvalidRequest", detail: "tee-pubkey"},
		"key for RSA1_5":               {before: func(h *hand) { h.runtime["tee-pubkey"] = rsaJWK(t, 2048, "RSA1_5") }, status: 400, kind: "InvalidRequest", detail: `"RSA1_5"`},
		"RSA key that is too small":    {before: func(h *hand) { h.runtime["tee-pubkey"] = rsaJWK(t, 1024, "RSA-OAEP-256") }, status: 400, kind: "InvalidRequest", detail: "1024 bits"},
		"key for agreement alone":      {before: func(h *hand) { h.runtime["tee-pubkey"].(map[string]any)["alg"] = "ECDH-ES" }, status: 400, kind: "InvalidRequest", detail: `"ECDH-ES"`},
		"key that is on no curve":      {before: func(h *hand) { h.runtime["tee-pubkey"].(map[string]any)["y"] = b64.EncodeToString(make([]byte, 32)) }, status: 400, kind: "InvalidRequest", detail: "tee-pubkey"},
		"private key":                  {before: func(h *hand) { h.runtime["tee-pubkey"].(map[string]any)["d"] = "AAAA" }, status: 400, kind: "InvalidRequest", detail: "tee-pubkey"},
		"no cookie":                    {after: func(h *hand) { h.cookie = "" }, status: 401, kind: "MissingCookie", detail: "kbs-session-id"},
		"cookie twice":                 {after: func(h *hand) { h.cookie += "; " + h.cookie }, status: 401, kind: "MissingCookie", detail: "kbs-session-id"},
		"cookie that was bent":         {after: func(h *hand) { h.cookie = strings.Replace(h.cookie, "=A", "=B", 1) }, status: 401, kind: "SessionExpired", detail: "ask for a new one"},
		"cookie of another session":    {after: func(h *hand) { h.cookie, _ = h.w.auth() }, status: 401, kind: "AttestationError", detail: "not that of this session"},
		"cookie of another broker":     {after: func(h *hand) { h.cookie, _ = newWorld(t, "", nil).auth() }, status: 401, kind: "SessionExpired", detail: "ask for a new one"},
		"challenge that is over":       {after: func(h *hand) { h.w.pass(2 * time.Minute) }, status: 401, kind: "SessionExpired", detail: "is over"},
		"challenge for another TEE":    {before: func(h *hand) { h.cookie, h.runtime["nonce"] = authFor(h.w, "snp") }, status: 401, kind: "AttestationError", detail: "another TEE"},
		"message that is not JSON":     {after: func(h *hand) { h.message = map[string]any{"runtime-data": []any{}} }, status: 400, kind: "InvalidRequest", detail: "runtime-data"},
		"message that is too long":     {after: func(h *hand) { h.message["init-data"] = strings.Repeat("x", 1<<20) }, status: 413, kind: "InvalidRequest", detail: "1048576 bytes"},
		"challenge, after a long wait": {after: func(h *hand) { h.w.pass(2*time.Minute - time.Second) }, status: 200},
		"nothing":                      {status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "", tt.world)
			h := w.begin()
			if tt.before != nil {
				tt.before(h)
			}
			h.prove()
			if tt.after != nil {
				tt.after(h)
			}
			a := h.attest()
			if a.status != tt.status {
				t.Fatalf("status %d %s; want %d", a.status, a.body, tt.status)
			}
			got := h.get(ownResource)
			if a.status == 200 {
				if _, err := unseal(h.key, got.body); err != nil {
					t.Errorf("accepted, but: %d %s", got.status, got.body)
				}
				return
			}
			kind, detail := a.refusal(t)
			if kind != tt.kind || !strings.Contains(detail, tt.detail) {
				t.Errorf("refused as %s: %s; want %s with %q", kind, detail, tt.kind, tt.detail)
			}
			if strings.Contains(detail, "expected") && kind == "AttestationError" {
				t.Errorf("the client is told what would have been accepted: %s", detail)
			}
			w.mu.Lock()
			r := w.records[0]
			w.mu.Unlock()
			if r.Event != keybroker.EventRefused || r.Reason != tt.kind || !strings.Contains(r.Detail, tt.record) {
				t.Errorf("recorded as %+v; want %q", r, tt.record)
			}
			if got.status != 401 {
				t.Errorf("after it, the resource: %d %s", got.status, got.body)
			}
		})
	}
}

func newECDSA(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaJWK(t testing.TB, bits int, alg string) map[string]any {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"kty": "RSA", "alg": alg, "n": b64.EncodeToString(k.N.Bytes()), "e": "AQAB"}
}

func authFor(w *world, tee string) (cookie string, nonce any) {
	a := w.call("POST", "/kbs/v0/auth", nil, map[string]any{"version": "0.4.0", "tee": tee, "extra-params": ""})
	var m map[string]any
	_ = json.Unmarshal(a.body, &m)
	return a.cookie, m["nonce"]
}

// production is a policy for hardware.
func production(measurements []attest.Hex) *attest.SNPPolicy {
	return &attest.SNPPolicy{
		Measurements: measurements, Products: []string{"Milan"}, ChipIDs: []string{attest.AnyID},
		Signers: []string{"vcek"}, MinimumTCB: map[string]attest.SNPTCB{"Milan": {}}, Revocation: attest.CheckNot,
	}
}

// A nonce is answered once, also by the VM itself, and also at the same moment.
func TestNonceOnce(t *testing.T) {
	w := newWorld(t, "", nil)
	h := w.begin()
	h.prove()
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		by   = map[int]int{}
	)
	for range 8 {
		wait.Go(func() {
			a := w.call("POST", "/kbs/v0/attest", map[string]string{"Cookie": h.cookie}, h.message)
			mu.Lock()
			by[a.status]++
			mu.Unlock()
		})
	}
	wait.Wait()
	if by[200] != 1 || by[401] != 7 {
		t.Errorf("statuses %v; want 200 once", by)
	}
	if kind, detail := h.attest().refusal(t); kind != "AttestationError" || !strings.Contains(detail, "answered already") {
		t.Errorf("again: %s: %s", kind, detail)
	}
	// The VM may come back with a new challenge.
	again := w.begin()
	again.prove()
	if a := again.attest(); a.status != 200 {
		t.Errorf("a new challenge: %d %s", a.status, a.body)
	}
}

// Strangers who send their messages slowly keep no VM waiting.
func TestSlowMessagesTakeNoPlace(t *testing.T) {
	w := newWorld(t, "", nil)
	cookie, _ := w.auth()
	const strangers = 80 // more than may attest at once
	var wait sync.WaitGroup
	s := slow{begun: make(chan struct{}), end: make(chan struct{})}
	for range strangers {
		wait.Go(func() {
			r := httptest.NewRequest("POST", "/kbs/v0/attest", s)
			r.Header.Set("Cookie", cookie)
			w.server.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	defer wait.Wait()
	defer close(s.end)
	for range strangers {
		select {
		case <-s.begun:
		case <-time.After(30 * time.Second):
			t.Fatal("not all of the messages are read")
		}
	}
	h := w.begin()
	h.prove()
	if a := h.attest(); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// slow is a body of which nothing comes.
type slow struct{ begun, end chan struct{} }

func (s slow) Read([]byte) (int, error) {
	select {
	case s.begun <- struct{}{}:
		<-s.end
	case <-s.end:
	}
	return 0, io.EOF
}

// A second VM of the manifest is refused while the first goes on.
func TestSecondInstance(t *testing.T) {
	w := newWorld(t, "", nil)
	if _, err := keybroker.Ask(t.Context(), w.query()); err != nil {
		t.Fatal(err)
	}
	twin := w.vm
	twin.Instance = newKey(t)
	q := w.query()
	q.Prove = w.newProver(twin).ForBroker
	_, err := keybroker.Ask(t.Context(), q)
	var p *keybroker.Problem
	if !errors.As(err, &p) || p.Passing || !strings.Contains(p.Text, twin.Instance.Public().Fingerprint()) || !strings.Contains(p.Text, "consent") {
		t.Errorf("the second: %+v", err)
	}
	if _, err := keybroker.Ask(t.Context(), w.query()); err != nil {
		t.Errorf("the first, once more: %v", err)
	}
	w.known[w.manifest.Digest] = twin.Instance.Public() // the owner's consent
	if _, err := keybroker.Ask(t.Context(), q); err != nil {
		t.Errorf("with consent: %v", err)
	}
}

func TestRefusesResources(t *testing.T) {
	w := newWorld(t, "", nil)
	h := w.begin()
	h.prove()
	if a := h.attest(); a.status != 200 {
		t.Fatalf("attest: %d %s", a.status, a.body)
	}
	check := func(name string, a answer, status int, kind string) {
		t.Helper()
		got, detail := a.refusal(t)
		if a.status != status || got != kind {
			t.Errorf("%s: %d %s: %s; want %d %s", name, a.status, got, detail, status, kind)
		}
		if r := w.last(); r.Event != keybroker.EventRefused || r.Reason != kind {
			t.Errorf("%s: recorded as %+v", name, r)
		}
	}
	check("of another manifest", h.get(otherResource), 403, "PolicyDeny")
	check("that is not there", h.get("default/key/nobody"), 404, "ResourceNotFound")
	check("by a shorter name", h.get("default/key"), 404, "ResourceNotFound")
	check("in another spelling", h.get("Default/key/hospital-a"), 404, "ResourceNotFound")
	check("without a cookie", w.call("GET", "/kbs/v0/resource/"+ownResource, nil, nil), 401, "MissingCookie")
	check("with a bent token", w.call("GET", "/kbs/v0/resource/"+ownResource, map[string]string{"Authorization": "Bearer " + h.token + "x"}, nil), 401, "SessionExpired")
	check("with an empty token", w.call("GET", "/kbs/v0/resource/"+ownResource, map[string]string{"Authorization": "Bearer "}, nil), 401, "MissingCookie")
	unattested := w.begin()
	check("before attestation", unattested.get(ownResource), 401, "SessionExpired")
	check("posted", w.call("POST", "/kbs/v0/resource/"+ownResource, map[string]string{"Cookie": h.cookie}, map[string]any{}), 405, "InvalidRequest")
	w.pass(5*time.Minute - time.Second)
	if a := h.get(ownResource); a.status != 200 {
		t.Errorf("just before its end: %d %s", a.status, a.body)
	}
	w.pass(time.Second)
	check("after the session", h.get(ownResource), 401, "SessionExpired")
	check("after the session, by token", w.call("GET", "/kbs/v0/resource/"+ownResource, map[string]string{"Authorization": "Bearer " + h.token}, nil), 401, "SessionExpired")
}

// What can't be recorded is not released.
func TestReleasesNothingUnrecorded(t *testing.T) {
	w := newWorld(t, "", nil)
	h := w.begin()
	h.prove()
	if a := h.attest(); a.status != 200 {
		t.Fatalf("attest: %d %s", a.status, a.body)
	}
	w.mute = true
	a := h.get(ownResource)
	if kind, detail := a.refusal(t); a.status != 503 || kind != "InternalError" || strings.Contains(string(a.body), "ciphertext") {
		t.Errorf("%d %s: %s", a.status, kind, detail)
	}
	_, err := keybroker.Ask(t.Context(), w.query())
	var p *keybroker.Problem
	if !errors.As(err, &p) || !p.Passing {
		t.Errorf("the client has %v", err)
	}
	w.mute = false
	if _, err := keybroker.Ask(t.Context(), w.query()); err != nil {
		t.Error(err)
	}
}

func TestRefusesRequests(t *testing.T) {
	w := newWorld(t, "/kbs", nil)
	right := func() map[string]any { return map[string]any{"version": "0.4.0", "tee": "sample", "extra-params": ""} }
	for name, tt := range map[string]struct {
		body   any
		status int
		kind   string
	}{
		"older version": {func() any { m := right(); m["version"] = "0.1.1"; return m }(), 401, "ProtocolVersion"},
		"newer version": {func() any { m := right(); m["version"] = "0.5.0"; return m }(), 401, "ProtocolVersion"},
		"no version":    {func() any { m := right(); delete(m, "version"); return m }(), 401, "ProtocolVersion"},
		"other TEE":     {func() any { m := right(); m["tee"] = "cca"; return m }(), 401, "InvalidRequest"},
		"no TEE":        {func() any { m := right(); delete(m, "tee"); return m }(), 401, "InvalidRequest"},
		"more":          {func() any { m := right(); m["x"] = 1; return m }(), 400, "InvalidRequest"},
		"no JSON":       {[]byte("version=0.4.0"), 400, "InvalidRequest"},
		"twice":         {[]byte(`{"version":"0.4.0","version":"0.4.0","tee":"sample","extra-params":""}`), 400, "InvalidRequest"},
		"too long":      {func() any { m := right(); m["extra-params"] = strings.Repeat("x", 4<<10); return m }(), 413, "InvalidRequest"},
	} {
		a := w.call("POST", "/kbs/v0/auth", nil, tt.body)
		kind, detail := a.refusal(t)
		if a.status != tt.status || kind != tt.kind || a.cookie != "" {
			t.Errorf("%s: %d %s: %s; want %d %s", name, a.status, kind, detail, tt.status, tt.kind)
		}
	}
	if a := w.call("GET", "/kbs/v0/auth", nil, nil); a.status != 405 {
		t.Errorf("GET: %d", a.status)
	}
	for _, path := range []string{"/kbs/v0/", "/kbs/v1/auth", "/", "/kbs/v0/resource-policy", "/kbs/v0/attestation-policy", "/kbs/v0/auth/"} {
		if a := w.call("POST", path, nil, right()); a.status != 404 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	// Extra parameters in the form of newer clients change nothing.
	m := right()
	m["extra-params"] = map[string]any{"tee-metadata": map[string]any{"primary_tee": map[string]any{"tee": "sample"}}}
	if a := w.call("POST", "/kbs/v0/auth", nil, m); a.status != 200 {
		t.Errorf("extra-params: %d %s", a.status, a.body)
	}
}

// A broker whose configuration would release nothing, or too much, does not begin.
func TestNewServerRefuses(t *testing.T) {
	w := newWorld(t, "", nil)
	stranger := newKey(t)
	foreign := func(edit func(*manifest.Manifest)) []manifest.Frozen {
		return []manifest.Frozen{computation(t, "x", w.url, ownResource, w.owner.Public(), edit)}
	}
	for name, tt := range map[string]struct {
		change func(*keybroker.ServerConfig)
		want   string
	}{
		"no URL":             {func(c *keybroker.ServerConfig) { c.URL = "" }, "not https://"},
		"plain http":         {func(c *keybroker.ServerConfig) { c.URL = "http" + strings.TrimPrefix(c.URL, "https") }, "not https://"},
		"a query":            {func(c *keybroker.ServerConfig) { c.URL += "?a=b" }, "not https://"},
		"no owner":           {func(c *keybroker.ServerConfig) { c.Owner = keys.Public{} }, "incomplete"},
		"no verifier":        {func(c *keybroker.ServerConfig) { c.Verifier = nil }, "incomplete"},
		"nobody remembers":   {func(c *keybroker.ServerConfig) { c.Admit = nil }, "incomplete"},
		"nobody records":     {func(c *keybroker.ServerConfig) { c.Record = nil }, "incomplete"},
		"no manifest":        {func(c *keybroker.ServerConfig) { c.Manifests = nil }, "no manifest was approved"},
		"another broker":     {func(c *keybroker.ServerConfig) { c.URL = "https://keys.example" }, "names no broker https://keys.example"},
		"resource not there": {func(c *keybroker.ServerConfig) { delete(c.Resources, ownResource) }, "which is not given"},
		"resource of no use": {func(c *keybroker.ServerConfig) { c.Resources["default/key/x"] = []byte("x") }, "no manifest names"},
		"resource empty":     {func(c *keybroker.ServerConfig) { c.Resources[ownResource] = []byte{} }, "has 0 bytes"},
		"resource too long":  {func(c *keybroker.ServerConfig) { c.Resources[ownResource] = make([]byte, 64<<10+1) }, "has 65537 bytes"},
		"owner is another":   {func(c *keybroker.ServerConfig) { c.Owner = stranger.Public() }, "/datasets/0 (a) is another provider's"},
		"no TEE": {func(c *keybroker.ServerConfig) {
			// Freezing refuses it, and the broker does by itself, too.
			c.Manifests = foreign(func(*manifest.Manifest) {})
			c.Manifests[0].TEE, c.Manifests[0].AttestedTLS = manifest.TEENone, false
		}, "asks for no TEE"},
		"somebody joins in": {func(c *keybroker.ServerConfig) {
			c.Manifests = foreign(func(m *manifest.Manifest) {
				d := m.Datasets[0]
				d.Name, d.Provider, d.Source.URL = "theirs", stranger.Public(), "https://thief.example/x.age"
				m.Datasets = append(m.Datasets, d)
			})
		}, "/datasets/1 (theirs) is another provider's"},
	} {
		c := w.cfg
		c.Resources = map[string][]byte{}
		for k, v := range w.cfg.Resources {
			c.Resources[k] = v
		}
		tt.change(&c)
		if _, err := keybroker.NewServer(c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}
