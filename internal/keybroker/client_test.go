package keybroker_test

import (
	"context"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/keybroker"
	"github.com/ultravioletrs/cocos/manifest"
)

// kbs is a second broker, of the documentation's words alone: it shares nothing with
// the package. It takes whatever evidence there is, and notes what it was sent.
type kbs struct {
	t      *testing.T
	server *httptest.Server
	got    map[string]any // by path
	bound  [sha512.Size]byte

	// What a test bends.
	challenge map[string]any
	cookie    string
	status    map[string]int // by path
	problem   any
	header    func(map[string]any)
	jwe       func(map[string]any)
	resource  []byte
	key       map[string]any // to which it encrypts; nil: the one that was sent
	attestAs  string         // the cookie that it sets with the token
}

const kbsSession = "kbs-session-id=4b2f7cbd8a2f4f4b8a2c0d6ce4a1d2aa"

func newKBS(t *testing.T) *kbs {
	k := &kbs{
		t: t, got: map[string]any{}, status: map[string]int{}, cookie: kbsSession + "; Path=/",
		challenge: map[string]any{"nonce": "lA8rMTrXoxjrGbvZkkEMH0FNJyZ0/9zZ3yV6Iw5Y3nM=", "extra-params": ""},
		resource:  []byte(secret),
	}
	k.server = httptest.NewTLSServer(k)
	t.Cleanup(k.server.Close)
	return k
}

func (k *kbs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := r.Method + " " + r.URL.Path
	b, err := io.ReadAll(r.Body)
	if err != nil {
		k.t.Error(err)
	}
	var message map[string]any
	if len(b) > 0 {
		if err := json.Unmarshal(b, &message); err != nil || r.Header.Get("Content-Type") != "application/json" {
			k.t.Errorf("%s: %q is no JSON: %v", what, b, err)
		}
	}
	k.got[what] = message
	if want := kbsSession; what != "POST /kbs/v0/auth" && r.Header.Get("Cookie") != want && k.attestAs == "" {
		k.t.Errorf("%s: the cookie is %q", what, r.Header.Get("Cookie"))
	}
	reply := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		if s := k.status[what]; s != 0 {
			v = k.problem
			w.WriteHeader(s)
		}
		_ = json.NewEncoder(w).Encode(v)
	}
	switch what {
	case "POST /kbs/v0/auth":
		if k.cookie != "" {
			w.Header().Set("Set-Cookie", k.cookie)
		}
		reply(k.challenge)
	case "POST /kbs/v0/attest":
		runtime := message["runtime-data"].(map[string]any)
		if runtime["nonce"] != k.challenge["nonce"] {
			k.t.Errorf("the nonce is %v", runtime["nonce"])
		}
		if k.key == nil {
			k.key = runtime["tee-pubkey"].(map[string]any)
		}
		canonical, err := json.Marshal(map[string]any{"nonce": runtime["nonce"], "tee-pubkey": runtime["tee-pubkey"]})
		if err != nil || sha512.Sum512(canonical) != k.bound {
			k.t.Errorf("the evidence is not for %s", canonical)
		}
		if k.attestAs != "" {
			w.Header().Set("Set-Cookie", k.attestAs)
		}
		reply(map[string]any{"token": "e30.e30.AA"})
	case "GET /kbs/v0/resource/default/key/hospital-a":
		if k.attestAs != "" && r.Header.Get("Cookie") != k.attestAs {
			k.t.Errorf("%s: the cookie is %q", what, r.Header.Get("Cookie"))
		}
		m, err := sealFor(k.key, k.resource, k.header)
		if err != nil {
			k.t.Error(err)
		}
		if k.jwe != nil {
			k.jwe(m)
		}
		reply(m)
	default:
		http.NotFound(w, r)
	}
}

func (k *kbs) query() keybroker.Query {
	return keybroker.Query{
		Client: k.server.Client(), Broker: k.server.URL, Resource: ownResource, Manifest: manifest.Digest{7}, TEE: attest.SNP,
		Prove: func(_ context.Context, broker string, data [sha512.Size]byte) (atls.BrokerEvidence, error) {
			if broker != k.server.URL {
				k.t.Errorf("evidence is asked for the broker %q", broker)
			}
			k.bound = data
			return atls.BrokerEvidence{Instance: []byte("instance"), Path: 1, Siblings: [][]byte{make([]byte, 32)}, Report: []byte(`{"type":"sev-snp","report":"AAAA"}`)}, nil
		},
	}
}

