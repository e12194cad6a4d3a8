package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Registry is an image registry whose token service is another server: whoever
// asks for a token without a password may pull what is below public/, and those
// with it everything.
type Registry struct {
	*Server
	// Tokens is the token service, HOST:PORT; Authority vouches for it, too.
	Tokens             string
	Username, Password string
}

const registryConfig = `version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %q}
http:
  addr: %s
  secret: a test's
  tls: {certificate: %q, key: %q}
auth:
  token: {realm: %q, service: tests, issuer: tests, jwks: %q}
`

// StartRegistry runs one, empty.
func StartRegistry(t testing.TB) *Registry {
	t.Helper()
	dir := t.TempDir()
	cert, key, authority := certificate(t, dir)
	r := &Registry{Username: "alice", Password: "s3cret"}
	tokens := r.tokenService(t, dir)
	r.Tokens = strings.TrimPrefix(tokens.URL, "https://")
	authority += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tokens.Certificate().Raw}))
	config := filepath.Join(dir, "config.yml")
	r.Server = start(t, program(t, "github.com/distribution/distribution/v3/cmd/registry"), dir, authority, "/v2/", nil,
		func(host string) []string {
			write(t, config, fmt.Appendf(nil, registryConfig, filepath.Join(dir, "data"), host, cert, key, tokens.URL+"/token", filepath.Join(dir, "jwks.json")))
			return []string{"serve", config}
		})
	return r
}

// tokenService issues what the registry believes.
func (r *Registry) tokenService(t testing.TB, dir string) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := jose.JSONWebKey{Key: &key.PublicKey, KeyID: "tests", Algorithm: string(jose.ES256), Use: "sig"}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "jwks.json"), set)
	sign, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "tests"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name, password, known := req.BasicAuth()
		if known && (name != r.Username || password != r.Password) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		type access struct {
			Type    string   `json:"type"`
			Name    string   `json:"name"`
			Actions []string `json:"actions"`
		}
		granted := []access{}
		for _, scope := range req.URL.Query()["scope"] {
			parts := strings.Split(scope, ":")
			if len(parts) != 3 {
				continue
			}
			actions := strings.Split(parts[2], ",")
			if !known {
				actions = []string{"pull"}
			}
			if known || strings.HasPrefix(parts[1], "public/") {
				granted = append(granted, access{parts[0], parts[1], actions})
			}
		}
		now := time.Now()
		token, err := jwt.Signed(sign).Claims(jwt.Claims{
			Issuer: "tests", Audience: jwt.Audience{"tests"}, Subject: name,
			Expiry: jwt.NewNumericDate(now.Add(5 * time.Minute)), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)), IssuedAt: jwt.NewNumericDate(now),
		}).Claims(map[string]any{"access": granted}).Serialize()
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
	}))
	t.Cleanup(s.Close)
	return s
}

// Layer is the only one of an image to push.
type Layer struct {
	MediaType   string
	Content     []byte
	Annotations map[string]string
}

// Push writes an image of one layer and returns its digest, "sha256:…".
func (r *Registry) Push(t testing.TB, repository string, l Layer) string {
	t.Helper()
	config := []byte("{}")
	r.blob(t, repository, config)
	r.blob(t, repository, l.Content)
	type descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	const media = "application/vnd.oci.image.manifest.v1+json"
	b, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": media,
		"config": descriptor{"application/vnd.oci.empty.v1+json", digest(config), len(config), nil},
		"layers": []descriptor{{l.MediaType, digest(l.Content), len(l.Content), l.Annotations}},
	})
	if err != nil {
		t.Fatal(err)
	}
	put := request(t, http.MethodPut, "https://"+r.Host+"/v2/"+repository+"/manifests/"+digest(b), b)
	put.Header.Set("Content-Type", media)
	r.do(t, r.authorized(t, put, repository), http.StatusCreated)
	return digest(b)
}

func (r *Registry) blob(t testing.TB, repository string, b []byte) {
	t.Helper()
	post := request(t, http.MethodPost, "https://"+r.Host+"/v2/"+repository+"/blobs/uploads/", nil)
	resp := r.do(t, r.authorized(t, post, repository), http.StatusAccepted)
	at, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	q := at.Query()
	q.Set("digest", digest(b))
	at.RawQuery = q.Encode()
	put := request(t, http.MethodPut, at.String(), b)
	put.Header.Set("Content-Type", "application/octet-stream")
	r.do(t, r.authorized(t, put, repository), http.StatusCreated)
}

// authorized adds a token for pushing.
func (r *Registry) authorized(t testing.TB, req *http.Request, repository string) *http.Request {
	t.Helper()
	ask := request(t, http.MethodGet, "https://"+r.Tokens+"/token?scope=repository:"+repository+":pull,push", nil)
	ask.SetBasicAuth(r.Username, r.Password)
	resp, err := r.Client.Do(ask)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+answer.Token)
	return req
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
