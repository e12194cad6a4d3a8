package keybroker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json/jsontext"
)

// What a client's key may be for (RFC 7518, section 4.1); contents are encrypted
// with A256GCM alone. RSA1_5 and RSA-OAEP with SHA-1 are not among them.
const (
	ecdhAlgorithm = jose.ECDH_ES_A256KW
	rsaAlgorithm  = jose.RSA_OAEP_256
)

// Bounds of an RSA key, in bits.
const (
	minRSA = 2048
	maxRSA = 8192
)

// jwk has the members of a public key (RFC 7517, RFC 7518 sections 6.2 and 6.3)
// that the protocol knows. A private key has more.
type jwk struct {
	Type      string            `json:"kty"`
	Algorithm jose.KeyAlgorithm `json:"alg"`
	Curve     string            `json:"crv,omitzero"`
	X         string            `json:"x,omitzero"`
	Y         string            `json:"y,omitzero"`
	N         string            `json:"n,omitzero"`
	E         string            `json:"e,omitzero"`
}

// parseKey reads a client's public key.
func parseKey(b jsontext.Value) (jose.Recipient, error) {
	var j jwk
	if len(b) > maxKeyBytes {
		return jose.Recipient{}, fmt.Errorf("has %d bytes; at most %d are taken", len(b), maxKeyBytes)
	}
	if err := decode(b, &j); err != nil {
		return jose.Recipient{}, err
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(b); err != nil {
		return jose.Recipient{}, err
	}
	switch k := key.Key.(type) {
	case *ecdsa.PublicKey:
		if j.Algorithm == ecdhAlgorithm {
			return jose.Recipient{Algorithm: ecdhAlgorithm, Key: k}, nil
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return jose.Recipient{}, fmt.Errorf("is RSA with %d bits; expected %d to %d", n, minRSA, maxRSA)
		}
		if j.Algorithm == rsaAlgorithm {
			return jose.Recipient{Algorithm: rsaAlgorithm, Key: k}, nil
		}
	}
	return jose.Recipient{}, fmt.Errorf("is of kty %q for alg %q; expected EC for %s or RSA for %s", j.Type, j.Algorithm, ecdhAlgorithm, rsaAlgorithm)
}

// seal encrypts a resource: a JWE in flattened JSON (RFC 7516, section 7.2.2).
func seal(to jose.Recipient, resource []byte) ([]byte, error) {
	e, err := jose.NewEncrypter(jose.A256GCM, to, nil)
	if err != nil {
		return nil, fmt.Errorf("encrypting a resource: %w", err)
	}
	sealed, err := e.Encrypt(resource)
	if err != nil {
		return nil, fmt.Errorf("encrypting a resource: %w", err)
	}
	return []byte(sealed.FullSerialize()), nil
}

// sealKey is a client's key pair, for one session.
type sealKey struct{ private *ecdsa.PrivateKey }

func newSealKey() (sealKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sealKey{}, fmt.Errorf("making a key for the broker to encrypt to: %w", err)
	}
	return sealKey{k}, nil
}

// public is the JWK of the public half.
func (k sealKey) public() (jsontext.Value, error) {
	b, err := jose.JSONWebKey{Key: k.private.Public(), Algorithm: string(ecdhAlgorithm)}.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("writing the key for the broker to encrypt to: %w", err)
	}
	return b, nil
}

// open decrypts what seal made for the key.
func (k sealKey) open(sealed []byte) ([]byte, error) {
	e, err := jose.ParseEncryptedJSON(string(sealed), []jose.KeyAlgorithm{ecdhAlgorithm}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, errors.New("it is not a JWE in flattened JSON, for ECDH-ES+A256KW and with A256GCM")
	}
	resource, err := e.Decrypt(k.private)
	if err != nil {
		return nil, errors.New("it is not encrypted to the key that was sent, or was changed on the way")
	}
	return resource, nil
}
