package source

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/ultravioletrs/cocos/manifest"
)

// A private key by itself is a secret of ocicrypt's, and of nothing else.
func TestBareKeys(t *testing.T) {
	key, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	pkcs8, err2 := x509.MarshalPKCS8PrivateKey(key)
	sec1, err3 := x509.MarshalECPrivateKey(key)
	jwk, err4 := (&jose.JSONWebKey{Key: key}).MarshalJSON()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	oid := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 1, 42}})
	for name, text := range map[string][]byte{
		"PKCS #8": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		"SEC 1":   append(oid, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...),
		"JWK":     append([]byte("\n "), jwk...),
	} {
		k, err := ParseSecret(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		image := manifest.Source{URL: "oci://reg.example.org/a", Encryption: manifest.OCICrypt}
		if err := k.Fits(image); err != nil || !key.Equal(k.key) {
			t.Errorf("%s: %v", name, err)
		}
		image.Encryption = manifest.Age
		if err := k.Fits(image); err == nil {
			t.Errorf("%s fits what age encrypted", name)
		}
	}
}
