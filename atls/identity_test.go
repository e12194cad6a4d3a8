package atls_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/atls"
)

func selfSigned(t testing.TB) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func keyOf(t testing.TB, c tls.Certificate) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return atls.FormatKey(sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
}

func TestLoadIdentity(t *testing.T) {
	cert, key := selfSigned(t)
	_, otherKey := selfSigned(t)
	id, err := atls.LoadIdentity(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if id.Key() != keyOf(t, pair) {
		t.Errorf("key %s, want %s", id.Key(), keyOf(t, pair))
	}
	for name, in := range map[string][2][]byte{
		"nothing": {nil, nil}, "no key": {cert, nil}, "no certificate": {nil, key},
		"another's key": {cert, otherKey}, "swapped": {key, cert}, "rubbish": {[]byte("x"), []byte("y")},
	} {
		if _, err := atls.LoadIdentity(in[0], in[1]); err == nil || !strings.Contains(err.Error(), "TLS certificate") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestNewIdentitiesDiffer(t *testing.T) {
	if a, b := identity(t), identity(t); a.Key() == b.Key() {
		t.Error("two identities have one key")
	}
	if sum, err := atls.ParseKey(identity(t).Key()); err != nil || sum == ([32]byte{}) {
		t.Errorf("%x %v", sum, err)
	}
}

func TestLoadCAs(t *testing.T) {
	one, key := selfSigned(t)
	two, _ := selfSigned(t)
	if _, err := atls.LoadCAs(append(bytes.Clone(one), two...)); err != nil {
		t.Error(err)
	}
	for name, in := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":          {nil, "no PEM block"},
		"rubbish":          {[]byte("x"), "no PEM block"},
		"key":              {key, "PRIVATE KEY"},
		"key after a CA":   {append(bytes.Clone(one), key...), "PRIVATE KEY"},
		"bad certificate":  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "CA certificate 1"},
		"second one's bad": {append(bytes.Clone(one), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...), "CA certificate 2"},
	} {
		if _, err := atls.LoadCAs(in.b); err == nil || !strings.Contains(err.Error(), in.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, in.want)
		}
	}
}
