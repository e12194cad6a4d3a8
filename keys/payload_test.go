package keys_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/ultravioletrs/cocos/keys"
)

// The encoding is that of DSSE's own example, and nothing else verifies.
func TestPayload(t *testing.T) {
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	d := keys.Payload{Type: "http://example.com/HelloWorld", Body: []byte("hello world")}
	sig, err := k.SignPayload(d)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.ParsePKIXPublicKey(k.Public().SPKI())
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(pub.(ed25519.PublicKey), []byte("DSSEv1 29 http://example.com/HelloWorld 11 hello world"), sig) {
		t.Error("the signature is not over DSSE's encoding")
	}
	if err := k.Public().VerifyPayload(d, sig); err != nil {
		t.Errorf("own signature: %v", err)
	}
	text, err := k.Sign(keys.Text{Purpose: keys.Purpose(d.Type), Fields: [][]byte{d.Body}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		d   keys.Payload
		sig []byte
	}{
		"another type":          {keys.Payload{Type: "text/plain", Body: d.Body}, sig},
		"another body":          {keys.Payload{Type: d.Type, Body: []byte("hello World")}, sig},
		"type and body shifted": {keys.Payload{Type: d.Type + " 11", Body: []byte("hello world")}, sig},
		"no signature":          {d, nil},
		"a text's signature":    {d, text},
	} {
		if err := k.Public().VerifyPayload(tt.d, tt.sig); !errors.Is(err, keys.ErrSignature) {
			t.Errorf("%s: got %v, want ErrSignature", name, err)
		}
	}
}
