// Package keys holds the key pairs of the people who take part in a
// computation, and what they sign with them.
//
// A public key is named by its DER SubjectPublicKeyInfo (RFC 5280, section
// 4.1.2.7) and nothing else: two keys are the same when these bytes are. Private
// keys are PKCS#8 PEM (RFC 5958). Four kinds are known, each with one signature
// scheme, so that a signature never says how it is to be checked:
//
//	ed25519     Ed25519 (RFC 8032)
//	ecdsa-p256  ECDSA with SHA-256, ASN.1
//	ecdsa-p384  ECDSA with SHA-384, ASN.1
//	rsa         RSASSA-PSS with SHA-256 and a 32-byte salt, 3072 to 8192 bits
//
// Nothing is signed but a Text: a purpose and its fields, each with its length,
// so that a signature made for one purpose can never pass for another; and a
// Payload, whose bytes begin as no Text's do.
package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// Kind names an algorithm of a key.
type Kind string

// The kinds of keys.
const (
	Ed25519   Kind = "ed25519"
	ECDSAP256 Kind = "ecdsa-p256"
	ECDSAP384 Kind = "ecdsa-p384"
	RSA       Kind = "rsa"
)

// Kinds lists them in the order in which help texts show them.
func Kinds() []Kind { return []Kind{Ed25519, ECDSAP256, ECDSAP384, RSA} }

const (
	rsaBits    = 3072 // of a new key
	rsaMinBits = 3072
	rsaMaxBits = 8192

	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
)

// Public is a participant's public key. Its zero value verifies nothing.
type Public struct {
	spki []byte
	key  crypto.PublicKey
	kind Kind
}

// ParsePublic takes a DER SubjectPublicKeyInfo, of at most 2 KiB, in the one
// encoding that this package would write.
func ParsePublic(spki []byte) (Public, error) {
	if len(spki) > 2048 {
		return Public{}, fmt.Errorf("public key of %d bytes is too long", len(spki))
	}
	k, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return Public{}, fmt.Errorf("parsing public key: %w", err)
	}
	p, err := newPublic(k)
	if err != nil {
		return Public{}, err
	}
	if !bytes.Equal(p.spki, spki) {
		return Public{}, errors.New("parsing public key: not in its canonical encoding")
	}
	return p, nil
}

// ParsePublicBase64 takes the form that manifests carry: standard base64 of
// the DER SubjectPublicKeyInfo.
func ParsePublicBase64(s string) (Public, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return Public{}, fmt.Errorf("parsing public key: %w", err)
	}
	return ParsePublic(der)
}

// ParsePublicPEM takes one PUBLIC KEY block.
func ParsePublicPEM(b []byte) (Public, error) {
	block, err := onlyBlock(b, publicBlock)
	if err != nil {
		return Public{}, err
	}
	return ParsePublic(block)
}

func newPublic(k crypto.PublicKey) (Public, error) {
	kind, err := kindOf(k)
	if err != nil {
		return Public{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return Public{}, fmt.Errorf("encoding public key: %w", err)
	}
	return Public{spki: spki, key: k, kind: kind}, nil
}

func kindOf(k crypto.PublicKey) (Kind, error) {
	switch k := k.(type) {
	case ed25519.PublicKey:
		if smallOrder(k) {
			return "", errors.New("this Ed25519 key is of small order: anybody can sign for it")
		}
		return Ed25519, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return ECDSAP256, nil
		case elliptic.P384():
			return ECDSAP384, nil
		}
		return "", fmt.Errorf("ECDSA curve %s is not supported; use P-256 or P-384", k.Params().Name)
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < rsaMinBits || n > rsaMaxBits {
			return "", fmt.Errorf("RSA key of %d bits is not supported; use %d to %d", n, rsaMinBits, rsaMaxBits)
		}
		return RSA, nil
	}
	return "", fmt.Errorf("key type %T is not supported; use one of %v", k, Kinds())
}

// smallPoints are the points of small order on edwards25519, and other encodings
// of them, without the sign bit: y is 0, 1, -1 or that of an order 8 point.
// Signatures exist that verify for them whatever was signed.
var smallPoints = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func smallOrder(k ed25519.PublicKey) bool {
	y := bytes.Clone(k)
	y[len(y)-1] &= 0x7f
	return slices.Contains(smallPoints[:], hex.EncodeToString(y))
}

// SPKI returns the DER SubjectPublicKeyInfo; the caller must not change it.
func (p Public) SPKI() []byte { return p.spki }

// Kind returns the key's algorithm.
func (p Public) Kind() Kind { return p.kind }

// IsZero tells whether p holds no key.
func (p Public) IsZero() bool { return p.key == nil }

// Equal tells whether both are the same key; zero keys equal nothing.
func (p Public) Equal(q Public) bool { return !p.IsZero() && bytes.Equal(p.spki, q.spki) }

// String is the form that manifests carry.
func (p Public) String() string { return base64.StdEncoding.EncodeToString(p.spki) }

