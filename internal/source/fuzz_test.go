package source

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"
)

// A secret is the owner's; a broker that its owner does not run well may release
// anything.
func FuzzParseSecret(f *testing.F) {
	f.Add([]byte(`{"s3":{"access_key":"a","secret_key":"b"},"salt":"` + strings.Repeat("ab", 32) + `"}`))
	f.Add([]byte("# a comment\nAGE-SECRET-KEY-1XXXXXXXXXXXXXXXXXXXXXXX\n"))
	f.Add([]byte(`{"private_key":"{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\",\"d\":\"AA\"}"}`))
	f.Add([]byte(`{"private_key":"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseSecret(text)
		if (k == nil) == (err == nil) {
			t.Fatalf("a secret %v and the error %v", k, err)
		}
	})
}

// What a registry says of an encrypted layer.
func FuzzUnwrap(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	public := `{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"` + base64.StdEncoding.EncodeToString(make([]byte, 32)) + `","cipheroptions":{}}`
	f.Add([]byte(`{"protected":"eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00ifQ","encrypted_key":"AA","iv":"AA","ciphertext":"AA","tag":"AA"}`), []byte(public))
	f.Fuzz(func(t *testing.T, wrapped, public []byte) {
		k, err := unwrap(map[string]string{
			wrappedKeys:   base64.StdEncoding.EncodeToString(wrapped),
			publicOptions: base64.StdEncoding.EncodeToString(public),
		}, key)
		if k != nil || err == nil {
			t.Errorf("%q was unwrapped", wrapped)
		}
	})
}
