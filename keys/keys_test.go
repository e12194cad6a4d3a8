package keys_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/keys"
)

func TestEachKindSignsAndSurvivesPEM(t *testing.T) {
	text := keys.Text{Purpose: keys.PurposeCall, Fields: [][]byte{{1}, []byte("role"), {2, 3}}}
	for _, kind := range keys.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			made, err := keys.Generate(kind)
			if err != nil {
				t.Fatal(err)
			}
			b, err := made.PEM()
			if err != nil {
				t.Fatal(err)
			}
			priv, err := keys.ParsePrivatePEM(b)
			if err != nil {
				t.Fatal(err)
			}
			pub, err := keys.ParsePublicPEM(made.Public().PEM())
			if err != nil {
				t.Fatal(err)
			}
			if !pub.Equal(priv.Public()) || pub.Kind() != kind {
				t.Fatalf("read back %s %s, made %s %s", pub.Kind(), pub, kind, made.Public())
			}
			sig, err := priv.Sign(text)
			if err != nil {
				t.Fatal(err)
			}
			if err := pub.Verify(text, sig); err != nil {
				t.Errorf("own signature: %v", err)
			}
			other, err := keys.Generate(kind)
			if err != nil {
				t.Fatal(err)
			}
			bent := append([]byte(nil), sig...)
			bent[len(bent)/2] ^= 1
			for name, bad := range map[string]struct {
				pub  keys.Public
				text keys.Text
				sig  []byte
			}{
				"another key":      {other.Public(), text, sig},
				"zero key":         {keys.Public{}, text, sig},
				"another purpose":  {pub, keys.Text{Purpose: keys.PurposeApproval, Fields: text.Fields}, sig},
				"a field more":     {pub, keys.Text{Purpose: text.Purpose, Fields: append(text.Fields[:3:3], nil)}, sig},
				"fields regrouped": {pub, keys.Text{Purpose: text.Purpose, Fields: [][]byte{[]byte("\x01role"), {}, {2, 3}}}, sig},
				"bent signature":   {pub, text, bent},
				"no signature":     {pub, text, nil},
			} {
				if err := bad.pub.Verify(bad.text, bad.sig); !errors.Is(err, keys.ErrSignature) {
					t.Errorf("%s: got %v, want ErrSignature", name, err)
				}
			}
		})
	}
}

func TestRefusedKeys(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	goodPEM, err := good.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"short RSA":      {pkcs8(t, weak), "2048 bits"},
		"P-521":          {pkcs8(t, p521), "P-521"},
		"empty":          {nil, "no PEM block"},
		"public key":     {good.Public().PEM(), `found a PEM block "PUBLIC KEY"`},
		"two keys":       {append(append([]byte(nil), goodPEM...), goodPEM...), "more than one"},
		"encrypted":      {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY"}), "encrypted"},
		"rubbish inside": {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), "parsing private key"},
	} {
		if _, err := keys.ParsePrivatePEM(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tt.want)
		}
	}
	for name, spki := range map[string][]byte{
		"nothing":        nil,
		"bytes after it": append(append([]byte(nil), good.Public().SPKI()...), 0),
		"too long":       make([]byte, 4096),
	} {
		if _, err := keys.ParsePublic(spki); err == nil {
			t.Errorf("ParsePublic took %s", name)
		}
	}
	if _, err := keys.Generate("dsa"); err == nil {
		t.Error("Generate took an unknown kind")
	}
}

func pkcs8(t *testing.T, k any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