// Fingerprint is "sha256:" and the hexadecimal SHA-256 of the SPKI: what
// people compare over another channel.
func (p Public) Fingerprint() string {
	sum := sha256.Sum256(p.spki)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// PEM returns one PUBLIC KEY block.
func (p Public) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: p.spki})
}

// MarshalText is String, so that a key can stand in JSON.
func (p Public) MarshalText() ([]byte, error) {
	if p.IsZero() {
		return nil, errors.New("no public key")
	}
	return []byte(p.String()), nil
}

// UnmarshalText is ParsePublicBase64.
func (p *Public) UnmarshalText(b []byte) error {
	k, err := ParsePublicBase64(string(b))
	if err != nil {
		return err
	}
	*p = k
	return nil
}

// ErrSignature says that a signature is not by this key over this text.
var ErrSignature = errors.New("signature does not verify")

// Verify returns ErrSignature unless sig is p's signature over t.
func (p Public) Verify(t Text, sig []byte) error { return p.verify(t.bytes(), sig) }

func (p Public) verify(msg, sig []byte) error {
	ok := false
	switch k := p.key.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, msg, sig)
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, ecdsaDigest(p.kind, msg), sig)
	case *rsa.PublicKey:
		sum := sha256.Sum256(msg)
		ok = rsa.VerifyPSS(k, crypto.SHA256, sum[:], sig, pssOptions) == nil
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

var pssOptions = &rsa.PSSOptions{SaltLength: sha256.Size, Hash: crypto.SHA256}

func ecdsaDigest(kind Kind, msg []byte) []byte {
	if kind == ECDSAP384 {
		sum := sha512.Sum384(msg)
		return sum[:]
	}
	sum := sha256.Sum256(msg)
	return sum[:]
}

// Private is a participant's private key.
type Private struct {
	key    crypto.Signer
	public Public
}

// Generate makes a new key.
func Generate(kind Kind) (Private, error) {
	var (
		k   crypto.Signer
		err error
	)
	switch kind {
	case Ed25519:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	case ECDSAP256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA:
		k, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		return Private{}, fmt.Errorf("key type %q is not known; use one of %v", kind, Kinds())
	}
	if err != nil {
		return Private{}, fmt.Errorf("generating a %s key: %w", kind, err)
	}
	return newPrivate(k)
}

func newPrivate(k crypto.Signer) (Private, error) {
	pub, err := newPublic(k.Public())
	if err != nil {
		return Private{}, err
	}
	return Private{key: k, public: pub}, nil
}

// ParsePrivatePEM takes one PRIVATE KEY block (PKCS#8, not encrypted).
func ParsePrivatePEM(b []byte) (Private, error) {
	der, err := onlyBlock(b, privateBlock)
	if err != nil {
		return Private{}, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Private{}, fmt.Errorf("parsing private key: %w", err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return Private{}, fmt.Errorf("parsing private key: %T can't sign", k)
	}
	return newPrivate(s)
}

// PEM returns one PRIVATE KEY block (PKCS#8).
func (p Private) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return nil, fmt.Errorf("encoding private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), nil
}

// Public returns the public half.
func (p Private) Public() Public { return p.public }

// Sign signs t with the scheme of the key's kind.
func (p Private) Sign(t Text) ([]byte, error) { return p.sign(t.bytes()) }

func (p Private) sign(msg []byte) ([]byte, error) {
	var (
		sig []byte
		err error
	)
	switch p.public.kind {
	case Ed25519:
		sig, err = p.key.Sign(rand.Reader, msg, crypto.Hash(0))
	case ECDSAP256:
		sig, err = p.key.Sign(rand.Reader, ecdsaDigest(ECDSAP256, msg), crypto.SHA256)
	case ECDSAP384:
		sig, err = p.key.Sign(rand.Reader, ecdsaDigest(ECDSAP384, msg), crypto.SHA384)
	case RSA:
		sum := sha256.Sum256(msg)
		sig, err = p.key.Sign(rand.Reader, sum[:], pssOptions)
	default:
		return nil, errors.New("signing: no private key")
	}
	if err != nil {
		return nil, fmt.Errorf("signing with a %s key: %w", p.public.kind, err)
	}
	return sig, nil
}

// onlyBlock returns the bytes of the one PEM block of b.
func onlyBlock(b []byte, want string) ([]byte, error) {
	block, rest := pem.Decode(b)
	switch {
	case block == nil:
		return nil, fmt.Errorf("no PEM block found; expected %q", want)
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the private key is encrypted; decrypt it first, for example with openssl pkcs8")
	case block.Type != want:
		return nil, fmt.Errorf("found a PEM block %q; expected %q (convert with openssl pkcs8 or openssl pkey)", block.Type, want)
	case len(bytes.TrimSpace(rest)) != 0:
		return nil, fmt.Errorf("more than one PEM block, or text after it; expected only %q", want)
	}
	return block.Bytes, nil
}