// shape is JSON with the kinds of its values in their place, but for those given.
func shape(v any, literal ...string) any {
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for k, x := range v {
			m[k] = shape(x, literal...)
		}
		return m
	case string:
		if slices.Contains(literal, v) {
			return v
		}
		return "$string"
	case float64:
		return "$number"
	case []any:
		var all []any
		for _, x := range v {
			all = append(all, shape(x, literal...))
		}
		return all
	}
	return v
}

// The messages have the members of the protocol's documentation, version 0.4.0, and
// in the place that it leaves to a TEE those of docs/key-broker.md.
func TestClientSpeaksTheProtocol(t *testing.T) {
	k := newKBS(t)
	got, err := keybroker.Ask(t.Context(), k.query())
	if err != nil || string(got) != secret {
		t.Fatalf("%q, %v", got, err)
	}
	want := map[string]string{
		"POST /kbs/v0/auth": `{"extra-params":"","tee":"snp","version":"0.4.0"}`,
		"POST /kbs/v0/attest": `{"runtime-data":{"nonce":"$string","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"$string","y":"$string"}},` +
			`"tee-evidence":{"additional_evidence":"","primary_evidence":{"evidence":{"report":"$string","type":"sev-snp"},"format":"cocos/v1",` +
			`"instance_key":"$string","manifest_digest":"$string","path":"$number","siblings":["$string"]}}}`,
		"GET /kbs/v0/resource/default/key/hospital-a": `null`,
	}
	for what, text := range want {
		b, err := json.Marshal(shape(k.got[what], "", "0.4.0", "snp", "sev-snp", "cocos/v1", "EC", "P-256", "ECDH-ES+A256KW"))
		if k.got[what].(map[string]any) == nil {
			b = []byte("null")
		}
		if err != nil || string(b) != text {
			t.Errorf("%s:\n got %s\nwant %s", what, b, text)
		}
	}
	if len(k.got) != len(want) {
		t.Errorf("it called %v", slices.Sorted(maps.Keys(k.got)))
	}
	for kind, name := range map[attest.Type]string{attest.SNP: "snp", attest.TDX: "tdx", attest.SGX: "sgx", attest.Sim: "sample"} {
		k := newKBS(t)
		q := k.query()
		q.TEE = kind
		if _, err := keybroker.Ask(t.Context(), q); err != nil || k.got["POST /kbs/v0/auth"].(map[string]any)["tee"] != name {
			t.Errorf("%s: %v, %v", kind, k.got["POST /kbs/v0/auth"], err)
		}
	}
}

