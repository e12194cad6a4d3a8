package source

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containers/ocicrypt/blockcipher"
	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/keywrap/jwe"
	"github.com/go-jose/go-jose/v4"

	"github.com/ultravioletrs/cocos/manifest"
)

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func pemOf(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

var makeRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func rsaKey(t *testing.T) (key *rsa.PrivateKey, private string) {
	t.Helper()
	key, err := makeRSA()
	if err != nil {
		t.Fatal(err)
	}
	return key, pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), nil)
}

func publicPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	return []byte(pemOf(t, "PUBLIC KEY", der, err))
}

// seal encrypts a layer as the library does that skopeo and others use.
func seal(t *testing.T, b []byte, to ...[]byte) ([]byte, map[string]string) {
	t.Helper()
	h, err := blockcipher.NewLayerBlockCipherHandler()
	if err != nil {
		t.Fatal(err)
	}
	r, finish, err := h.Encrypt(bytes.NewReader(b), blockcipher.AES256CTR)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	o, err := finish()
	if err != nil {
		t.Fatal(err)
	}
	private, _ := json.Marshal(o.Private)
	public, _ := json.Marshal(o.Public)
	wrapped, err := jwe.NewKeyWrapper().WrapKeys(&config.EncryptConfig{Parameters: map[string][][]byte{"pubkeys": to}}, private)
	if err != nil {
		t.Fatal(err)
	}
	return sealed, map[string]string{
		wrappedKeys:   base64.StdEncoding.EncodeToString(wrapped),
		publicOptions: base64.StdEncoding.EncodeToString(public),
	}
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// stored is an image in a registry of the test's own, which answers as the
// distribution specification says.
type stored struct {
	manifest []byte
	blobs    map[string][]byte
}

func (s *stored) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const repository = "/v2/hospital/data/"
	if b, ok := s.blobs[strings.TrimPrefix(r.URL.Path, repository+"blobs/")]; ok {
		file(b, "")(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, repository+"manifests/sha256:") && strings.Contains(r.Header.Get("Accept"), ociImage) {
		w.Header().Set("Content-Type", ociImage)
		_, _ = w.Write(s.manifest)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

func imageOf(t *testing.T, media string, annotations map[string]string, layers ...[]byte) *stored {
	t.Helper()
	s := &stored{blobs: map[string][]byte{}}
	m := image{MediaType: ociImage}
	for _, b := range layers {
		s.blobs[digestOf(b)] = b
		m.Layers = append(m.Layers, layer{MediaType: media, Digest: digestOf(b), Size: int64(len(b)), Annotations: annotations})
	}
	var err error
	if s.manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return s
}

// source at a registry that has the image.
func (s *stored) source(w *web, e manifest.Encryption) manifest.Source {
	return manifest.Source{URL: "oci://" + w.host() + "/hospital/data@" + digestOf(s.manifest), Encryption: e, Authorities: authority(w)}
}

const plainLayer = "application/vnd.oci.image.layer.v1.tar"

func TestImage(t *testing.T) {
	id := identity(t)
	s := imageOf(t, plainLayer, nil, content)
	wants(t, s.source(serve(t, s.ServeHTTP), ""), nil)
	n := 0
	broken := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 6 {
			cut(100, s.ServeHTTP)(w, r)
			return
		}
		s.ServeHTTP(w, r)
	})
	wants(t, s.source(broken, ""), nil)
	s = imageOf(t, plainLayer, nil, encrypt(t, content, id.Recipient()))
	wants(t, s.source(serve(t, s.ServeHTTP), manifest.Age), secretOf(t, id.String()))
}

// Each image is right in all but one thing.
func TestImageIsVerified(t *testing.T) {
	flipped := bytes.Clone(content)
	flipped[5] ^= 1
	for _, tt := range []struct {
		name  string
		image func(s *stored)
		words string
	}{
		{"another manifest", func(s *stored) { s.manifest = append(s.manifest, ' ') }, "image's manifest that the server sent has not the digest"},
		{"another layer", func(s *stored) { s.blobs[digestOf(content)] = flipped }, "image's layer that the server sent has not the digest"},
		{"a shorter layer", func(s *stored) { s.blobs[digestOf(content)] = content[:9] }, "image's layer that the server sent has not the digest"},
		{"a longer layer", func(s *stored) { s.blobs[digestOf(content)] = append(bytes.Clone(content), 'x') }, "longer than"},
		{"no layer", func(s *stored) { delete(s.blobs, digestOf(content)) }, "image's layer is not at the source"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := imageOf(t, plainLayer, nil, content)
			src := s.source(serve(t, s.ServeHTTP), "")
			tt.image(s)
			refuses(t, src, nil, tt.words)
		})
	}
	for _, tt := range []struct {
		name  string
		image *stored
		words string
	}{
		{"two layers", imageOf(t, plainLayer, nil, content[:5], content[5:]), "has 2 layers"},
		{"no layers", imageOf(t, plainLayer, nil), "has 0 layers"},
		{"too large", imageOf(t, plainLayer, nil, append(bytes.Clone(content), 'x')), "can have at most"},
		{"an index", &stored{manifest: []byte(`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)}, "not the manifest of one image"},
		{"no JSON", &stored{manifest: []byte(`words`)}, "can't be read"},
		{"a layer of another digest", &stored{manifest: []byte(`{"layers":[{"digest":"sha512:00","size":1}]}`)}, "has no sha256 digest"},
		{"a layer that leads elsewhere", &stored{manifest: []byte(`{"layers":[{"digest":"sha256:../../x","size":1}]}`)}, "has no sha256 digest"},
		{"an endless manifest", &stored{manifest: bytes.Repeat([]byte("x"), maxImage+1)}, "longer than"},
		{"encrypted, unknown to the manifest", imageOf(t, plainLayer+encryptedSuffix, nil, content), "does not say so"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refuses(t, tt.image.source(serve(t, tt.image.ServeHTTP), ""), nil, tt.words)
		})
	}
}

func TestOCICrypt(t *testing.T) {
	key, private := rsaKey(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ec)
	ecPEM := pemOf(t, "EC PRIVATE KEY", ecDER, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	pkcs8PEM := pemOf(t, "PRIVATE KEY", pkcs8, err)
	jwk, err := json.Marshal(jose.JSONWebKey{Key: ec})
	if err != nil {
		t.Fatal(err)
	}
	toRSA, toEC := publicPEM(t, &key.PublicKey), publicPEM(t, &ec.PublicKey)
	sealed, notes := seal(t, content, toRSA)
	both, bothNotes := seal(t, content, toRSA, toEC)
	_, others := seal(t, content, toEC)
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)/2] ^= 1
	with := func(name, value string) map[string]string {
		n := map[string]string{wrappedKeys: notes[wrappedKeys], publicOptions: notes[publicOptions]}
		n[name] = value
		return n
	}
	public := func(old, new string) string {
		b, _ := base64.StdEncoding.DecodeString(notes[publicOptions])
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("%s has no %s", b, old)
		}
		return base64.StdEncoding.EncodeToString(bytes.Replace(b, []byte(old), []byte(new), 1))
	}
	for _, tt := range []struct {
		name   string
		layer  []byte
		notes  map[string]string
		secret string
		words  string
	}{
		{"RSA", sealed, notes, private, ""},
		{"RSA in PKCS #8", sealed, notes, pkcs8PEM, ""},
		{"ECDSA", both, bothNotes, ecPEM, ""},
		{"ECDSA as JWK", both, bothNotes, string(jwk), ""},
		{"the second of two wrapped keys", sealed, with(wrappedKeys, others[wrappedKeys]+","+notes[wrappedKeys]), private, ""},
		{"another key", sealed, notes, ecPEM, "not encrypted to the given private_key"},
		{"no wrapped key", sealed, with(wrappedKeys, ""), private, "no key that is wrapped as JWE"},
		{"a wrapped key that is none", sealed, with(wrappedKeys, "e30="), private, "not encrypted to the given private_key"},
		{"the key of another layer", sealed, with(wrappedKeys, bothNotes[wrappedKeys]), private, "its HMAC does not agree"},
		{"a flipped bit", flipped, notes, private, "its HMAC does not agree"},
		{"the HMAC of another layer", sealed, with(publicOptions, bothNotes[publicOptions]), private, "its HMAC does not agree"},
		{"cut off", sealed[:len(sealed)-1], notes, private, "its HMAC does not agree"},
		{"no options", sealed, with(publicOptions, ""), private, "not encrypted with AES_256_CTR_HMAC_SHA256"},
		{"another cipher", sealed, with(publicOptions, public("AES_256_CTR_HMAC_SHA256", "AES_256_CTR")), private, "not encrypted with AES_256_CTR_HMAC_SHA256"},
		{"no HMAC", sealed, with(publicOptions, public(`"hmac"`, `"hmag"`)), private, "not encrypted with AES_256_CTR_HMAC_SHA256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := imageOf(t, plainLayer+encryptedSuffix, tt.notes, tt.layer)
			src := s.source(serve(t, s.ServeHTTP), manifest.OCICrypt)
			k := secretOf(t, `{"private_key":`+quoted(tt.secret)+`}`)
			if tt.words == "" {
				wants(t, src, k)
			} else {
				refuses(t, src, k, tt.words)
			}
		})
	}
	t.Run("not encrypted", func(t *testing.T) {
		s := imageOf(t, plainLayer, nil, content)
		refuses(t, s.source(serve(t, s.ServeHTTP), manifest.OCICrypt), secretOf(t, `{"private_key":`+quoted(private)+`}`), "is not encrypted")
	})
}

// testdata/skopeo is an image of one layer, 50 lines of CSV, as docs/data.md encrypts
// it, by skopeo 1.9.3.
func TestImageOfSkopeo(t *testing.T) {
	part := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata/skopeo", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sealed := part("layer")
	s := &stored{manifest: part("manifest.json"), blobs: map[string][]byte{digestOf(sealed): sealed}}
	want := strings.Repeat("5.1,3.5,1.4\n", 50)
	src := s.source(serve(t, s.ServeHTTP), manifest.OCICrypt)
	got, err := readAll(t, src, secretOf(t, `{"private_key":`+quoted(string(part("key.pem")))+`}`), Options{Size: int64(len(want))})
	if err != nil || string(got) != want {
		t.Errorf("got %q and %v", got, err)
	}
}

// A registry that sends the agent to a token service: the password goes there only
// if its owner names it, and the token comes back to the registry alone.
func TestTokenService(t *testing.T) {
	const secret = `{"basic":{"username":"alice","password":"s3cret"}`
	tokens := serve(t, func(w http.ResponseWriter, r *http.Request) {
		name, password, ok := r.BasicAuth()
		if ok && (name != "alice" || password != "s3cret") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		who := "anonymous"
		if ok {
			who = name
		}
		_, _ = fmt.Fprintf(w, `{"token":"for-%s-%s"}`, who, strings.ReplaceAll(r.URL.Query().Get("scope"), ":", "."))
	})
	s := imageOf(t, plainLayer, nil, content)
	guarded := func(token string) *web {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer "+token+"-repository.hospital/data.pull" {
				s.ServeHTTP(w, r)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="registry",scope="repository:hospital/data:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
	}
	at := func(w *web, redirects ...string) manifest.Source {
		src := s.source(w, "")
		src.Authorities, src.Redirects = authority(w, tokens), redirects
		return src
	}
	private, public := guarded("for-alice"), guarded("for-anonymous")
	named := secretOf(t, secret+`,"token_server":"`+tokens.host()+`"}`)
	wants(t, at(public, tokens.host()), nil)
	wants(t, at(private, tokens.host()), named)
	refuses(t, at(private), named, "none of the manifest's servers")
	tokens.mu.Lock()
	tokens.seen = nil
	tokens.mu.Unlock()
	refuses(t, at(private, tokens.host()), secretOf(t, secret+"}"), "name it in the secret (token_server)")
	for _, r := range tokens.requests() {
		if r.Header.Get("Authorization") != "" {
			t.Error("the password went to a server that its owner did not name")
		}
	}
	refuses(t, at(private, tokens.host()), nil, "needs credentials")
	wrong := secretOf(t, `{"basic":{"username":"alice","password":"secret"},"token_server":"`+tokens.host()+`"}`)
	refuses(t, at(private, tokens.host()), wrong, "refuses the credentials")

	basic := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password == "s3cret" {
			s.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	wants(t, at(basic), secretOf(t, secret+"}"))
	refuses(t, at(basic), nil, "needs credentials")
}
