package source

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/go-jose/go-jose/v4"
)

// What age adds to a content: a header of at most so many bytes (its library's
// bound), a nonce, and a tag for each chunk.
const (
	ageHeader = 2 << 20
	ageNonce  = 16
	ageChunk  = 64 << 10
	ageTag    = 16
)

// ageSize is the most that a content of n bytes has when age has encrypted it.
func ageSize(n int64) int64 {
	return ageHeader + ageNonce + n + (n/ageChunk+1)*ageTag
}

// openAge decrypts a file of age-encryption.org/v1 (binary, not armored) as it is
// read. Passphrases are not taken: they would have to be guessed against by
// whoever has the file, and an identity is made as easily.
func openAge(raw io.Reader, k *Secret) (io.Reader, error) {
	in := &remembering{r: raw}
	plain, err := age.Decrypt(in, k.ages...)
	if err == nil {
		return &ageReader{plain, in}, nil
	}
	var none *age.NoIdentityMatchError
	switch {
	case in.err != nil && !errors.Is(in.err, io.EOF):
		return nil, in.err
	case errors.As(err, &none) && slices.Contains(none.StanzaTypes, "scrypt"):
		return nil, lasting("the file at the source is encrypted with a passphrase; encrypt it to a recipient (cocos-cli encrypt)")
	case errors.As(err, &none):
		return nil, lasting("the file at the source is not encrypted to the given identity of age")
	}
	return nil, lasting("what is at the source is not an intact file of age (age-encryption.org/v1, not armored)")
}

// remembering keeps the error of a reader that a library wraps.
type remembering struct {
	r   io.Reader
	err error
}

func (r *remembering) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil {
		r.err = err
	}
	return n, err
}

type ageReader struct {
	plain io.Reader
	in    *remembering
}

func (r *ageReader) Read(b []byte) (int, error) {
	n, err := r.plain.Read(b)
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case r.in.err != nil && !errors.Is(r.in.err, io.EOF):
		return n, r.in.err
	}
	return n, lasting("the file of age at the source is damaged or cut off")
}

// Annotations of a layer that ocicrypt has encrypted.
const (
	wrappedKeys   = "org.opencontainers.image.enc.keys.jwe"
	publicOptions = "org.opencontainers.image.enc.pubopts"
	layerCipher   = "AES_256_CTR_HMAC_SHA256"
	// mostKeys bounds for how many recipients a layer is tried.
	mostKeys = 64
)

// Algorithms of JWE, those that ocicrypt writes; not RSA with PKCS #1 v1.5, whose
// errors tell of the key.
var (
	wrapAlgorithms    = []jose.KeyAlgorithm{jose.RSA_OAEP, jose.RSA_OAEP_256, jose.ECDH_ES_A128KW, jose.ECDH_ES_A192KW, jose.ECDH_ES_A256KW}
	contentEncryption = []jose.ContentEncryption{jose.A128GCM, jose.A192GCM, jose.A256GCM, jose.A128CBC_HS256, jose.A192CBC_HS384, jose.A256CBC_HS512}
)

// cipherKeys are what a layer is decrypted and authenticated with.
type cipherKeys struct{ key, nonce, mac []byte }

// unwrap finds a layer's key among those that are wrapped for its recipients.
func unwrap(annotations map[string]string, key crypto.PrivateKey) (*cipherKeys, error) {
	if annotations[wrappedKeys] == "" {
		return nil, lasting("the image's layer has no key that is wrapped as JWE (annotation %s)", wrappedKeys)
	}
	var public struct {
		Cipher  string            `json:"cipher"`
		HMAC    []byte            `json:"hmac"`
		Options map[string][]byte `json:"cipheroptions"`
	}
	b, err := base64.StdEncoding.DecodeString(annotations[publicOptions])
	if err != nil || json.Unmarshal(b, &public) != nil || public.Cipher != layerCipher || len(public.HMAC) != sha256.Size {
		return nil, lasting("the image's layer is not encrypted with %s (annotation %s)", layerCipher, publicOptions)
	}
	var private struct {
		Key     []byte            `json:"symkey"`
		Options map[string][]byte `json:"cipheroptions"`
	}
	if b = opens(annotations[wrappedKeys], key); b == nil {
		return nil, lasting("the image's layer is not encrypted to the given private_key")
	}
	if err := json.Unmarshal(b, &private); err != nil {
		return nil, lasting("the image's layer has a wrapped key of an unknown form")
	}
	nonce := public.Options["nonce"]
	if nonce == nil {
		nonce = private.Options["nonce"]
	}
	if len(private.Key) != 32 || len(nonce) != aes.BlockSize {
		return nil, lasting("the image's layer has a wrapped key of the wrong length")
	}
	return &cipherKeys{private.Key, nonce, public.HMAC}, nil
}

// opens returns what one of the JWEs holds that key opens, or nil.
func opens(list string, key crypto.PrivateKey) []byte {
	for i, item := range strings.Split(list, ",") {
		b, err := base64.StdEncoding.DecodeString(item)
		if i == mostKeys || err != nil {
			return nil
		}
		jwe, err := jose.ParseEncryptedJSON(string(b), wrapAlgorithms, contentEncryption)
		if err != nil {
			continue
		}
		if _, _, plain, err := jwe.DecryptMulti(key); err == nil {
			return plain
		}
	}
	return nil
}

// decrypt reads a layer. Its end is an error if the HMAC, which is over what is
// encrypted and under the same key, does not agree.
func (k *cipherKeys) decrypt(raw io.Reader) io.Reader {
	block, err := aes.NewCipher(k.key)
	if err != nil {
		panic(err) // unwrap has checked the length
	}
	return &layerReader{raw, cipher.NewCTR(block, k.nonce), hmac.New(sha256.New, k.key), k.mac}
}

type layerReader struct {
	raw  io.Reader
	ctr  cipher.Stream
	hmac hash.Hash
	mac  []byte
}

func (r *layerReader) Read(b []byte) (int, error) {
	n, err := r.raw.Read(b)
	r.hmac.Write(b[:n])
	r.ctr.XORKeyStream(b[:n], b[:n])
	if errors.Is(err, io.EOF) && !hmac.Equal(r.hmac.Sum(nil), r.mac) {
		return 0, lasting("the image's layer is damaged: its HMAC does not agree")
	}
	return n, err
}
