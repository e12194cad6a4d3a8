package source_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/containers/ocicrypt/blockcipher"
	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/keywrap/jwe"

	"github.com/ultravioletrs/cocos/internal/source"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/servers"
)

func dataset(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func read(t *testing.T, s manifest.Source, secret string, size int, dial source.Dial) ([]byte, error) {
	t.Helper()
	if faults := s.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	k, err := source.ParseSecret([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := source.Open(ctx, s, k, source.Options{
		Size: int64(size), Dial: dial, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func same(t *testing.T, got []byte, err error, want []byte) {
	t.Helper()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes and %v, want the %d of the dataset", len(got), err, len(want))
	}
}

func fails(t *testing.T, err error, words ...string) {
	t.Helper()
	var p *source.Problem
	if !errors.As(err, &p) || p.Passing {
		t.Errorf("got %v, want a lasting problem", err)
		return
	}
	for _, w := range words {
		if !strings.Contains(p.Text, w) {
			t.Errorf("got %q, want %q in it", p.Text, w)
		}
	}
}

// breaking dials connections that end after so many bytes were read, the first few.
func breaking(times, after int64) source.Dial {
	var made atomic.Int64
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil || made.Add(1) > times {
			return c, err
		}
		return &breakingConn{c, after}, nil
	}
}

type breakingConn struct {
	net.Conn
	left int64
}

func (c *breakingConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

func TestS3AtLength(t *testing.T) {
	srv := servers.StartS3(t)
	data := dataset(3_000_001)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	srv.Bucket(t, "hospital-a")
	srv.Put(t, "hospital-a", "data.bin", data)
	srv.Put(t, "hospital-a", "2026/a%20file%20+%20more.bin", data)
	srv.Put(t, "hospital-a", "data.age", sealed.Bytes())
	at := func(key string, e manifest.Encryption) manifest.Source {
		return manifest.Source{URL: "s3://hospital-a/" + key, Endpoint: srv.Endpoint, Region: srv.Region, Encryption: e, Authorities: srv.Authority}
	}
	keys := func(access, secret, more string) string {
		return `{"s3":{"access_key":"` + access + `","secret_key":"` + secret + `"}` + more + `}`
	}
	right := keys(srv.AccessKey, srv.SecretKey, "")
	got, err := read(t, at("data.bin", ""), right, len(data), nil)
	same(t, got, err, data)
	got, err = read(t, at("2026/a%20file%20+%20more.bin", ""), right, len(data), nil)
	same(t, got, err, data)
	got, err = read(t, at("data.bin", ""), right, len(data), breaking(5, 500_000))
	same(t, got, err, data)
	got, err = read(t, at("data.age", manifest.Age), keys(srv.AccessKey, srv.SecretKey, `,"age":["`+id.String()+`"]`), len(data), breaking(5, 500_000))
	same(t, got, err, data)

	_, err = read(t, at("data.bin", ""), keys(srv.AccessKey, "another", ""), len(data), nil)
	fails(t, err, "refuses the credentials", "SignatureDoesNotMatch")
	_, err = read(t, at("data.bin", ""), keys("another", srv.SecretKey, ""), len(data), nil)
	fails(t, err) // this server says 404, others 403
	_, err = read(t, at("data.bin", ""), "", len(data), nil)
	fails(t, err, "needs credentials")
	_, err = read(t, at("nothing.bin", ""), right, len(data), nil)
	fails(t, err, "is not at the source", "NoSuchKey")
	_, err = read(t, at("data.bin", ""), right, len(data)-1, nil)
	fails(t, err, "longer than the dataset")
	other := at("data.bin", "")
	other.Region = "us-west-9"
	_, err = read(t, other, right, len(data), nil)
	fails(t, err)

	// The object changes while it is read.
	made := 0
	dial := breaking(1, 500_000)
	_, err = read(t, at("data.bin", ""), right, len(data), func(ctx context.Context, network, address string) (net.Conn, error) {
		if made++; made == 2 {
			srv.Put(t, "hospital-a", "data.bin", dataset(len(data)))
		}
		return dial(ctx, network, address)
	})
	fails(t, err, "changed at the source")
}

func TestRegistryAtLength(t *testing.T) {
	srv := servers.StartRegistry(t)
	data := dataset(3_000_001)
	const media = "application/vnd.oci.image.layer.v1.tar"
	at := func(repository, digest string, e manifest.Encryption) manifest.Source {
		return manifest.Source{URL: "oci://" + srv.Host + "/" + repository + "@" + digest, Encryption: e, Authorities: srv.Authority, Redirects: []string{srv.Tokens}}
	}
	login := `"basic":{"username":"` + srv.Username + `","password":"` + srv.Password + `"},"token_server":"` + srv.Tokens + `"`
	public := srv.Push(t, "public/data", servers.Layer{MediaType: media, Content: data})
	private := srv.Push(t, "hospital/data", servers.Layer{MediaType: media, Content: data})

	got, err := read(t, at("public/data", public, ""), "", len(data), nil)
	same(t, got, err, data)
	got, err = read(t, at("hospital/data", private, ""), "{"+login+"}", len(data), nil)
	same(t, got, err, data)
	got, err = read(t, at("hospital/data", private, ""), "{"+login+"}", len(data), breaking(8, 700_000))
	same(t, got, err, data)
	_, err = read(t, at("hospital/data", private, ""), "", len(data), nil)
	fails(t, err, "needs credentials")
	_, err = read(t, at("hospital/data", private, ""), `{"basic":{"username":"alice","password":"another"},"token_server":"`+srv.Tokens+`"}`, len(data), nil)
	fails(t, err, "refuses the credentials")
	_, err = read(t, at("public/data", "sha256:"+strings.Repeat("0", 64), ""), "", len(data), nil)
	fails(t, err, "image's manifest is not at the source")

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	layer := encryptLayer(t, data, key)
	layer.MediaType = media + "+encrypted"
	sealed := srv.Push(t, "hospital/sealed", layer)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	got, err = read(t, at("hospital/sealed", sealed, manifest.OCICrypt), `{"private_key":`+string(text)+","+login+"}", len(data), breaking(8, 700_000))
	same(t, got, err, data)
}

// encryptLayer is what tools do that encrypt images with ocicrypt.
func encryptLayer(t *testing.T, b []byte, key *rsa.PrivateKey) servers.Layer {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
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
	wrapped, err := jwe.NewKeyWrapper().WrapKeys(&config.EncryptConfig{Parameters: map[string][][]byte{
		"pubkeys": {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})},
	}}, private)
	if err != nil {
		t.Fatal(err)
	}
	return servers.Layer{Content: sealed, Annotations: map[string]string{
		"org.opencontainers.image.enc.keys.jwe": base64.StdEncoding.EncodeToString(wrapped),
		"org.opencontainers.image.enc.pubopts":  base64.StdEncoding.EncodeToString(public),
	}}
}