// What brokers may do, and this client takes.
func TestClientTakes(t *testing.T) {
	for name, bend := range map[string]func(*kbs){
		"extra parameters":    func(k *kbs) { k.challenge["extra-params"] = map[string]any{"a": 1} },
		"more in a challenge": func(k *kbs) { k.challenge["more"] = true },
		"an empty aad":        func(k *kbs) { k.jwe = func(m map[string]any) { m["aad"] = "" } },
		"a new cookie":        func(k *kbs) { k.attestAs = "kbs-session-id=new" },
		"a large resource":    func(k *kbs) { k.resource = make([]byte, keybroker.MaxResource) },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKBS(t)
			bend(k)
			if got, err := keybroker.Ask(t.Context(), k.query()); err != nil || string(got) != string(k.resource) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// Each broker is right in all but one thing. What may pass is told from what won't.
func TestClientRefuses(t *testing.T) {
	const (
		auth = "POST /kbs/v0/auth"
		atte = "POST /kbs/v0/attest"
		get  = "GET /kbs/v0/resource/default/key/hospital-a"
	)
	problem := func(kind, detail string) map[string]any {
		return map[string]any{"type": "https://github.com/confidential-containers/kbs/errors/" + kind, "detail": detail}
	}
	bent := func(name string) func(*kbs) {
		return func(k *kbs) {
			k.jwe = func(m map[string]any) {
				b, err := b64.DecodeString(m[name].(string))
				if err != nil {
					t.Fatal(err)
				}
				b[len(b)-1] ^= 1
				m[name] = b64.EncodeToString(b)
			}
		}
	}
	for name, tt := range map[string]struct {
		bend    func(*kbs)
		query   func(*keybroker.Query)
		want    string
		passing bool
	}{
		"plain VM":   {query: func(q *keybroker.Query) { q.TEE = "" }, want: "not in a TEE"},
		"plain http": {query: func(q *keybroker.Query) { q.Broker = "http" + strings.TrimPrefix(q.Broker, "https") }, want: "https alone"},
		"no address": {query: func(q *keybroker.Query) { q.Broker = "https:///x" }, want: "is none"},
		"no evidence": {query: func(q *keybroker.Query) {
			q.Prove = func(context.Context, string, [64]byte) (atls.BrokerEvidence, error) {
				return atls.BrokerEvidence{}, errors.New("the TEE is busy")
			}
		}, want: "the TEE is busy", passing: true},
		"wrong CA": {query: func(q *keybroker.Query) {
			q.Client = &http.Client{Transport: &http.Transport{TLSClientConfig: q.Client.Transport.(*http.Transport).TLSClientConfig.Clone()}}
			q.Client.Transport.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
		}, want: "certificate", passing: true},
		"another's name": {query: func(q *keybroker.Query) {
			q.Client = &http.Client{Transport: q.Client.Transport.(*http.Transport).Clone()}
			q.Client.Transport.(*http.Transport).TLSClientConfig.ServerName = "keys.invalid"
		}, want: "certificate", passing: true},
		"not there":          {bend: func(k *kbs) { k.server.Close() }, want: "can't be reached", passing: true},
		"no cookie":          {bend: func(k *kbs) { k.cookie = "" }, want: "without the cookie"},
		"another cookie":     {bend: func(k *kbs) { k.cookie = "session=1" }, want: "without the cookie"},
		"no nonce":           {bend: func(k *kbs) { delete(k.challenge, "nonce") }, want: "nonce of 0 bytes"},
		"nonce too long":     {bend: func(k *kbs) { k.challenge["nonce"] = strings.Repeat("n", 1025) }, want: "nonce of 1025 bytes"},
		"nonce is no text":   {bend: func(k *kbs) { k.challenge["nonce"] = 42 }, want: "not JSON of the protocol's form"},
		"challenge too long": {bend: func(k *kbs) { k.challenge["x"] = strings.Repeat("n", 4096) }, want: "more than 4096 bytes"},
		"version refused":    {bend: func(k *kbs) { k.status[auth], k.problem = 401, problem("ProtocolVersion", "Version Mismatch") }, want: "(status 401) Version Mismatch"},
		"evidence refused": {bend: func(k *kbs) {
			k.status[atte], k.problem = 401, problem("AttestationError", "verify TEE evidence failed")
		}, want: "verify TEE evidence failed"},
		"session over":          {bend: func(k *kbs) { k.status[atte], k.problem = 401, problem("SessionExpired", "begin anew") }, want: "session is over", passing: true},
		"denied":                {bend: func(k *kbs) { k.status[get], k.problem = 403, problem("PolicyDeny", "Access denied by policy") }, want: "(status 403) Access denied by policy"},
		"resource not there":    {bend: func(k *kbs) { k.status[get], k.problem = 404, problem("PluginNotFound", "nothing") }, want: "(status 404) nothing"},
		"error that is no JSON": {bend: func(k *kbs) { k.status[get], k.problem = 403, "<html>" }, want: "(status 403) Forbidden"},
		"control characters":    {bend: func(k *kbs) { k.status[get], k.problem = 403, problem("PolicyDeny", "a\x1b[2Jb\nc") }, want: "a [2Jb c"},
		"long words":            {bend: func(k *kbs) { k.status[get], k.problem = 403, problem("PolicyDeny", strings.Repeat("é", 401)) }, want: strings.Repeat("é", 400) + "…"},
		"overloaded":            {bend: func(k *kbs) { k.status[atte], k.problem = 503, problem("Busy", "later") }, want: "can't answer now", passing: true},
		"broken":                {bend: func(k *kbs) { k.status[auth], k.problem = 500, nil }, want: "Internal Server Error", passing: true},
		"asked too often":       {bend: func(k *kbs) { k.status[auth], k.problem = 429, nil }, want: "Too Many Requests", passing: true},
		"redirect":              {bend: func(k *kbs) { k.status[auth] = 307 }, want: "sends the agent elsewhere (status 307)"},
		"token too long":        {bend: func(k *kbs) { k.status[atte], k.problem = 200, strings.Repeat("x", 64<<10) }, want: "more than 65536 bytes"},
		"encrypted to another":  {bend: func(k *kbs) { k.key = jwk(newECDSA(t)) }, want: "not encrypted to the key"},
		"header bent":           {bend: func(k *kbs) { k.jwe = func(m map[string]any) { m["protected"] = "A" + m["protected"].(string)[1:] } }, want: "can't be read"},
		"encrypted key bent":    {bend: bent("encrypted_key"), want: "not encrypted to the key"},
		"iv bent":               {bend: bent("iv"), want: "not encrypted to the key"},
		"ciphertext bent":       {bend: bent("ciphertext"), want: "not encrypted to the key"},
		"tag bent":              {bend: bent("tag"), want: "not encrypted to the key"},
		"aad added":             {bend: func(k *kbs) { k.jwe = func(m map[string]any) { m["aad"] = "AAAA" } }, want: "not encrypted to the key"},
		"other algorithm":       {bend: func(k *kbs) { k.header = func(m map[string]any) { m["alg"] = "ECDH-ES+A128KW" } }, want: "not a JWE"},
		"no key encryption":     {bend: func(k *kbs) { k.header = func(m map[string]any) { m["alg"] = "dir" } }, want: "not a JWE"},
		"weaker encryption":     {bend: func(k *kbs) { k.header = func(m map[string]any) { m["enc"] = "A128CBC-HS256" } }, want: "not a JWE"},
		"in the clear":          {bend: func(k *kbs) { k.status[get], k.problem = 200, secret }, want: "not a JWE"},
		"resource too long":     {bend: func(k *kbs) { k.resource = make([]byte, keybroker.MaxResource+1) }, want: "has 65537 bytes"},
		"answer too long":       {bend: func(k *kbs) { k.resource = make([]byte, 4*keybroker.MaxResource) }, want: "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKBS(t)
			k.server.Config.ErrorLog = nil
			if tt.bend != nil {
				tt.bend(k)
			}
			q := k.query()
			if tt.query != nil {
				tt.query(&q)
			}
			got, err := keybroker.Ask(t.Context(), q)
			var p *keybroker.Problem
			if !errors.As(err, &p) || p.Passing != tt.passing || !strings.Contains(p.Text, tt.want) || got != nil {
				t.Errorf("%q, %#v; want %q, passing %t", got, err, tt.want, tt.passing)
			}
		})
	}
}

// A redirect takes nothing along, and cookies of a shared client stay where they are.
func TestClientStaysWithItsBroker(t *testing.T) {
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was asked", r.Method, r.URL)
	}))
	t.Cleanup(elsewhere.Close)
	broker := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(broker.Close)
	q := newKBS(t).query()
	q.Client, q.Broker = broker.Client(), broker.URL
	if _, err := keybroker.Ask(t.Context(), q); err == nil {
		t.Error("no error")
	}
	k := newKBS(t)
	q = k.query()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Client.Jar = jar
	for range 2 {
		k.key = nil
		if _, err := keybroker.Ask(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	r, _ := http.NewRequest(http.MethodGet, k.server.URL, nil)
	if n := len(jar.Cookies(r.URL)); n != 0 {
		t.Errorf("the client's jar has %d cookies", n)
	}
}

// An end of the caller's is its own error.
func TestClientEnds(t *testing.T) {
	k := newKBS(t)
	ctx, cancel := context.WithCancel(t.Context())
	q := k.query()
	q.Prove = func(ctx context.Context, _ string, _ [64]byte) (atls.BrokerEvidence, error) {
		cancel()
		<-ctx.Done()
		return atls.BrokerEvidence{}, fmt.Errorf("waiting: %w", ctx.Err())
	}
	if _, err := keybroker.Ask(ctx, q); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	q = k.query()
	if _, err := keybroker.Ask(ctx, q); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// A broker that never comes to an end is given up, though the caller would wait, and
// may be asked again.
func TestClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, answer := range map[string]roundTripper{
			"no answer": func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			},
			"a byte at a time": func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusOK, Body: dripping{r.Context()}}, nil
			},
		} {
			q := keybroker.Query{Client: &http.Client{Transport: answer}, Broker: "https://keys.example", Resource: ownResource, TEE: attest.SNP}
			begun := time.Now()
			_, err := keybroker.Ask(context.Background(), q)
			var p *keybroker.Problem
			if took := time.Since(begun); !errors.As(err, &p) || !p.Passing || took != 3*time.Minute {
				t.Errorf("%s: %v after %v", name, err, took)
			}
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// dripping has a byte in ten seconds until its request ends.
type dripping struct{ ctx context.Context }

func (d dripping) Read(b []byte) (int, error) {
	select {
	case <-time.After(10 * time.Second):
		return copy(b, " "), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (dripping) Close() error { return nil }
