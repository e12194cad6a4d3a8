package source

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"filippo.io/age"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/manifest"
)

// MaxSecret bounds a secret as it travels, in bytes.
const MaxSecret = 64 << 10

// Secret is what it takes to have a dataset from its source and to read it. As
// text it is one JSON object with these members, and no others:
//
//	{
//	  "age": ["AGE-SECRET-KEY-1…"],           identities, for encryption "age"
//	  "private_key": "-----BEGIN …",           PEM or JWK, for encryption "ocicrypt"
//	  "s3": {"access_key": …, "secret_key": …, "session_token": …},
//	  "basic": {"username": …, "password": …}, for http and oci
//	  "bearer": "…",                           for http and oci
//	  "token_server": "HOST:PORT",             for oci with basic: also goes there
//	  "salt": "…"                              of the dataset's commitment
//	}
//
// or, for age alone, a file as age-keygen writes it; or, for ocicrypt alone, the
// private key itself, PEM or JWK.
type Secret struct {
	// Salt is of the dataset's commitment, and nil if the secret has none.
	Salt *manifest.Salt

	ages        []age.Identity
	key         crypto.PrivateKey // *rsa.PrivateKey or *ecdsa.PrivateKey
	s3          *s3Keys
	basic       *basic
	bearer      string
	tokenServer string
}

type s3Keys struct {
	AccessKey    string `json:"access_key"`
	SecretKey    string `json:"secret_key"`
	SessionToken string `json:"session_token,omitempty"`
}

type basic struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// wire is a Secret as JSON.
type wire struct {
	Age         []string       `json:"age,omitempty"`
	PrivateKey  string         `json:"private_key,omitempty"`
	S3          *s3Keys        `json:"s3,omitempty"`
	Basic       *basic         `json:"basic,omitempty"`
	Bearer      string         `json:"bearer,omitempty"`
	TokenServer string         `json:"token_server,omitempty"`
	Salt        *manifest.Salt `json:"salt,omitempty"`
}

// ParseSecret reads a secret. Its errors have nothing of the text. The text may be
// wiped afterwards.
func ParseSecret(text []byte) (*Secret, error) {
	switch b := bytes.TrimSpace(text); {
	case len(text) > MaxSecret:
		return nil, lasting("the secret has %d bytes; at most %d are allowed", len(text), MaxSecret)
	case len(b) == 0:
		return &Secret{}, nil
	case bytes.Contains(b, []byte("-----BEGIN ")) && b[0] != '{', isJWK(b):
		key, err := parseKey(b)
		if err != nil {
			return nil, err
		}
		return &Secret{key: key}, nil
	case b[0] != '{':
		ids, err := age.ParseIdentities(bytes.NewReader(b))
		if err != nil {
			return nil, lasting("the secret is neither a JSON object nor a file of age-keygen (lines AGE-SECRET-KEY-…) nor a private key (PEM or JWK)")
		}
		return &Secret{ages: ids}, nil
	}
	var w wire
	if err := json.Unmarshal(text, &w, json.RejectUnknownMembers(true)); err != nil {
		// The error itself may quote the text.
		if errors.Is(err, json.ErrUnknownName) {
			return nil, lasting("the secret has a member that is not known; it may have age, private_key, s3, basic, bearer, token_server and salt")
		}
		return nil, lasting("the secret is not a JSON object of the right form (each member once: age, private_key, s3, basic, bearer, token_server, salt)")
	}
	return w.secret()
}

func (w *wire) secret() (*Secret, error) {
	s := &Secret{Salt: w.Salt, s3: w.S3, basic: w.Basic, bearer: w.Bearer, tokenServer: w.TokenServer}
	if len(w.Age) > 0 {
		ids, err := age.ParseIdentities(strings.NewReader(strings.Join(w.Age, "\n")))
		if err != nil {
			return nil, lasting("the secret's member age is not a list of identities (AGE-SECRET-KEY-1… or AGE-SECRET-KEY-PQ-1…)")
		}
		s.ages = ids
	}
	if w.PrivateKey != "" {
		var err error
		if s.key, err = parseKey([]byte(w.PrivateKey)); err != nil {
			return nil, err
		}
	}
	switch {
	case s.s3 != nil && (s.s3.AccessKey == "" || s.s3.SecretKey == ""):
		return nil, lasting("the secret's member s3 needs access_key and secret_key")
	case s.basic != nil && (s.basic.Username == "" || s.basic.Password == ""):
		return nil, lasting("the secret's member basic needs username and password")
	case s.basic != nil && strings.Contains(s.basic.Username, ":"):
		return nil, lasting("the secret's member basic has a username with a colon, which can't be sent")
	case strings.ContainsFunc(s.bearer, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, lasting("the secret's member bearer has characters that can't be sent")
	case s.basic != nil && s.bearer != "":
		return nil, lasting("the secret has both basic and bearer; give one of them")
	case s.tokenServer != "" && s.basic == nil:
		return nil, lasting("the secret's member token_server goes with basic alone")
	}
	return s, nil
}

// isJWK tells whether a JSON object is a key itself, which alone has a "kty".
func isJWK(text []byte) bool {
	var k struct {
		Kty string `json:"kty"`
	}
	return text[0] == '{' && json.Unmarshal(text, &k) == nil && k.Kty != ""
}

// parseKey takes what ocicrypt's recipients have: RSA or ECDSA, as PEM or JWK.
func parseKey(text []byte) (crypto.PrivateKey, error) {
	bad := lasting("the secret's private_key is not an RSA or ECDSA key without a passphrase, in PEM (PKCS #8, PKCS #1 or SEC 1) or as JWK")
	var key any
	if text := bytes.TrimSpace(text); len(text) > 0 && text[0] == '{' {
		var jwk jose.JSONWebKey
		if jwk.UnmarshalJSON(text) != nil {
			return nil, bad
		}
		key = jwk.Key
	} else {
		block, rest := pem.Decode(text)
		if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam -genkey writes them first
			block, _ = pem.Decode(rest)
		}
		if block == nil {
			return nil, bad
		}
		var err error
		if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
			if key, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
				if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
					return nil, bad
				}
			}
		}
	}
	switch key.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey:
		return key, nil
	}
	return nil, bad
}

// Needed tells whether nothing can be had from s without a secret.
func Needed(s manifest.Source) bool { return s.Encryption != "" }

// Fits refuses a secret that has not what s needs, or has what s has no use for:
// that would be another dataset's.
func (k *Secret) Fits(s manifest.Source) error {
	scheme, _, _ := strings.Cut(s.URL, "://")
	web, image := strings.HasPrefix(scheme, "http"), strings.HasPrefix(scheme, "oci")
	clear := strings.HasSuffix(scheme, "http") || strings.HasPrefix(s.Endpoint, "http:")
	switch {
	case s.Encryption == manifest.Age && len(k.ages) == 0:
		return lasting("the dataset is encrypted with age, and the secret has no identity for it")
	case s.Encryption != manifest.Age && len(k.ages) > 0:
		return lasting("the secret has an identity of age, and the manifest's source is not encrypted with age")
	case s.Encryption == manifest.OCICrypt && k.key == nil:
		return lasting("the dataset is encrypted with ocicrypt, and the secret has no private_key for it")
	case s.Encryption != manifest.OCICrypt && k.key != nil:
		return lasting("the secret has a private_key, and the manifest's source is not encrypted with ocicrypt")
	case k.s3 != nil && scheme != "s3":
		return lasting("the secret has keys of s3, and the manifest's source is no s3://")
	case (k.basic != nil || k.bearer != "") && !web && !image:
		return lasting("the secret has a user name or token, and the manifest's source takes keys of s3")
	case k.tokenServer != "" && !image:
		return lasting("the secret has a token_server, which only registries have (oci://)")
	case k.credentials() && clear:
		return lasting("the manifest's source is plain http, over which no credentials are sent: use https")
	}
	return nil
}

// Anonymous tells whether servers are asked without saying who asks.
func (k *Secret) Anonymous() bool { return !k.credentials() }

func (k *Secret) credentials() bool { return k.s3 != nil || k.basic != nil || k.bearer != "" }

// String keeps a secret out of texts.
func (k *Secret) String() string { return "[secret]" }

// GoString is String.
func (k *Secret) GoString() string { return k.String() }
